"""Wrappers around one callable, each returning the same kind of callable, so that none knows the others.

``denoise(latents, timestep, text, condition) -> prediction``: float [B, c, h, w], int64 [B], float [B, L, D], float
[B, C, h, w], and float [B, c, h, w].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dgkit.diffusion.tiles import Windows

Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def guided(denoise: Denoise, scale: float, negative: Tensor) -> Denoise:
    """Classifier-free guidance, Ho and Salimans 2022: ``u + scale * (c - u)``, both halves in one call.

    ``negative`` float [1, L, D] is the text of the unconditional half; both halves get the condition. A scale of 1 is
    the plain conditional prediction and costs half.
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


def in_batches(denoise: Denoise, size: int, done: Callable[[int], None] | None = None) -> Denoise:
    """Calls ``denoise`` with at most ``size`` samples at once; ``done`` hears the number of samples after each call."""

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        parts = []
        for start in range(0, latents.shape[0], size):
            part = slice(start, start + size)
            parts.append(denoise(latents[part], timestep[part], text[part], condition[part]))
            if done:
                done(parts[-1].shape[0])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return call


def in_steps(denoise: Denoise, step: int, most: int) -> Denoise:
    """Calls ``denoise``, for up to ``most`` samples, with a multiple of ``step`` of them or with ``most``: the last one
    is repeated, and what that adds is dropped.

    For networks that are recorded once for each batch size, where images have windows of different number.
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
    """Denoises every window and averages. ``condition`` is that of the windows, [N * len(windows), C, th, tw]."""

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        count = len(windows)
        tiles = windows.cut(latents)
        prediction = denoise(tiles, timestep.repeat_interleave(count), text.repeat_interleave(count, dim=0), condition)
        return windows.average(prediction)

    return call


def tiled_each(denoise: Denoise, layouts: Sequence[Windows]) -> Denoise:
    """As :func:`tiled` where each image has windows of its own; ``condition`` is that of all windows, in order."""
    counts = [len(windows) for windows in layouts]
    owner = torch.repeat_interleave(torch.tensor(counts))

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        nonlocal owner
        owner = owner.to(latents.device)  # moved once: a copy from the host waits for all that a GPU has to do
        images = zip(layouts, latents.split(1), strict=True)
        tiles = torch.cat([windows.cut(image) for windows, image in images])
        prediction = denoise(tiles, timestep[owner], text[owner], condition)
        parts = zip(layouts, prediction.split(counts), strict=True)
        return torch.cat([windows.average(part) for windows, part in parts])

    return call
