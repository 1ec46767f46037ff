"""The common part of training a UNet and a ControlNet: samples from a :class:`Noising`, loss on fixed samples."""

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn
from torch.utils.data import default_collate

from dgkit.training.diffusion.noising import CHANNELS_LAST, Noising
from dgkit.training.loop.task import Tensors, TrainingTask

FIRST_VALIDATION_SAMPLE = 1 << 40  # no training reaches this index


class DiffusionTask(TrainingTask):
    """A denoising network trained in place on the samples of ``noising``.

    ``validation_samples`` is the number of fixed samples behind the validation loss.
    """

    def __init__(
        self, network: UNet2DConditionModel | ControlNetModel, noising: Noising, validation_samples: int
    ) -> None:
        self.noising, self.validation_samples = noising, validation_samples
        self.module = network.to(memory_format=CHANNELS_LAST).train().requires_grad_(True)

    def place(self, device: torch.device) -> None:
        """Move the frozen networks to ``device``."""
        self.noising.place(device)

    def describe(self, index: int) -> str:
        """Return the file or scene that sample ``index`` is cut from."""
        return self.noising.describe(index)

    def sample(self, index: int) -> Tensors:
        """Return sample ``index``: see :meth:`Noising.sample`."""
        return self.noising.sample(index)

    def encode(self, batch: Tensors) -> Tensors:
        """Encode images and captions of a batch: see :meth:`Noising.encode`."""
        return self.noising.encode(batch)

    @torch.no_grad()
    def validation_loss(self, module: nn.Module) -> dict[str, float]:
        """Return ``{"loss": mean}`` on fixed samples that are not used in training; empty without samples."""
        if not self.validation_samples:
            return {}
        device, dtype = next(module.parameters()).device, self.noising.dtype
        losses = []
        for i in range(self.validation_samples):
            sample = default_collate([self.sample(FIRST_VALIDATION_SAMPLE + i)])
            batch = {key: value.to(device) for key, value in sample.items()}
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                losses.append(float(self.loss(module, batch)))
        return {"loss": sum(losses) / len(losses)}
