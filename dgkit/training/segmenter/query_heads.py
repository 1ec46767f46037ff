"""Query heads: each query predicts a class and a mask; Mask2Former's decoder, and EoMT inside the encoder."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dgkit.labels import IGNORE
from dgkit.training.segmenter.adapters import Rein
from dgkit.training.segmenter.foundation_backbones import TokenBackbone, TokenGrid
from dgkit.training.segmenter.mm import MODELS, BaseDecodeHead

POWER = 0.9  # of the polynomial that reduces the share of masked attention. Source: EoMT, section 3.3


class QueryPrediction(NamedTuple):
    """``masks``: logits [N,Q,h,w]; ``classes``: logits [N,Q,K+1], the last for "no object"."""

    masks: Tensor
    classes: Tensor


class QueryHead(BaseDecodeHead):
    """Base of the query heads: semantic logits and the loss, sampled at ``points`` positions of each mask.

    Matching and losses are those of Mask2Former, with its weights 2 (class), 5 (mask) and 5 (dice). Source: Cheng et
    al., Mask2Former (CVPR 2022), section 3.3, by transformers.
    """

    def __init__(self, queries: int = 100, points: int = 12544, **head: Any) -> None:
        super().__init__(dropout_ratio=0, init_cfg=None, **head)
        from transformers import Mask2FormerConfig
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

        del self.conv_seg  # masks take its place
        self.queries = queries
        config = Mask2FormerConfig(num_labels=self.num_classes, num_queries=queries, train_num_points=points)
        self.weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.criterion = Mask2FormerLoss(config, self.weights)

    @abstractmethod
    def predictions(self, inputs: Any) -> list[QueryPrediction]:
        """Return the predictions of all layers that the loss supervises, the final one last."""
        ...

    def forward(self, inputs: Any) -> Tensor:
        """Return the semantic logits [N,classes,h,w]."""
        return semantic_logits(self.predictions(inputs)[-1])

    def loss(self, inputs: Any, batch_data_samples: Sequence[Any], train_cfg: object = None) -> dict[str, Tensor]:
        """Return each loss, weighted and summed over the layers; it is computed in fp32."""
        found = self.predictions(inputs)
        label = torch.stack([sample.gt_sem_seg.data[0] for sample in batch_data_samples])
        masks, classes = split_classes(label)
        total = dict.fromkeys(self.weights, label.new_zeros((), dtype=torch.float32))
        with torch.autocast(label.device.type, enabled=False):
            for layer in found:
                losses = self.criterion(layer.masks.float(), layer.classes.float(), masks, classes)
                total = {name: total[name] + weight * losses[name] for name, weight in self.weights.items()}
        return total


@MODELS.register_module(force=True)
class MaskedAttentionHead(QueryHead):
    """Mask2Former's pixel decoder and masked-attention decoder on four levels, finest first.

    ``channels`` is a multiple of 32. Source: Cheng et al. (CVPR 2022), section 3, by transformers.
    """

    def __init__(self, encoder_layers: int = 6, decoder_layers: int = 9, **head: Any) -> None:
        super().__init__(input_transform="multiple_select", **head)
        from dgkit.training.segmenter.mask_decoder import MaskDecoder

        self.decoder = MaskDecoder(
            self.in_channels, self.channels, self.num_classes, self.queries, encoder_layers, decoder_layers
        )

    def link_queries(self, rein: Rein) -> None:
        """Make the tokens of ``rein`` the position embeddings of the queries."""
        self.decoder.transformer.queries_embedder = LinkedQueries(rein)

    def predictions(self, inputs: Sequence[Tensor]) -> list[QueryPrediction]:
        """Return the predictions of the initial queries and of each decoder layer."""
        return [QueryPrediction(*found) for found in self.decoder(self._transform_inputs(inputs))]


class LinkedQueries(nn.Module):
    """Queries that follow from Rein's tokens, in the place of an embedding; Rein belongs to the backbone."""

    def __init__(self, rein: Rein) -> None:
        super().__init__()
        self._owner = (rein,)  # in a tuple, so that its weights are not listed twice

    @property
    def weight(self) -> Tensor:
        """The queries [Q,C]."""
        return self._owner[0].make_queries()


