"""A reward for readable images: a frozen segmenter must find the label map in the denoised image.

Source: Li et al., ControlNet++ (ECCV 2024, arXiv 2404.07987), section 3.3: at low noise one prediction of the denoiser
gives the image, so that no sampling loop is needed.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional

from dgkit.errors import InputError, UsageError, did_you_mean
from dgkit.files import user_path
from dgkit.labels import IGNORE
from dgkit.segmenters.base import FullSize, ModuleSource
from dgkit.segmenters.class_names import match_classes
from dgkit.segmenters.opening import find_source
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from dgkit.training.diffusion.diffusion_recipes import RewardSettings


class Teacher(nn.Module):
    """The frozen segmenter ``source``, whose classes are matched with ``taxonomy`` by name.

    ``class_weights`` weigh pixels by the class of their label; classes that are not named have weight 1. Raises
    UsageError for unknown classes, InputError for a teacher of other classes.
    """

    def __init__(
        self,
        source: ModuleSource,
        taxonomy: Taxonomy = CITYSCAPES19,
        class_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        match = match_classes(source.classes, source.path, taxonomy, source.taxonomy)
        self.digest = source.digest
        self.network = FullSize(source.load(), match.channels, len(source.classes)).eval().requires_grad_(False)
        channels = torch.full((256,), IGNORE)
        channels[torch.from_numpy(match.train_ids.astype(np.int64))] = torch.arange(len(match.channels))
        weights = _channel_weights(
            [taxonomy.names[number] for number in match.train_ids], class_weights or {}, taxonomy
        )
        for name, values in (("mean", source.mean), ("std", source.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.register_buffer("channels", channels)
        self.register_buffer("weights", weights)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean weighted cross entropy of each image, float32 [B].

        ``images``: float [B,3,H,W] in 0..1; ``labels``: uint8 [B,H,W]. Pixels that are ignored, or of a class that the
        teacher does not know, do not count; an image without others gives 0.
        """
        mean, std, weights = (self.get_buffer(name) for name in ("mean", "std", "weights"))
        known = self.get_buffer("channels")[labels.long()]
        logits = self.network((images - mean) / std).float()
        errors = functional.cross_entropy(logits, known, weights, ignore_index=IGNORE, reduction="none")
        counted = torch.where(known == IGNORE, 0.0, weights[known.clamp(max=len(weights) - 1)])
        return errors.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1e-6)


class Reward(nn.Module):
    """The reward of one-step images: ``settings.weight`` times the teacher's cross entropy, at low noise only."""

    def __init__(self, settings: RewardSettings, teacher: Teacher, vae: AutoencoderKL, schedule: DDIMScheduler) -> None:
        super().__init__()
        self.settings, self.teacher, self.schedule = settings, teacher, schedule
        self._vae = [vae]  # not a part of this module: it is moved and cast elsewhere
        self.digest: str = teacher.digest
        count = int(schedule.config.num_train_timesteps)
        if settings.t[1] >= count:
            raise UsageError(
                f"objective.reward.t={list(settings.t)}, but the model has the timesteps 0 to {count - 1}",
                f"use for example --set objective.reward.t=[{count // 50},{count // 4}]",
            )

    def forward(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Return the term of the loss, a scalar: the mean over the batch, with 0 for timesteps outside of the range.

        ``prediction`` and ``noisy`` latents are [B,C,h,w], ``labels`` uint8 [B,S,S].
        """
        low, high = self.settings.t
        rows = torch.nonzero((timesteps >= low) & (timesteps <= high)).flatten()
        if not len(rows):
            return prediction.new_zeros((), dtype=torch.float32)
        clean = predict_clean(self.schedule, prediction[rows], noisy[rows], timesteps[rows])
        vae = self._vae[0]
        decoded = vae.decode(clean.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        images = (decoded.float() / 2 + 0.5).clamp(0, 1)
        return self.settings.weight * self.teacher(images, labels[rows]).sum() / len(timesteps)


def predict_clean(schedule: DDIMScheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return the latents without noise that ``prediction`` implies, float32 [B,C,h,w].

    Sources: Song et al. 2021 (DDIM), equation 9; Salimans and Ho 2022, appendix D.
    """
    share = schedule.alphas_cumprod.to(noisy.device)[timesteps].float().view(-1, 1, 1, 1)
    signal, sigma = share.sqrt(), (1 - share).sqrt()
    if schedule.config.prediction_type == "epsilon":
        return (noisy.float() - sigma * prediction.float()) / signal
    return signal * noisy.float() - sigma * prediction.float()


def find_teacher(path: Path) -> ModuleSource:
    """Return the segmenter at ``path``. Raises UsageError for an ONNX file, InputError for a missing one."""
    if path.suffix == ".onnx":
        raise UsageError(
            f"the teacher {path} is an ONNX file, which has no gradients; allowed: a .safetensors file of dgkit train "
            "judge, a checkpoint of mmsegmentation (.pth), a transformers folder with config.json",
            f"use {path.with_suffix('.safetensors')} if it exists",
        )
    if not path.exists():
        raise InputError(f"the teacher {path} does not exist", "dgkit train judge DIR trains a segmenter")
    return find_source(path)


def open_reward(
    settings: RewardSettings, vae: AutoencoderKL, schedule: DDIMScheduler, taxonomy: Taxonomy = CITYSCAPES19
) -> Reward:
    """Return the reward of a recipe with its teacher.

    Raises as :func:`find_teacher` and :class:`Teacher`, UsageError for a range that the schedule does not have.
    """
    teacher = Teacher(find_teacher(user_path(settings.teacher)), taxonomy, settings.class_weights)
    return Reward(settings, teacher, vae, schedule)


def _channel_weights(names: list[str], chosen: Mapping[str, float], taxonomy: Taxonomy) -> Tensor:
    unknown = next((name for name in chosen if name not in taxonomy.names), None)
    if unknown is not None:
        raise UsageError(
            f"objective.reward.class_weights: unknown class {unknown!r}; known: {', '.join(taxonomy.names)}",
            did_you_mean(unknown, taxonomy.names, "use one of these names"),
        )
    return torch.tensor([chosen.get(name, 1.0) for name in names])
