"""Fine-tuning the UNet of a latent diffusion model (DGInStyle's U^S; Rombach et al. 2022)."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgkit.prompts import compose
from dgkit.training.diffusion.diffusion_recipes import Lora
from dgkit.training.diffusion.lora import add_lora, merge_lora
from dgkit.training.diffusion.losses import diffusion_loss
from dgkit.training.diffusion.noising import CHANNELS_LAST, Noising
from dgkit.training.diffusion.starting_model import Model, replace_folder, save_network
from dgkit.training.diffusion.validation import Painter, fixed_loss


class LdmTask:
    """Trains ``unet`` in place on the pictures or latents of ``noising``'s feed; autoencoder and text stay frozen.

    With ``lora`` adapters are trained; :meth:`finish` merges them. ``prompts`` are painted at each validation.
    """

    name = "ldm"
    parameter_scale = ("", 1.0)

    def __init__(
        self,
        unet: UNet2DConditionModel,
        noising: Noising,
        *,
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,
        painter: Painter | None = None,
        prompts: tuple[str, ...] = (),
        checked: int = 0,
    ) -> None:
        self.noising, self.lora, self.painter, self.prompts, self.checked = noising, lora, painter, prompts, checked
        self.identity = {**noising.identity, "lora": lora.model_dump(mode="json") if lora else None}
        self.module: nn.Module = unet.to(memory_format=CHANNELS_LAST).train().requires_grad_(True)
        if lora:
            add_lora(unet, lora.rank, lora.alpha, lora.targets)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()

    def place(self, device: torch.device) -> None:
        """Move the frozen networks."""
        self.noising.place(device)

    def describe(self, index: int) -> str:
        """See :meth:`Noising.describe`."""
        return self.noising.describe(index)

    def sample(self, index: int) -> dict[str, Tensor]:
        """See :meth:`Noising.sample`."""
        return self.noising.sample(index)

    def encode(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Noising.encode`."""
        return self.noising.encode(batch)

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of the predicted noise or v; scalar."""
        noised = self.noising.batch(batch)
        prediction = module(noised.latents, noised.timesteps, noised.text, return_dict=False)[0]
        return diffusion_loss(prediction, noised.target, noised.weights)

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """The loss on fixed samples, how far the style word moves the prediction, and a picture a prompt."""
        with torch.no_grad():
            figures: dict[str, float | np.ndarray] = dict(fixed_loss(self, module, self.checked, self.noising.dtype))
            figures["text_effect"] = text_effect(module, self.noising)
        if self.painter:
            for i, prompt in enumerate(self.prompts):
                figures[f"prompt_{i}"] = self.painter.paint(module, prompt)
        return figures

    def finish(self, folder: Path) -> None:
        """Merge the adapters, if there are any, and keep them in ``folder/lora``."""
        if self.lora:
            merge_lora(self.module, folder / "lora")


def write_pipeline(unet: UNet2DConditionModel, model: Model, out: Path) -> None:
    """Write ``unet`` with the rest of ``model`` as a diffusers pipeline folder; each part is complete or absent.

    ``model_index.json``, by which a pipeline is known, comes last.
    """
    staging = out / "training" / "rest"
    replace_folder(staging, model.write_rest)
    replace_folder(out / "unet", lambda folder: save_network(unet, folder))
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "model_index.json"):
        if path.is_dir():
            shutil.rmtree(out / path.name, ignore_errors=True)
        path.replace(out / path.name)
    staging.rmdir()


@torch.no_grad()
def text_effect(unet: Any, noising: Noising) -> float:
    """How much the style word moves the prediction at high noise, relative to the prediction: near 0 is a collapse.

    The loss alone hides a model that ignores its prompt.
    """
    device = next(unet.parameters()).device
    tile = unet.config.sample_size
    noise = torch.randn(4, unet.config.in_channels, tile, tile, generator=torch.Generator().manual_seed(0)).to(device)
    prompts = [compose("road building sky", style) for style in ("snowy", "night")]
    time = int(0.9 * noising.schedule.config.num_train_timesteps)
    with torch.autocast(device.type, noising.dtype, enabled=noising.dtype != torch.float32):
        snowy, night = (unet(noise, time, noising.text([prompt] * 4).float()).sample.float() for prompt in prompts)
    return float((snowy - night).norm() / night.norm())
