"""The segmentor of foundation encoders: frozen parts, adapters, and heads that run inside the encoder."""

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from dgkit.training.segmenter.adapters import freeze_parameters, keep_frozen
from dgkit.training.segmenter.mm import MODELS
from dgkit.training.segmenter.query_heads import EomtHead, MaskedAttentionHead
from dgkit.training.segmenter.regularised import RegularisedSegmentor


@MODELS.register_module(force=True)
class FoundationSegmentor(RegularisedSegmentor):
    """Encoder-decoder whose encoder may be frozen: ``freeze`` True (all but adapters), "norms" or False.

    Rein's tokens become the queries of a masked-attention head; EoMT's head runs the blocks of the encoder itself.
    """

    def __init__(self, freeze: bool | str = False, **segmentor: Any) -> None:
        super().__init__(**segmentor)
        self.freeze = freeze
        rein = getattr(self.backbone, "rein", None)
        if rein is not None and isinstance(self.decode_head, MaskedAttentionHead):
            self.decode_head.link_queries(rein)
        freeze_parameters(self.backbone, freeze)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts that are not frozen."""
        super().train(mode)
        keep_frozen(self.backbone, self.freeze)
        return self

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return the features of images [N,3,H,W], with EoMT's head its predictions."""
        if isinstance(self.decode_head, EomtHead):
            return self.decode_head.encode(self.backbone, inputs)
        return super().extract_feat(inputs)

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return the losses of images [N,3,H,W], by name."""
        if self.feature_distance or self.shade:
            return super().loss(inputs, data_samples)
        return self._decode_head_forward_train(self.extract_feat(inputs), data_samples)
