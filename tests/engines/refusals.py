"""Runners that refuse to open."""

import re

import pytest

from dgkit.engines.runner import Runner
from dgkit.errors import EngineError


def hint_of_refusal(runner: Runner, message: str) -> str:
    """Check that opening ``runner`` is an error that begins with ``message``, and return its hint."""
    with pytest.raises(EngineError, match=re.escape(message)) as caught:
        runner.__enter__()
    return caught.value.hint
