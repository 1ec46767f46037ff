"""Training a ControlNet: label maps steer a frozen UNet (Zhang et al. 2023; DGInStyle, controlnet/train.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from dgkit.labels import CONDITION_CHANNELS
from dgkit.training.diffusion.diffusion_task import DiffusionTask
from dgkit.training.diffusion.losses import diffusion_loss
from dgkit.training.diffusion.noising import CHANNELS_LAST, Noising, move_module
from dgkit.training.diffusion.reward import Reward
from dgkit.training.diffusion.validation_images import ImagePainter
from dgkit.training.loop.task import Tensors

WIDTHS = (16, 32, 96, 256)  # of the condition encoder in Stable Diffusion's ControlNets


def condition_widths(factor: int) -> tuple[int, ...]:
    """Return the widths of the condition encoder for an autoencoder of ``factor``, a power of two."""
    levels = factor.bit_length()
    return (*WIDTHS[:1] * (levels - len(WIDTHS)), *WIDTHS[-levels:])


def build_controlnet(
    unet: UNet2DConditionModel, widths: tuple[int, ...], channels: int = CONDITION_CHANNELS
) -> ControlNetModel:
    """Return a ControlNet of ``channels`` condition channels, its encoder copied from ``unet`` (DGInStyle: U^S).

    ``widths`` of the condition encoder: it shrinks a label map 2^(len - 1) times, as the autoencoder does images.
    """
    return ControlNetModel.from_unet(unet, conditioning_channels=channels, conditioning_embedding_out_channels=widths)


class ControlNetTask(DiffusionTask):
    """Trains ``controlnet`` in place on the frozen ``unet`` (DGInStyle: U^S) and the label maps of ``noising``'s feed.

    Each validation paints every label map of ``labels``, uint8 [S,S], in every style on ``prior``, the UNet that the
    ControlNet will be swapped onto. ``zero_conv_lr`` is the relative learning rate of the zero convolutions. ``reward``
    adds its term to the loss.
    """

    name = "controlnet"

    def __init__(
        self,
        controlnet: ControlNetModel,
        unet: UNet2DConditionModel,
        noising: Noising,
        *,
        zero_conv_lr: float = 1.0,
        reward: Reward | None = None,
        gradient_checkpointing: bool = False,
        painter: ImagePainter | None = None,
        prior: UNet2DConditionModel | None = None,
        labels: Sequence[np.ndarray] = (),
        styles: Sequence[str] = (),
        validation_samples: int = 0,
    ) -> None:
        super().__init__(controlnet, noising, validation_samples)
        self.painter, self.labels, self.styles = painter, labels, styles
        noising.add_frozen(unet)
        self.identity = {**noising.identity, "zero_conv_lr": zero_conv_lr}
        self.reward = reward
        if reward is not None:
            self.identity["teacher"] = reward.digest
        self.parameter_scale = ("controlnet_down_blocks", zero_conv_lr)
        self.unet = unet.eval().requires_grad_(False).to(memory_format=CHANNELS_LAST)
        move_module(unet, torch.device("cpu"), noising.dtype)
        self.prior = unet if prior is None else prior
        if gradient_checkpointing:
            controlnet.enable_gradient_checkpointing()
            unet.enable_gradient_checkpointing()

    def place(self, device: torch.device) -> None:
        """Move the frozen networks; a separate ``prior`` is moved when it paints."""
        super().place(device)
        self.unet.to(device)
        if self.reward is not None:
            self.reward.to(device)

    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        """Return the mean squared error of the UNet's prediction with the ControlNet's residuals, a scalar.

        With a reward, its term is added.
        """
        noised = self.noising.batch(batch)
        inputs = (noised.latents, noised.timesteps, noised.text)
        down, middle = module(*inputs, noised.condition, added_cond_kwargs=noised.added, return_dict=False)
        prediction = self.unet(
            *inputs,
            added_cond_kwargs=noised.added,
            down_block_additional_residuals=[residual.to(self.noising.dtype) for residual in down],
            mid_block_additional_residual=middle.to(self.noising.dtype),
            return_dict=False,
        )[0]
        loss = diffusion_loss(prediction, noised.target, noised.weights)
        if self.reward is None:
            return loss
        return loss + self.reward(prediction, noised.latents, noised.timesteps, batch["label"])

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """Return the loss on fixed samples, and per label map a row of its colours and one image per style."""
        results: dict[str, float | np.ndarray] = dict(self.validation_loss(module))
        if self.painter:
            rows = self.painter.rows(self.prior, module, self.labels, self.styles)
            results.update({f"swapped_{i}": row for i, row in enumerate(rows)})
        return results
