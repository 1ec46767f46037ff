"""Peak rates of the device in PyTorch: matrix products, 3x3 convolutions and copies."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dgkit.bench.bench_config import BenchTask
from dgkit.bench.task_process import reason
from dgkit.bench.timing import time_calls
from dgkit.engines.runner import find_device, find_dtype

CHANNELS = 320  # of Stable Diffusion's first level, where its convolutions are largest
SECONDS = 3.0  # per ceiling
_EDGES = {"cpu": 4096, "cuda": 8192}


def measure_ceilings(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield the cells of each ceiling in one dtype, with the rate of the fastest call.

    ``matmul``: square matrices of ``edge``. ``conv3x3``: 320 channels in and out on maps of edge / 64 a side,
    channels-last, in a batch of about the flops of the matmul. ``copy``: ``edge`` squared numbers; bytes read and
    written.
    """
    device, dtype = find_device(task.device), find_dtype(task.dtype)
    edge = task.edge or _EDGES[device.type]
    torch.manual_seed(0)
    with torch.inference_mode():
        for name, make in _MAKE.items():
            try:
                call, operations, volume = make(edge, device, dtype)
                times = time_calls(call, device, task.repeats, min(task.seconds, SECONDS))
            except Exception as error:  # a device may support one and not another
                yield {"network": name, "error": reason(error)}
                continue
            rate = {"tflops": operations / times.least / 1e9} if operations else {"gbytes": volume / times.least / 1e6}
            yield {"network": name, **times.row(1), **rate}


_Ceiling = tuple[Callable[[], object], int, int]  # a call, its floating-point operations, the bytes it moves


def _matmul(edge: int, device: torch.device, dtype: torch.dtype) -> _Ceiling:
    first, second = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(first)
    return lambda: torch.mm(first, second, out=result), 2 * edge**3, 0


def _conv(edge: int, device: torch.device, dtype: torch.dtype) -> _Ceiling:
    side = max(1, edge // 64)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device).to(dtype)
    each = 2 * side**2 * weight.numel()
    batch = max(1, round(2 * edge**3 / each))
    maps = torch.randn(batch, CHANNELS, side, side, device=device).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda: torch.nn.functional.conv2d(maps, weight, padding=1), batch * each, 0


def _copy(edge: int, device: torch.device, dtype: torch.dtype) -> _Ceiling:
    source = torch.randn(edge, edge, device=device).to(dtype)
    target: Tensor = torch.empty_like(source)
    return lambda: target.copy_(source), 0, 2 * source.numel() * source.element_size()


_MAKE = {"matmul": _matmul, "conv3x3": _conv, "copy": _copy}
