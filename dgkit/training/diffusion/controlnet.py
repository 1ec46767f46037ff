"""Training a ControlNet: label maps steer a frozen UNet (Zhang et al. 2023; DGInStyle, controlnet/train.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from dgkit.training.diffusion.losses import diffusion_loss
from dgkit.training.diffusion.noising import CHANNELS_LAST, Noising
from dgkit.training.diffusion.starting_model import place
from dgkit.training.diffusion.validation import Painter, fixed_loss

WIDTHS = (16, 32, 96, 256)  # of the condition encoder in Stable Diffusion's ControlNets


def condition_widths(factor: int) -> tuple[int, ...]:
    """Widths of the condition encoder for an autoencoder that shrinks images ``factor`` times (a power of two)."""
    levels = factor.bit_length()
    return (*WIDTHS[:1] * (levels - len(WIDTHS)), *WIDTHS[-levels:])


class ControlNetTask:
    """Trains ``controlnet`` in place on the frozen ``unet`` (DGInStyle: U^S) and the label maps of ``noising``'s feed.

    At each validation every label map of ``labels``, uint8 [S,S], is painted in every style on ``prior``, the UNet that
    the ControlNet will be swapped onto. ``zero_conv_lr``: learning rate of the zero convolutions, times the rest's.
    """

    name = "controlnet"

    def __init__(
        self,
        controlnet: ControlNetModel,
        unet: UNet2DConditionModel,
        noising: Noising,
        *,
        zero_conv_lr: float = 1.0,
        gradient_checkpointing: bool = False,
        painter: Painter | None = None,
        prior: UNet2DConditionModel | None = None,
        labels: Sequence[np.ndarray] = (),
        styles: Sequence[str] = (),
        checked: int = 0,
    ) -> None:
        self.noising, self.painter, self.labels, self.styles = noising, painter, labels, styles
        self.checked = checked
        self.identity = {**noising.identity, "zero_conv_lr": zero_conv_lr}
        self.parameter_scale = ("controlnet_down_blocks", zero_conv_lr)
        self.module: nn.Module = controlnet.to(memory_format=CHANNELS_LAST).train().requires_grad_(True)
        self.unet = unet.eval().requires_grad_(False).to(memory_format=CHANNELS_LAST)
        place(unet, torch.device("cpu"), noising.dtype)
        self.prior = unet if prior is None else prior
        if gradient_checkpointing:
            controlnet.enable_gradient_checkpointing()
            unet.enable_gradient_checkpointing()

    def place(self, device: torch.device) -> None:
        """Move the frozen networks; a UNet for validation alone stays where it is until it paints."""
        self.noising.place(device)
        self.unet.to(device)

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
        """Mean squared error of what the UNet predicts with the ControlNet's residuals; scalar."""
        noised = self.noising.batch(batch)
        inputs = (noised.latents, noised.timesteps, noised.text)
        down, middle = module(*inputs, noised.condition, return_dict=False)
        prediction = self.unet(
            *inputs,
            down_block_additional_residuals=[residual.to(self.noising.dtype) for residual in down],
            mid_block_additional_residual=middle.to(self.noising.dtype),
            return_dict=False,
        )[0]
        return diffusion_loss(prediction, noised.target, noised.weights)

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """The loss on fixed samples, and a row of pictures a label map: its colours, then the styles, on the prior."""
        figures: dict[str, float | np.ndarray] = dict(fixed_loss(self, module, self.checked, self.noising.dtype))
        if self.painter:
            rows = self.painter.rows(self.prior, module, self.labels, self.styles)
            figures.update({f"swapped_{i}": row for i, row in enumerate(rows)})
        return figures
