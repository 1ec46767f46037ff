from __future__ import annotations

import torch
from torch import Tensor

from dgkit.diffusion.denoiser import guided, in_batches, in_padded_batches, tiled, tiled_each
from dgkit.diffusion.tiles import Windows, make_windows


class Probe:
    """Prediction = latents + mean of the text + condition; records the batch size of every call."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        assert latents.shape[0] == timestep.shape[0] == text.shape[0] == condition.shape[0]
        self.sizes.append(latents.shape[0])
        return latents + text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1) + condition


def inputs(batch: int, height: int = 4, width: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    latents = torch.randn(batch, 2, height, width, generator=generator)
    text = torch.randn(batch, 3, 5, generator=generator)
    condition = torch.randn(batch, 2, height, width, generator=generator)
    return latents, torch.full((batch,), 7), text, condition


def test_guidance_formula() -> None:
    probe, (latents, timestep, text, condition) = Probe(), inputs(3)
    negative = torch.tensor([0.25, 0.5, 0.75]).reshape(3, 1, 1).expand_as(text)  # each sample has its own
    found = guided(probe, 7.5)(latents, timestep, torch.stack([negative, text], 1), condition)
    plain = latents + negative.mean(dim=(1, 2)).reshape(-1, 1, 1, 1) + condition
    steered = latents + text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1) + condition
    assert torch.allclose(found, plain + 7.5 * (steered - plain), atol=1e-5)
    assert probe.sizes == [6]


def test_batches_change_nothing() -> None:
    arguments, told = inputs(7), []
    whole = Probe()(*arguments)
    for size, sizes in ((1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (50, [7])):
        probe = Probe()
        told.clear()
        assert torch.equal(in_batches(probe, size, told.append)(*arguments), whole)
        assert probe.sizes == sizes == told


def test_tiles_of_all_images_go_together() -> None:
    windows = make_windows(6, 8, tile=4, stride=2)
    probe, (latents, timestep, text, condition) = Probe(), inputs(2, 6, 8)
    found = tiled(probe, windows)(latents, timestep, text, windows.cut(condition))
    assert probe.sizes == [2 * len(windows)] and len(windows) == 6
    assert torch.allclose(found, Probe()(latents, timestep, text, condition), atol=1e-6)


def test_windows_of_each_image_go_together() -> None:
    layouts = [Windows(6, 8, 4, 4, ((0, 0), (2, 4))), Windows(6, 8, 4, 4, ((1, 3),))]
    probe, (latents, timestep, text, condition) = Probe(), inputs(2, 6, 8)
    timestep[1] = 3
    cut = torch.cat([layout.cut(one) for layout, one in zip(layouts, condition.split(1), strict=True)])
    found = tiled_each(probe, layouts)(latents, timestep, text, cut)
    assert probe.sizes == [3]
    for row, layout in enumerate(layouts):
        one = [tensor[row : row + 1] for tensor in (latents, timestep, text, condition)]
        alone = tiled(Probe(), layout)(*one[:3], layout.cut(one[3]))
        assert torch.equal(found[row], alone[0])


def test_equal_windows_give_equal_averages() -> None:
    windows = make_windows(6, 8, tile=4, stride=2)
    latents, timestep, text, condition = inputs(2, 6, 8)
    arguments = (latents, timestep, text, windows.cut(condition))
    each = tiled_each(Probe(), [windows, windows])(*arguments)
    assert torch.equal(each, tiled(Probe(), windows)(*arguments))


def test_padded_batches_change_nothing_else() -> None:
    arguments = inputs(5)
    for step, most, size in ((1, 8, 5), (2, 8, 6), (4, 8, 8), (4, 7, 7), (5, 5, 5), (64, 64, 64)):
        probe = Probe()
        assert torch.equal(in_padded_batches(probe, step, most)(*arguments), Probe()(*arguments))
        assert probe.sizes == [size]


def test_added_tensors_follow_the_text() -> None:
    """Guidance, batches and windows treat ``added`` tensors as they treat the text: one of each half."""
    windows = make_windows(6, 8, tile=4, stride=2)
    latents, timestep, text, condition = inputs(2, 6, 8)
    added = {"text_embeds": text[:, 0], "time_ids": text[:, 1]}
    negative = {"text_embeds": torch.full((2, 5), 0.5), "time_ids": added["time_ids"]}
    both = {name: torch.stack([negative[name], value], 1) for name, value in added.items()}
    texts = torch.stack([torch.zeros_like(text), text], 1)

    def network(latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, **added: Tensor) -> Tensor:
        means = [value.mean(dim=1).reshape(-1, 1, 1, 1) for value in (text.flatten(1), *added.values())]
        return latents + means[0] + 2 * means[1] + 4 * means[2] + condition

    plain = network(latents, timestep, torch.zeros_like(text), condition, text_embeds=torch.full((2, 5), 0.5),
                    time_ids=added["time_ids"])  # fmt: skip
    expected = plain + 3.0 * (network(latents, timestep, text, condition, **added) - plain)
    wrapped = guided(in_batches(in_padded_batches(network, 4, 8), 5), 3.0)
    for tiling in (tiled(wrapped, windows), tiled_each(wrapped, [windows, windows])):
        found = tiling(latents, timestep, texts, windows.cut(condition), **both)
        assert torch.allclose(found, expected, atol=1e-5)
