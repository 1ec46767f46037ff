"""Run a command of dgkit in a process of its own and measure its peak memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgkit.bench.memory import DeviceMemory, peak_rss
from dgkit.engines.runner import find_device
from dgkit.errors import EngineError
from dgkit.processes import child_environment

_POLL = 0.05  # seconds between looks at the memory of another process


@dataclass(frozen=True)
class Finished:
    """Stdout of a command, and cells of a row on its memory."""

    printed: str
    memory: dict[str, Any]


def run_dgkit(words: Sequence[str], device: str, variables: Mapping[str, str] | None = None) -> Finished:
    """Run ``dgkit WORDS`` with extra environment variables. Raises EngineError with its last line if it fails."""
    memory = DeviceMemory(find_device(device))
    peak = 0.0
    command = [sys.executable, "-m", "dgkit", *words]
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=printed, stderr=log, env=child_environment(variables or {}))
        while process.poll() is None:
            peak = max(peak, peak_rss(process.pid) or 0.0)
            memory.look()
            time.sleep(_POLL)
        texts = []
        for file in (printed, log):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode:
        raise EngineError(f"dgkit {words[0]}: {_last_line(texts[0] + texts[1])}")
    cells = {key: value for key, value in memory.row().items() if key == "gpu_mib"}
    return Finished(texts[0], {"rss_mib": peak, **cells})


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1]
