"""Wrappers around a denoiser; each returns a callable with the same signature, so they combine freely.

``denoise(latents, timestep, text, condition) -> prediction``: float [B, c, h, w], int64 [B], float [B, L, D], float
[B, C, h, w], and float [B, c, h, w].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dgkit.diffusion.tiles import Windows

Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def guided(denoise: Denoise, scale: float, negative: Tensor) -> Denoise:
    """Apply classifier-free guidance, Ho and Salimans 2022: ``u + scale * (c - u)``, both halves in one call.

    ``negative`` float [1, L, D] is the text of the unconditional half; both halves get the condition. A scale of 1
    gives the plain conditional prediction at half the cost.
    """
    if scale == 1.0:
        return denoise

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        both = denoise(
            torch.cat([latents, latents]),
            torch.cat([timestep, timestep]),
            torch.cat([negative.to(text).expand_as(text), text]),
            torch.cat([condition, condition]),
        )
        plain, steered = both.float().chunk(2)
        return plain + scale * (steered - plain)

    return call


def in_batches(denoise: Denoise, size: int, count: Callable[[int], None] | None = None) -> Denoise:
    """Call ``denoise`` with at most ``size`` samples; ``count`` gets the number of samples after each call."""

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        parts = []
        for start in range(0, latents.shape[0], size):
            part = slice(start, start + size)
            parts.append(denoise(latents[part], timestep[part], text[part], condition[part]))
            if count:
                count(parts[-1].shape[0])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return call


def in_padded_batches(denoise: Denoise, step: int, most: int) -> Denoise:
    """Pad a batch of up to ``most`` samples to a multiple of ``step``, or to ``most``, by repeating its last sample.

    This limits the number of batch sizes for networks that are captured once for each size, when images have different
    numbers of windows.
    """

    def call(*tensors: Tensor) -> Tensor:
        count = tensors[0].shape[0]
        missing = min(-count % step, most - count)
        if not missing:
            return denoise(*tensors)
        filled = [torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) for tensor in tensors]
        return denoise(*filled)[:count]

    return call


def tiled(denoise: Denoise, windows: Windows) -> Denoise:
    """Denoise every window and average. ``condition`` belongs to the windows, [N * len(windows), C, th, tw]."""

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        count = len(windows)
        tiles = windows.cut(latents)
        prediction = denoise(tiles, timestep.repeat_interleave(count), text.repeat_interleave(count, dim=0), condition)
        return windows.average(prediction)

    return call


def tiled_each(denoise: Denoise, layouts: Sequence[Windows]) -> Denoise:
    """Do the same as :func:`tiled` for images with different windows; ``condition`` is that of all windows in order."""
    counts = [len(windows) for windows in layouts]
    owner = torch.repeat_interleave(torch.tensor(counts))

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        nonlocal owner
        owner = owner.to(latents.device)  # only once, because a copy from the host waits for the GPU
        images = zip(layouts, latents.split(1), strict=True)
        tiles = torch.cat([windows.cut(image) for windows, image in images])
        prediction = denoise(tiles, timestep[owner], text[owner], condition)
        parts = zip(layouts, prediction.split(counts), strict=True)
        return torch.cat([windows.average(part) for windows, part in parts])

    return call
