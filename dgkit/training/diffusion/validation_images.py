"""Validation images, painted with the weights in training.

A ControlNet is validated on the *prior* UNet, as it will be used. The published validation loads the UNet the
ControlNet was trained on and so never shows a swap.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from dgkit.data.crops import anchor_box, crop
from dgkit.data.labelmap import colorize, read_label
from dgkit.diffusion.pipeline import one_hot
from dgkit.prompts import caption, compose
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from dgkit.training.diffusion.noising import Noising


class ImagePainter:
    """Paints images of ``size`` pixels with ``steps`` DDIM steps in diffusers' own pipelines.

    Autoencoder, text encoder and noise schedule are those of ``noising``.
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
        """Return an image of ``prompt``, uint8 [S,S,3] RGB; with a ControlNet also of ``label`` uint8 [S,S] train ids.

        It is computed on the device of the network in training: the ControlNet, or else the UNet.
        """
        trained = unet if controlnet is None else controlnet
        device = next(trained.parameters()).device
        pipeline = self._pipeline(unet, controlnet, device)
        arguments = {}
        if label is not None:
            arguments["image"] = one_hot(torch.from_numpy(np.array(label))[None], self.noising.taxonomy.channels).to(
                device
            )
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
        text = self.noising.text
        parts = {"vae": self.noising.vae, "unet": unet, "scheduler": self.noising.schedule}
        if controlnet is not None:
            parts["controlnet"] = controlnet
        if text.pair:
            plain, steered = StableDiffusionXLPipeline, StableDiffusionXLControlNetPipeline
            parts |= {
                "text_encoder": text.encoder.first,
                "text_encoder_2": text.encoder.second,
                "tokenizer": text.tokenizer.first,
                "tokenizer_2": text.tokenizer.second,
                "force_zeros_for_empty_prompt": text.zero_empty,
                "add_watermarker": False,
            }
        else:
            plain, steered = StableDiffusionPipeline, StableDiffusionControlNetPipeline
            parts |= {"text_encoder": text.encoder, "tokenizer": text.tokenizer}
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = (plain if controlnet is None else steered)(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)

    def rows(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        labels: Sequence[np.ndarray],
        styles: Sequence[str],
    ) -> list[np.ndarray]:
        """Return per label map uint8 [S,S] its colours and one image per style, uint8 [S, S (1 + styles), 3]."""
        rows, taxonomy = [], self.noising.taxonomy
        for label in labels:
            names = caption(label, taxonomy.prompt_names)
            images = [self.paint(unet, compose(names, style), controlnet, label) for style in styles]
            rows.append(np.concatenate([colorize(label, taxonomy), *images], axis=1))
        return rows


def central_crop(path: Path, encoding: str, size: int, taxonomy: Taxonomy = CITYSCAPES19) -> np.ndarray:
    """Read the middle of a label map, uint8 [size,size] train ids, padded with 255. Raises LabelError."""
    label = read_label(path, encoding, taxonomy)
    height, width = label.shape
    return crop(label, anchor_box(height // 2, width // 2, height, width, size))
