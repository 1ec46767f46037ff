"""Encoder and decoder whose training loss may have two more terms: SHADE's consistency and the feature distance."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgkit.errors import UsageError
from dgkit.training.segmenter.feature_distance import agreeing_cells, feature_distance
from dgkit.training.segmenter.mm import MODELS, EncoderDecoder
from dgkit.training.segmenter.shade import Styles, hallucinating, style_consistency


@dataclass
class Beside:
    """What the losses need that is no part of the network: hooks set it, ``state_dict`` does not hold it."""

    encoder: nn.Module | None = None
    """frozen, with ImageNet weights"""
    styles: Styles | None = None
    """SHADE's base styles"""


@MODELS.register_module(force=True)
class RegularisedSegmentor(EncoderDecoder):
    """mmsegmentation's EncoderDecoder with the terms that ``train_cfg`` states under "feature_distance" and "shade".

    Both hold the keys of the recipe's tables of that name. Without them, and outside training, it is the plain one,
    with the same names of weights.
    """

    def __init__(self, **segmentor: Any) -> None:
        super().__init__(**segmentor)
        settings = self.train_cfg or {}
        self.feature_distance: Any = settings.get("feature_distance")
        self.shade: Any = settings.get("shade")
        self.beside = Beside()

    def seen(self, images: Tensor) -> Tensor:
        """Images [N,3,H,W] at the scale whose features the two terms concern."""
        return images

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Cross entropy, of both halves of the batch with SHADE, and the stated terms; images are [N,3,H,W]."""
        with self.hallucinating():
            features = self.extract_feat(inputs)
        logits = self.decode_head(features)
        found = self.decode_head.loss_by_feat(logits, self.doubled(data_samples))
        terms = self.terms(inputs, data_samples, features, logits)
        return {f"decode.{name}": value for name, value in found.items()} | terms

    def hallucinating(self) -> contextlib.AbstractContextManager[None]:
        """Within, the encoder's features are [2N,...] where SHADE is on. Raises UsageError without base styles."""
        if not self.shade:
            return contextlib.nullcontext()
        if self.beside.styles is None:
            raise UsageError("SHADE has no base styles", "train with: dgkit train segmenter")
        return hallucinating(self.backbone, self.beside.styles, self.shade["concentration"])

    def doubled(self, data_samples: Sequence[Any]) -> list[Any]:
        """The labels of what the heads see: each twice where SHADE is on."""
        return [*data_samples] * (2 if self.shade else 1)

    def terms(
        self, images: Tensor, data_samples: Sequence[Any], features: Sequence[Tensor], logits: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms by name. ``images`` [N,3,H,W] are those that ``features`` (all levels) were made of.

        ``features`` and ``logits`` are [2N,...] where SHADE is on. Raises UsageError without a frozen encoder.
        """
        found: dict[str, Tensor] = {}
        if self.feature_distance:
            found["features.loss_distance"] = self._distance(images, data_samples, features[-1])
        if self.shade:
            found["style.loss_consistency"] = self.shade["weight"] * style_consistency(logits)
        return found

    def _distance(self, images: Tensor, data_samples: Sequence[Any], last: Tensor) -> Tensor:
        settings = self.feature_distance
        if self.beside.encoder is None:
            raise UsageError("the feature distance has no frozen encoder", "train with: dgkit train segmenter")
        with torch.no_grad():
            targets = self.beside.encoder(images)[-1]
        label = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples])
        mask = agreeing_cells(label, (last.shape[-2], last.shape[-1]), settings["classes"], settings["min_ratio"])
        # A restyled copy is to stay near what ImageNet makes of the picture itself.
        copies = len(last) // len(images)
        return settings["weight"] * feature_distance(last, targets.repeat(copies, 1, 1, 1), mask.repeat(copies, 1, 1))