@MODELS.register_module(force=True)
class EomtHead(QueryHead):
    """EoMT: queries enter the last ``blocks`` blocks of a plain ViT; masks are queries times upscaled features.

    While training, a query attends to the patches inside its mask of the previous block, with a probability that
    falls from 1 to 0, block by block; otherwise to all of them. Logits have the stride of a quarter of a patch. Source:
    Kerssies et al., Your ViT is Secretly an Image Segmentation Model (CVPR 2025), section 3; layers by transformers.
    """

    def __init__(self, blocks: int = 4, **head: Any) -> None:
        super().__init__(**head)
        from transformers import EomtConfig
        from transformers.models.eomt.modeling_eomt import EomtMaskHead, EomtScaleBlock

        config = EomtConfig(hidden_size=self.in_channels, num_upscale_blocks=2)
        self.query = nn.Embedding(self.queries, self.in_channels)
        self.upscale, self.mask_head = EomtScaleBlock(config), EomtMaskHead(config)
        self.class_predictor = nn.Linear(self.in_channels, self.num_classes + 1)
        self.blocks = blocks
        self.masked = [1.0] * blocks  # probability of masked attention in each

    def anneal(self, progress: float) -> None:
        """Set the probabilities of masked attention at ``progress`` (0 to 1) of the training."""
        parts = progress * (self.blocks + 2) - 1  # block i falls within the part from i + 1 to i + 2
        self.masked = [(1 - min(max(parts - number, 0.0), 1.0)) ** POWER for number in range(self.blocks)]

    def encode(self, backbone: TokenBackbone, images: Tensor) -> list[QueryPrediction]:
        """Return the predictions before each of the last blocks (only while training) and after the last one."""
        tokens, grid = backbone.embed(images)
        first, found = len(backbone.layers) - self.blocks, []
        for number in range(len(backbone.layers)):
            mask = None
            if number == first:
                tokens = torch.cat([self.query.weight.expand(images.shape[0], -1, -1), tokens], dim=1)
            if number >= first and self.training:
                found.append(self._predict(backbone, tokens, grid))
                mask = self._attention(found[-1].masks, grid, tokens.shape[1], self.masked[number - first])
            tokens = backbone.run_block(number, tokens, grid, mask)
        return [*found, self._predict(backbone, tokens, grid)]

    def predictions(self, inputs: list[QueryPrediction]) -> list[QueryPrediction]:
        """Return what :meth:`encode` found, which the segmentor passes instead of features."""
        return inputs

    def _predict(self, backbone: TokenBackbone, tokens: Tensor, grid: TokenGrid) -> QueryPrediction:
        tokens = backbone.norm(tokens)
        queries = tokens[:, : self.queries]
        features = self.upscale(backbone.as_map(tokens, grid))
        masks = torch.einsum("nqc,nchw->nqhw", self.mask_head(queries), features)
        return QueryPrediction(masks, self.class_predictor(queries))

    def _attention(self, masks: Tensor, grid: TokenGrid, length: int, probability: float) -> Tensor | None:
        """Return bool [N,1,T,T], True where a token attends to another; None if all do."""
        if probability == 0:
            return None
        inside = functional.interpolate(masks.detach(), size=(grid.rows, grid.columns), mode="bilinear").flatten(2) > 0
        free = torch.rand(inside.shape[:2], device=masks.device) > probability
        allowed = torch.ones(len(masks), length, length, dtype=torch.bool, device=masks.device)
        allowed[:, : self.queries, length - inside.shape[2] :] = inside | free[..., None]
        return allowed[:, None]


def semantic_logits(found: QueryPrediction) -> Tensor:
    """Return [N,K,h,w]: the sum over queries of class probability times mask probability, "no object" left out.

    Source: Cheng et al., MaskFormer (NeurIPS 2021), section 3.4.
    """
    probabilities = found.classes.softmax(-1)[..., :-1]
    return torch.einsum("nqk,nqhw->nkhw", probabilities, found.masks.sigmoid())


def split_classes(label: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return for each label map, integer [N,H,W], the masks float [K,H,W] and numbers [K] of the classes in it."""
    classes = [values[values != IGNORE] for values in (one.unique() for one in label)]
    masks = [(one[None] == found[:, None, None]).float() for one, found in zip(label, classes, strict=True)]
    return masks, [found.long() for found in classes]
