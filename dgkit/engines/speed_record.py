"""What this machine measured: seconds per image and seconds of engine builds, kept in the cache folder.

Each figure is a file of its own, named by everything that it depends on. A file that is damaged, or of another program,
is ignored: the figures only help to choose an engine.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dgkit.engines.machine import device_facts
from dgkit.errors import DgkitError
from dgkit.files import atomic_write, cache_folder, parse_json, read_file
from dgkit.provenance import cpu_name, version
from dgkit.resources import usable_cores

LONGEST = 1e7  # seconds; more is no measurement


class SpeedRecord:
    """The figures of ``subject`` on ``device``; ``subject`` names what the time depends on, such as model and size."""

    def __init__(self, device: str, subject: Mapping[str, Any]) -> None:
        self._facts = {
            "device": device_facts(device), "cpu": cpu_name(), "cores": len(usable_cores()),
            "torch": version("torch"), **subject,
        }  # fmt: skip

    def read(self, engine: str, dtype: str) -> float | None:
        """Return the seconds that were measured for an engine, None if there is no usable file."""
        try:
            seconds = parse_json(read_file(self._path(engine, dtype)))["seconds"]
        except (OSError, ValueError, KeyError, TypeError, DgkitError):
            return None
        usable = type(seconds) in (int, float) and math.isfinite(seconds) and 0 < seconds < LONGEST
        return float(seconds) if usable else None

    def read_all(self, engines: Iterable[str], dtype: str) -> dict[str, float]:
        """Return the seconds of those ``engines`` that were measured."""
        found = {engine: self.read(engine, dtype) for engine in engines}
        return {engine: seconds for engine, seconds in found.items() if seconds is not None}

    def write(self, engine: str, dtype: str, seconds: float) -> None:
        """Keep the lower of ``seconds`` and the earlier figure, since other work only slows a run down."""
        seconds = min(seconds, self.read(engine, dtype) or seconds)
        content = {"engine": engine, "dtype": dtype, "seconds": seconds, **self._facts}
        with suppress(DgkitError, OSError):  # without a cache folder the table decides
            atomic_write(self._path(engine, dtype), json.dumps(content, default=str).encode())

    def _path(self, engine: str, dtype: str) -> Path:
        facts = json.dumps([self._facts, engine, dtype], sort_keys=True, default=str)
        return cache_folder() / "speeds" / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json"
