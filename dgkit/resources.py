"""What this machine offers: cores, memory, load. psutil is imported on first use, since it takes 30 ms."""

import re
from pathlib import Path


def usable_cores() -> list[int]:
    """Return the numbers of the CPU cores that this process may run on, ascending."""
    import psutil

    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # Linux and Windows
        return sorted(process.cpu_affinity())
    return list(range(psutil.cpu_count() or 1))


def total_memory() -> int:
    """Return the size of the main memory in bytes."""
    import psutil

    return psutil.virtual_memory().total


def available_memory() -> int:
    """Return the bytes of main memory that new processes can take without swapping."""
    import psutil

    return psutil.virtual_memory().available


def load_average() -> float:
    """Return the average number of runnable processes over the last minute."""
    import psutil

    return psutil.getloadavg()[0]


def peak_memory(pid: int | None = None) -> int | None:
    """Return the peak resident memory of a process, by default this one, in bytes; None if the process has ended.

    This is the kernel's high-water mark since the program was started. ``getrusage`` may report the memory of the
    process that started this one, so it is the fallback where there is no ``/proc``, for this process alone.
    """
    import psutil

    status = Path("/proc", "self" if pid is None else str(pid), "status")
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    if pid is not None or psutil.WINDOWS:
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if psutil.MACOS else 1024)
