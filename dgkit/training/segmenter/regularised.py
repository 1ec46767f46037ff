"""Encoder-decoder with two optional terms in the training loss: SHADE's consistency and the feature distance."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgkit.errors import UsageError
from dgkit.training.segmenter.feature_distance import agreeing_cells, feature_distance
from dgkit.training.segmenter.mm import MODELS, EncoderDecoder
from dgkit.training.segmenter.shade import Styles, style_consistency, style_hallucination


@dataclass
class Auxiliary:
    """Inputs of the extra loss terms that are not part of the network: set by hooks, absent from ``state_dict``."""

    frozen_encoder: nn.Module | None = None
    """encoder with ImageNet weights"""
    base_styles: Styles | None = None
    """of SHADE"""


@MODELS.register_module(force=True)
class RegularisedSegmentor(EncoderDecoder):
    """mmsegmentation's EncoderDecoder with the loss terms given in ``train_cfg``: "feature_distance" and "shade".

    Both have the keys of the recipe sections of that name. Without them, and outside training, it equals the
    EncoderDecoder; the names of the weights are the same.
    """

    def __init__(self, **segmentor: Any) -> None:
        super().__init__(**segmentor)
        settings = self.train_cfg or {}
        self.feature_distance: Any = settings.get("feature_distance")
        self.shade: Any = settings.get("shade")
        self.auxiliary = Auxiliary()

    def encoder_input(self, images: Tensor) -> Tensor:
        """Return images [N,3,H,W] at the scale on which the extra terms are computed."""
        return images

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return the losses of images [N,3,H,W]: cross entropy (SHADE: over both halves of the batch), extra terms."""
        with self.style_hallucination():
            features = self.extract_feat(inputs)
        logits = self.decode_head(features)
        found = self.decode_head.loss_by_feat(logits, self.repeat_for_shade(data_samples))
        terms = self.terms(inputs, data_samples, features, logits)
        return {f"decode.{name}": value for name, value in found.items()} | terms

    def style_hallucination(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the features are [2N,...] if SHADE is on. Raises UsageError without base styles."""
        if not self.shade:
            return contextlib.nullcontext()
        styles = self.auxiliary.base_styles
        if styles is None:
            raise UsageError("SHADE has no base styles", "train with: dgkit train segmenter")
        return style_hallucination(self.backbone, styles, self.shade["concentration"])

    def repeat_for_shade(self, data_samples: Sequence[Any]) -> list[Any]:
        """Return the labels of the batch that the heads get: all of them twice if SHADE is on."""
        return [*data_samples] * (2 if self.shade else 1)

    def terms(
        self, images: Tensor, data_samples: Sequence[Any], features: Sequence[Tensor], logits: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted extra terms by name; ``features`` (all levels) are those of ``images`` [N,3,H,W].

        ``features`` and ``logits`` are [2N,...] if SHADE is on. Raises UsageError without a frozen encoder.
        """
        found: dict[str, Tensor] = {}
        if self.feature_distance:
            found["features.loss_distance"] = self._distance(images, data_samples, features[-1])
        if self.shade:
            found["style.loss_consistency"] = self.shade["weight"] * style_consistency(logits)
        return found

    def _distance(self, images: Tensor, data_samples: Sequence[Any], last: Tensor) -> Tensor:
        settings, encoder = self.feature_distance, self.auxiliary.frozen_encoder
        if encoder is None:
            raise UsageError("the feature distance has no frozen encoder", "train with: dgkit train segmenter")
        with torch.no_grad():
            targets = encoder(images)[-1]
        label = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples])
        mask = agreeing_cells(label, (last.shape[-2], last.shape[-1]), settings["classes"], settings["min_ratio"])
        # A restyled copy is compared with the ImageNet features of the original image.
        copies = len(last) // len(images)
        return settings["weight"] * feature_distance(last, targets.repeat(copies, 1, 1, 1), mask.repeat(copies, 1, 1))
