"""Peak memory of a process and of a GPU, in MiB."""

import re
import resource
import sys
from pathlib import Path

import torch

MIB = 2**20


def peak_rss(pid: int | None = None) -> float | None:
    """Peak resident memory of a process, by default this one, since its program was started.

    The kernel's own high-water mark: what ``getrusage`` says may be the memory of the process that started this one. It
    is used where there is no ``/proc``, for this process alone.
    """
    status = Path("/proc", "self" if pid is None else str(pid), "status")
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1024
    if pid is not None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


class DeviceMemory:
    """Memory of a GPU that is taken from now on; no figures on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.init()  # before it the allocator has no statistics to reset
        self._before = self._free() if device.type == "cuda" else 0
        self.forget()

    def forget(self) -> None:
        """Peaks start at what is taken now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._least = self._free()

    def look(self) -> None:
        """Remember how much is taken now; called where it is most."""
        if self.device.type == "cuda":
            self._least = min(self._least, self._free())

    def row(self) -> dict[str, float]:
        """``torch_mib``, the peak of torch's allocator, and ``gpu_mib``, the most at any look."""
        if self.device.type != "cuda":
            return {}
        self.look()
        peak = torch.cuda.max_memory_allocated(self.device)
        return {"torch_mib": peak / MIB, "gpu_mib": (self._before - self._least) / MIB}

    def _free(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0]
