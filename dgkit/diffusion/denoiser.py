"""Wrappers around a denoiser; each returns a callable with the same signature, so they combine freely.

``denoise(latents, timestep, text, condition, **added) -> prediction``: float [B, c, h, w], int64 [B], float [B, L, D],
float [B, C, h, w], and float [B, c, h, w]. ``added`` are the tensors that a family of models needs in addition, by the
names of :data:`dgkit.engines.spec.ADDED`; the first axis of each is that of ``text``.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dgkit.diffusion.tiles import Windows


class Denoise(Protocol):
    """A network, or a wrapper around one, see the top of this module."""

    def __call__(self, latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, **added: Tensor) -> Tensor:
        """Return the prediction."""
        ...


def guided(denoise: Denoise, scale: float) -> Denoise:
    """Apply classifier-free guidance, Ho and Salimans 2022: ``u + scale * (c - u)``, both halves in one call.

    The result takes ``text`` and ``added`` tensors of both halves of a sample, [B, 2, ...]: those of the negative
    prompt, then those of the prompt. Both halves get the condition.
    """

    def pair(values: Tensor) -> Tensor:
        return torch.cat(values.unbind(1))

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, **added: Tensor) -> Tensor:
        both = denoise(
            torch.cat([latents, latents]),
            torch.cat([timestep, timestep]),
            pair(text),
            torch.cat([condition, condition]),
            **{name: pair(value) for name, value in added.items()},
        )
        plain, steered = both.float().chunk(2)
        return plain + scale * (steered - plain)

    return call


def in_batches(denoise: Denoise, size: int, count: Callable[[int], None] | None = None) -> Denoise:
    """Call ``denoise`` with at most ``size`` samples; ``count`` gets the number of samples after each call."""

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, **added: Tensor) -> Tensor:
        parts = []
        for start in range(0, latents.shape[0], size):
            part = slice(start, start + size)
            rest = {name: value[part] for name, value in added.items()}
            parts.append(denoise(latents[part], timestep[part], text[part], condition[part], **rest))
            if count:
                count(parts[-1].shape[0])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return call


def in_padded_batches(denoise: Denoise, step: int, most: int) -> Denoise:
    """Pad a batch of up to ``most`` samples to a multiple of ``step``, or to ``most``, by repeating its last sample.

    This limits the number of batch sizes for networks that are captured once for each size, when images have different
    numbers of windows.
    """

    def call(*tensors: Tensor, **added: Tensor) -> Tensor:
        count = tensors[0].shape[0]
        missing = min(-count % step, most - count)
        if not missing:
            return denoise(*tensors, **added)

        def fill(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])

        return denoise(*map(fill, tensors), **{name: fill(value) for name, value in added.items()})[:count]

    return call


def tiled(denoise: Denoise, windows: Windows) -> Denoise:
    """Denoise every window and average. ``condition`` belongs to the windows, [N * len(windows), C, th, tw]."""
    count = len(windows)

    def repeat(value: Tensor) -> Tensor:
        return value.repeat_interleave(count, dim=0)

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, **added: Tensor) -> Tensor:
        rest = {name: repeat(value) for name, value in added.items()}
        return windows.average(denoise(windows.cut(latents), repeat(timestep), repeat(text), condition, **rest))

    return call


def tiled_each(denoise: Denoise, layouts: Sequence[Windows]) -> Denoise:
    """Do the same as :func:`tiled` for images with different windows; ``condition`` is that of all windows in order."""
    counts = [len(windows) for windows in layouts]
    owner = torch.repeat_interleave(torch.tensor(counts))

    def call(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, **added: Tensor) -> Tensor:
        nonlocal owner
        owner = owner.to(latents.device)  # only once, because a copy from the host waits for the GPU
        images = zip(layouts, latents.split(1), strict=True)
        tiles = torch.cat([windows.cut(image) for windows, image in images])
        rest = {name: value[owner] for name, value in added.items()}
        prediction = denoise(tiles, timestep[owner], text[owner], condition, **rest)
        parts = zip(layouts, prediction.split(counts), strict=True)
        return torch.cat([windows.average(part) for windows, part in parts])

    return call
