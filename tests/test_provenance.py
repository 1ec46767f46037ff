"""The provenance recorded with a result."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy
import pytest

from dgkit import provenance


def test_versions_are_those_of_the_imported_packages() -> None:
    found = provenance.versions()
    assert found["numpy"] == numpy.__version__
    assert None not in found.values()


def test_record_is_plain_data() -> None:
    record = provenance.record()
    assert json.loads(json.dumps(record)) == record
    assert set(record) == {"versions", "commit", "python", "platform", "cpu"}
    assert record["cpu"]


def make_checkout(folder: Path) -> Path:
    """A git checkout that looks like the project's; returns the place of provenance.py in it."""
    module = folder / "dgkit" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    (folder / "pyproject.toml").write_text("")
    commit = ["commit", "-q", "-m", "x"]
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, *commit]):
        subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
    return module


def test_commit_of_a_checkout_and_its_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make_checkout(tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(module))
    clean = provenance.git_commit()
    assert clean is not None and re.fullmatch(r"[0-9a-f]{40}", clean)
    module.write_text("changed")
    assert provenance.git_commit() == clean + "-dirty"


def test_no_commit_outside_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # dgkit installed into an environment that lies inside somebody else's repository.
    make_checkout(tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "venv" / "site-packages" / "dgkit" / "provenance.py"))
    assert provenance.git_commit() is None
