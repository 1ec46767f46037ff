"""Fine-tuning the UNet of a latent diffusion model (DGInStyle's U^S; Rombach et al. 2022)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgkit.prompts import compose
from dgkit.training.diffusion.diffusion_recipes import Lora
from dgkit.training.diffusion.diffusion_task import DiffusionTask
from dgkit.training.diffusion.lora import add_lora, merge_lora
from dgkit.training.diffusion.losses import diffusion_loss
from dgkit.training.diffusion.model_files import move_contents, replace_folder, save_network
from dgkit.training.diffusion.noising import Noising
from dgkit.training.diffusion.starting_model import StartingModel
from dgkit.training.diffusion.validation_images import ImagePainter
from dgkit.training.loop.task import Tensors


class LdmTask(DiffusionTask):
    """Trains ``unet`` in place on the images or latents of ``noising``'s feed; autoencoder and text encoder are frozen.

    With ``lora`` only adapters are trained; :meth:`finish` merges them. Each validation paints ``prompts``.
    """

    name = "ldm"

    def __init__(
        self,
        unet: UNet2DConditionModel,
        noising: Noising,
        *,
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,
        painter: ImagePainter | None = None,
        prompts: tuple[str, ...] = (),
        validation_samples: int = 0,
    ) -> None:
        super().__init__(unet, noising, validation_samples)
        self.lora, self.painter, self.prompts = lora, painter, prompts
        if lora:
            noising.add_frozen(unet)
        self.identity = {**noising.identity, "lora": lora.model_dump(mode="json") if lora else None}
        if lora:
            add_lora(unet, lora.rank, lora.alpha, lora.targets)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()

    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        """Return the mean squared error of the predicted noise or v, a scalar."""
        noised = self.noising.batch(batch)
        inputs = (noised.latents, noised.timesteps, noised.text)
        prediction = module(*inputs, added_cond_kwargs=noised.added, return_dict=False)[0]
        return diffusion_loss(prediction, noised.target, noised.weights)

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """Return the loss on fixed samples, the effect of the style word, and one image per prompt."""
        results: dict[str, float | np.ndarray] = dict(self.validation_loss(module))
        results["text_effect"] = text_effect(module, self.noising)
        if self.painter:
            for i, prompt in enumerate(self.prompts):
                results[f"prompt_{i}"] = self.painter.paint(module, prompt)
        return results

    def finish(self, folder: Path) -> list[Path]:
        """Merge the adapters, if there are any, into the UNet; return the folder ``folder/lora`` that holds them."""
        if not self.lora:
            return []
        merge_lora(self.module, folder / "lora")
        return [folder / "lora"]


def write_pipeline(unet: UNet2DConditionModel, model: StartingModel, out: Path) -> list[Path]:
    """Write ``unet`` with the rest of ``model`` as a diffusers pipeline folder; each part is complete or absent.

    ``model_index.json``, which identifies a pipeline, is removed first and written last. Returns the files and folders
    of the pipeline.
    """
    staging = out / "training" / "rest"
    replace_folder(staging, model.write_rest)
    (out / "model_index.json").unlink(missing_ok=True)
    replace_folder(out / "unet", lambda folder: save_network(unet, folder))
    return [out / "unet", *move_contents(staging, out, last="model_index.json")]


@torch.no_grad()
def text_effect(unet: Any, noising: Noising) -> float:
    """Return how much the style word changes the prediction at high noise, relative to the prediction.

    A value near 0 means that the model ignores its prompt, which the loss does not show.
    """
    device = next(unet.parameters()).device
    tile = unet.config.sample_size
    noise = torch.randn(4, unet.config.in_channels, tile, tile, generator=torch.Generator().manual_seed(0)).to(device)
    prompts = [compose("road building sky", style) for style in ("snowy", "night")]
    time = int(0.9 * noising.schedule.config.num_train_timesteps)
    side = float(tile * noising.factor)
    sizes = torch.tensor([side, side, 0.0, 0.0, side, side], device=device).expand(4, -1)

    def predict(prompt: str) -> Tensor:
        encoded = noising.text([prompt] * 4)
        added = noising.added(encoded["text_embeds"], sizes) if noising.text.pair else None
        return unet(noise, time, encoded["text"].float(), added_cond_kwargs=added).sample.float()

    with torch.autocast(device.type, noising.dtype, enabled=noising.dtype != torch.float32):
        snowy, night = map(predict, prompts)
    return float((snowy - night).norm() / night.norm())
