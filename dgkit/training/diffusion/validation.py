"""What validation looks at: the loss on fixed samples, and pictures painted with the weights in training.

A ControlNet is looked at on the *prior* UNet, as it will be used. The published validation loads the UNet it was
trained on, and so never shows a swap.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.utils.data import default_collate

from dgkit.data.crops import anchor_box, crop
from dgkit.data.labelmap import colorize, read_label
from dgkit.diffusion.pipeline import one_hot
from dgkit.prompts import caption, compose
from dgkit.training.diffusion.noising import Noising

FIXED = 1 << 40  # first index of the samples that validation uses; no training gets there


class Lossy(Protocol):
    """The part of a task that validation needs."""

    def sample(self, index: int) -> dict[str, Tensor]:
        """One sample."""
        ...

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a batch."""
        ...


@torch.no_grad()
def fixed_loss(task: Lossy, module: nn.Module, count: int, dtype: torch.dtype) -> dict[str, float]:
    """Mean loss of ``count`` samples that are the same at each validation and not those of training; none for 0."""
    if not count:
        return {}
    device = next(module.parameters()).device
    losses = []
    for i in range(count):
        batch = {key: value.to(device) for key, value in default_collate([task.sample(FIXED + i)]).items()}
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            losses.append(float(task.loss(module, batch)))
    return {"loss": sum(losses) / count}


class Painter:
    """Paints pictures with diffusers' own pipelines from ``noising``'s autoencoder, text encoder and noise schedule.

    ``size`` pixels a side, ``steps`` of DDIM.
    """

    def __init__(self, noising: Noising, *, size: int, steps: int, guidance_scale: float, seed: int) -> None:
        self.noising, self.size, self.steps, self.guidance_scale, self.seed = noising, size, steps, guidance_scale, seed

    def paint(
        self,
        unet: UNet2DConditionModel,
        prompt: str,
        controlnet: ControlNetModel | None = None,
        label: np.ndarray | None = None,
    ) -> np.ndarray:
        """uint8 [S,S,3] RGB of ``prompt``; with a ControlNet, of ``label`` uint8 [S,S] train ids too.

        Computed where the network in training is: the ControlNet, or else the UNet.
        """
        trained = unet if controlnet is None else controlnet
        device = next(trained.parameters()).device
        pipeline = self._pipeline(unet, controlnet, device)
        arguments = {}
        if label is not None:
            arguments["image"] = one_hot(torch.from_numpy(np.array(label))[None]).to(device)
        dtype = self.noising.dtype
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            (image,) = pipeline(
                prompt,
                height=self.size,
                width=self.size,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                generator=torch.Generator().manual_seed(self.seed),
                output_type="np",
                **arguments,
            ).images
        return (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)

    def _pipeline(self, unet: UNet2DConditionModel, controlnet: ControlNetModel | None, device: torch.device) -> Any:
        noising = self.noising
        parts = {
            "vae": noising.vae,
            "text_encoder": noising.text.encoder,
            "tokenizer": noising.text.tokenizer,
            "unet": unet,
            "scheduler": noising.schedule,
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        if controlnet is None:
            pipeline = StableDiffusionPipeline(**parts)
        else:
            pipeline = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)

    def rows(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        labels: Sequence[np.ndarray],
        styles: Sequence[str],
    ) -> list[np.ndarray]:
        """One picture a label map uint8 [S,S]: its colours, then a picture a style, uint8 [S, S (1 + styles), 3]."""
        return [
            np.concatenate(
                [
                    colorize(label),
                    *(self.paint(unet, compose(caption(label), style), controlnet, label) for style in styles),
                ],
                axis=1,
            )
            for label in labels
        ]


def middle(path: Path, encoding: str, size: int) -> np.ndarray:
    """The middle of a label map, uint8 [size,size] train ids, 255 where it ends. Raises LabelError."""
    label = read_label(path, encoding)
    height, width = label.shape
    return crop(label, anchor_box(height // 2, width // 2, height, width, size))
