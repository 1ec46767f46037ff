"""Mask2Former's two decoders by transformers, on features of any backbone. Importing this module takes seconds."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)


class MaskDecoder(Mask2FormerPreTrainedModel):
    """Pixel decoder, masked-attention decoder and class predictor of ``channels`` channels.

    ``inputs``: channels of the four levels, finest first.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        classes: int,
        queries: int,
        encoder_layers: int,
        decoder_layers: int,
    ) -> None:
        config = Mask2FormerConfig(
            feature_size=channels,
            mask_feature_size=channels,
            hidden_dim=channels,
            encoder_feedforward_dim=4 * channels,
            dim_feedforward=8 * channels,
            num_queries=queries,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers + 1,  # transformers counts the initial queries as a layer
        )
        super().__init__(config)
        self.pixels = Mask2FormerPixelDecoder(config, list(inputs))
        self.transformer = Mask2FormerTransformerModule(channels, config)
        self.class_predictor = nn.Linear(channels, classes + 1)
        self.pixels.encoder.get_reference_points = reference_points
        self.post_init()

    def forward(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return mask logits [N,Q,h,w] and class logits [N,Q,classes + 1] of the initial queries and each layer."""
        pixels = self.pixels(list(features))
        found = self.transformer(pixels.multi_scale_features, pixels.mask_features)
        classes = [self.class_predictor(hidden.transpose(0, 1)) for hidden in found.intermediate_hidden_states]
        return list(zip(found.masks_queries_logits, classes, strict=True))


def reference_points(shapes: Sequence[tuple[int, int]], valid: Tensor, device: torch.device) -> Tensor:
    """Return the centres [N,P,L,2] (x, y; 0 to 1) of all P cells of L levels of ``shapes`` (rows, columns).

    ``valid`` [N,L,2] is the share of each level that is no padding. In the place of transformers' own function, whose
    ``torch.linspace`` binds an exported file to one size.
    """
    levels = []
    for rows, columns in shapes:
        y, x = ((torch.arange(size, device=device, dtype=valid.dtype) + 0.5) / size for size in (rows, columns))
        grid = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1)
        levels.append(grid.flatten(0, 1))
    return torch.cat(levels)[None, :, None] * valid[:, None]
