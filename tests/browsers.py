"""Chromium for tests: the program that ``$CHROMIUM`` names, the system's, or playwright's own."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

SYSTEM = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yield a headless browser of playwright; skip the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, SYSTEM)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except sync_api.Error as error:
            reason = f"{program} does not start" if program else "apt-get install chromium, or name it with $CHROMIUM"
            pytest.skip(f"needs Chromium: {reason} ({str(error).splitlines()[0]})")
        yield opened
        opened.close()
