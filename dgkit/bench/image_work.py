"""The floating-point operations of an image: the network calls of a preset, times the operations of each call."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

import numpy as np
from torch import nn

from dgkit.bench.network_speed import count_flops
from dgkit.diffusion.components import model_networks
from dgkit.diffusion.model_folder import ModelSource
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampling_plan import SamplingPlan

Call = tuple[str, int, int]
"""A network, and height and width of its latents in cells."""


class ImageWork:
    """Counts the floating-point operations of images that ``preset`` makes with ``model``.

    The text encoder is left out: it runs once for each distinct prompt. Networks are counted as PyTorch runs them; see
    :func:`~dgkit.bench.network_speed.count_flops` for what counts.
    """

    def __init__(self, model: ModelSource, preset: Preset) -> None:
        self.plan, self.preset, self.info = SamplingPlan(preset, model.info), preset, model.info
        self.networks = model_networks(model)
        self._modules: dict[str, nn.Module] = {}
        self._known: dict[Call, float] = {}

    def mean(self, labels: Iterable[np.ndarray]) -> float:
        """Return the mean operations of an image over ``labels``, each uint8 [H, W] of train ids."""
        return float(np.mean([self.image(label) for label in labels]))

    def image(self, label: np.ndarray) -> float:
        """Return the operations of one image of ``label``, uint8 [H, W] of train ids."""
        return sum(samples * self._operations(call) for call, samples in self.calls(label).items())

    def calls(self, label: np.ndarray) -> Counter[Call]:
        """Return the samples of each call for one image of ``label``, without a retry in fp32."""
        redraw = self.plan.redraw(label) if self.preset.two_pass else None
        windows = [self.plan.windows(label.shape, 1), *([redraw.windows] if redraw and len(redraw.windows) else [])]
        tile = (windows[0].tile_height, windows[0].tile_width)
        calls: Counter[Call] = Counter({("denoiser", *tile): self.plan.cost(label, redraw).total})
        calls["condition", *tile] = sum(map(len, windows))
        once, again = ((layout.height, layout.width) for layout in (windows[0], windows[-1]))
        if once == again or self.preset.bridge == "image":
            calls["vae_decoder", *once] = 1
        if once != again:
            calls["vae_decoder", *again] = 1
            calls["vae_encoder", *again] = int(self.preset.bridge == "image")
        return +calls

    def _operations(self, call: Call) -> float:
        """Return the operations of one sample."""
        if call not in self._known:
            name, height, width = call
            network, factor = self.networks[name], self.info.vae_factor
            pixels = {"image_height": height * factor, "image_width": width * factor}
            sizes = {**network.sizes, "height": height, "width": width, **pixels}
            if name not in self._modules:
                self._modules[name] = network.load().to("meta").float().eval()
            self._known[call] = count_flops(dataclasses.replace(network, sizes=sizes), self._modules[name])
        return self._known[call]
