"""Peak memory of a process and of a GPU, in MiB."""

import torch

from dgkit.resources import peak_memory

MIB = 2**20


def peak_rss(pid: int | None = None) -> float | None:
    """Return the peak resident memory of a process, by default this one; None if it has ended."""
    peak = peak_memory(pid)
    return None if peak is None else peak / MIB


class DeviceMemory:
    """Memory of a GPU that is allocated after the creation of this object; no figures on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.init()  # else the allocator has no statistics to reset
        self._before = self._free() if device.type == "cuda" else 0
        self.forget()

    def forget(self) -> None:
        """Reset the peaks to what is allocated now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._least = self._free()

    def look(self) -> None:
        """Update the peak of the device; to be called while much is allocated."""
        if self.device.type == "cuda":
            self._least = min(self._least, self._free())

    def row(self) -> dict[str, float]:
        """Return ``torch_mib``, the peak of torch's allocator, and ``gpu_mib``, the highest value at any look."""
        if self.device.type != "cuda":
            return {}
        self.look()
        peak = torch.cuda.max_memory_allocated(self.device)
        return {"torch_mib": peak / MIB, "gpu_mib": (self._before - self._least) / MIB}

    def _free(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0]
