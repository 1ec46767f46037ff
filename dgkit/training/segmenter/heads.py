"""Decode heads for mmsegmentation: DAFormer's context-aware fusion, DeepLabV2, a linear probe and UPerNet."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dgkit.training.segmenter.mm import (
    MODELS,
    BaseDecodeHead,
    ConvModule,
    DepthwiseSeparableConvModule,
    UPerHead,
    resize,
)


class SeparableAspp(nn.Module):
    """Parallel convolutions of several dilations, concatenated and fused by a 3x3 convolution.

    Dilation 1 is a plain 1x1 convolution, the others are depthwise 3x3 then pointwise. [N,C,h,w] -> [N,channels,h,w].
    Source: Hoyer et al., DAFormer (CVPR 2022), section 3.2 and mmseg/models/decode_heads/daformer_head.py of its code.
    """

    def __init__(self, inputs: int, channels: int, dilations: Sequence[int], norm: dict[str, Any]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvModule(inputs, channels, 1, norm_cfg=norm)
            if dilation == 1
            else DepthwiseSeparableConvModule(inputs, channels, 3, dilation=dilation, padding=dilation, norm_cfg=norm)
            for dilation in dilations
        )
        self.fuse = ConvModule(len(dilations) * channels, channels, 3, padding=1, norm_cfg=norm)

    def forward(self, features: Tensor) -> Tensor:
        """Return the fused features."""
        return self.fuse(torch.cat([branch(features) for branch in self.branches], dim=1))


@MODELS.register_module(force=True)
class DAFormerHead(BaseDecodeHead):
    """DAFormer's decoder: a linear embedding of each level, resized to the size of the first, concatenated and fused.

    ``fusion`` is "aspp" (:class:`SeparableAspp`) or "conv" (one 1x1 convolution, as in HRDA's scale attention). Inputs
    are the levels [N,C_i,h_i,w_i], finest first; the output is logits [N,classes,h_0,w_0]. Source: as SeparableAspp.
    """

    def __init__(
        self,
        embed_channels: int = 256,
        fusion: str = "aspp",
        dilations: Sequence[int] = (1, 6, 12, 18),
        **head: Any,
    ) -> None:
        super().__init__(input_transform="multiple_select", **head)
        self.embeds = nn.ModuleList(nn.Linear(channels, embed_channels) for channels in self.in_channels)
        joined = embed_channels * len(self.in_channels)
        self.fusion = (
            SeparableAspp(joined, self.channels, dilations, self.norm_cfg)
            if fusion == "aspp"
            else ConvModule(joined, self.channels, 1, norm_cfg=self.norm_cfg)
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits."""
        levels = self._transform_inputs(inputs)
        size = levels[0].shape[2:]
        embedded = []
        for level, embed in zip(levels, self.embeds, strict=True):
            mapped = embed(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            embedded.append(resize(mapped, size=size, mode="bilinear", align_corners=False))
        return self.cls_seg(self.fusion(torch.cat(embedded, dim=1)))


@MODELS.register_module(force=True)
class DeepLabV2Head(BaseDecodeHead):
    """Sum of dilated 3x3 convolutions directly to the classes, with bias, without norm and dropout.

    Input: the last level [N,C,h,w]; output: logits [N,classes,h,w]. Source: Chen et al., DeepLab (TPAMI 2017); the two
    dilations 6 and 12 as in the code of DAFormer and HRDA (configs/_base_/models/deeplabv2_r50-d8.py).
    """

    def __init__(self, dilations: Sequence[int] = (6, 12), **head: Any) -> None:
        super().__init__(dropout_ratio=0, **head)
        del self.conv_seg  # the branches already end in the classes
        self.branches = nn.ModuleList(
            nn.Conv2d(self.in_channels, self.out_channels, 3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )

    def init_weights(self) -> None:
        """Initialise weights from N(0, 0.01^2) and biases with 0."""
        for name, parameter in self.branches.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits."""
        features = self._transform_inputs(inputs)
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


@MODELS.register_module(force=True)
class LinearHead(BaseDecodeHead):
    """Batch norm and a 1x1 convolution on the last features [N,C,h,w]: the linear probe. Returns logits [N,K,h,w].

    Source: Oquab et al., DINOv2 (TMLR 2024), section 7.4.
    """

    def __init__(self, **head: Any) -> None:
        super().__init__(dropout_ratio=0, **head)
        self.norm = nn.BatchNorm2d(self.in_channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))


@MODELS.register_module(force=True)
class UperNetHead(UPerHead):
    """mmsegmentation's UPerNet head, with a pooling that exports for any image size; weights have the same names."""

    def __init__(self, **head: Any) -> None:
        super().__init__(**head)
        for pooled in self.psp_modules:
            pooled[0] = GridPool(pooled[0].output_size)


class GridPool(nn.Module):
    """Adaptive average pooling of [N,C,H,W] to a grid of ``cells`` x ``cells``, as two matrix products."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        """Return [N,C,cells,cells]."""
        rows, columns = (self._weights(size, features) for size in features.shape[-2:])
        return rows @ features @ columns.T

    def _weights(self, size: int, features: Tensor) -> Tensor:
        """Return [cells,size]: the share of each position in each cell."""
        cell = torch.arange(self.cells, device=features.device)[:, None]
        position = torch.arange(size, device=features.device)
        first, end = cell * size // self.cells, ((cell + 1) * size + self.cells - 1) // self.cells
        inside = ((position >= first) & (position < end)).to(features.dtype)
        return inside / inside.sum(1, keepdim=True)
