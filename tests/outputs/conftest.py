"""A generated folder, made once and never changed."""

from pathlib import Path

import pytest

from tests.generated import make_generated


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_generated(tmp_path_factory.mktemp("generated") / "scenes")
