"""HRDA: context at half resolution and detail at full resolution, fused by learned attention over the two scales.

Source: Hoyer et al., HRDA (ECCV 2022), sections 3.2 to 3.4, and the released code's hrda_encoder_decoder.py,
decode_heads/hrda_head.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dgkit.errors import UsageError
from dgkit.training.segmenter.mm import MODELS
from dgkit.training.segmenter.regularised import RegularisedSegmentor


class Box(NamedTuple):
    """A window of an image or feature map: first row and column, height and width, in cells."""

    y: int
    x: int
    height: int
    width: int

    def divided(self, factor: int) -> "Box":
        """Return the same window on a grid ``factor`` times coarser; all values must be multiples of ``factor``."""
        return Box(*(side // factor for side in self))

    def cut(self, maps: Tensor) -> Tensor:
        """Return the window of [...,H,W]."""
        return maps[..., self.y : self.y + self.height, self.x : self.x + self.width]


def double(maps: Tensor) -> Tensor:
    """Upsample [N,C,h,w] by 2, bilinear, corners not aligned."""
    return functional.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


def half(images: Tensor) -> Tensor:
    """Downsample [N,C,H,W] with even H and W by 2, bilinear, corners not aligned (each cell is a 2x2 mean)."""
    return functional.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)


def paste(logits: Tensor, box: Box, size: Sequence[int]) -> Tensor:
    """Place [N,C,box.height,box.width] at ``box`` in zeros [N,C,size[0],size[1]]."""
    right, bottom = size[1] - box.x - box.width, size[0] - box.y - box.height
    return functional.pad(logits, (box.x, right, box.y, bottom))


def fuse(context: Tensor, detail: Tensor, attention: Tensor, box: Box) -> Tensor:
    """Return up2((1 - a) s_LR) + up2(a) paste(s_HR), with a set to 0 outside the detail window.

    ``context`` s_LR and ``attention`` a (after the sigmoid) are [N,C,h,w]; ``detail`` s_HR is [N,C,2 box.height,
    2 box.width]; ``box`` is the window on the grid of ``context``. Returns [N,C,2h,2w].
    """
    height, width = context.shape[-2:]
    inside = paste(box.cut(attention), box, (height, width))
    fine = paste(detail, Box(*(2 * side for side in box)), (2 * height, 2 * width))
    return double((1 - inside) * context) + double(inside) * fine


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first cells of sliding windows that cover ``length``; the last window ends at the border."""
    last = max(0, length - window)
    return [*range(0, last, stride), last]


@MODELS.register_module(force=True)
class HRDASegmentor(RegularisedSegmentor):
    """Encoder and decoder shared by two scales, and a head that weights the scales per class and pixel.

    ``detail_crop``: side of the full-resolution crop in pixels, half of the training crop as published. ``scale_head``:
    config of the attention head. ``stride``: of the decode head's logits, in pixels. ``detail_weight``: weight of the
    loss on the logits of the detail crop. Image sides must be multiples of 2 ``stride``. With SHADE both scales are
    restyled independently; the consistency uses the fused logits, the feature distance the context.
    """

    def __init__(
        self,
        scale_head: dict[str, Any],
        detail_crop: int = 512,
        stride: int = 4,
        detail_weight: float = 0.1,
        **segmentor: Any,
    ) -> None:
        super().__init__(**segmentor)
        self.scale_head = MODELS.build(scale_head)
        self.grid = 2 * stride  # side of a cell of the context's logits, in image pixels
        if detail_crop % (2 * self.grid):
            raise UsageError(
                f"detail_crop={detail_crop} is not a multiple of {2 * self.grid}, which sliding by half a crop needs",
                f"use for example {max(1, detail_crop // (2 * self.grid)) * 2 * self.grid}",
            )
        self.detail_crop, self.detail_weight = detail_crop, detail_weight

    def encoder_input(self, images: Tensor) -> Tensor:
        """Return the images of the context: [N,3,H,W] -> [N,3,H/2,W/2]."""
        return half(images)

    def context(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and attention (after the sigmoid) of images [N,3,H,W], both [N,C,H/grid,W/grid]."""
        return self._logits_and_attention(self.extract_feat(self.encoder_input(images)))

    def detail(self, images: Tensor) -> Tensor:
        """Return the logits of full-resolution images: [N,3,H,W] -> [N,C,2H/grid,2W/grid]."""
        return self.decode_head(self.extract_feat(images))

    def whole_detail(self, images: Tensor) -> Tensor:
        """Return the logits as :meth:`detail` does, from crops that overlap by half and are averaged there."""
        height, width = images.shape[-2:]
        crop_height, crop_width = min(self.detail_crop, height), min(self.detail_crop, width)
        places = [
            Box(y, x, crop_height, crop_width)
            for y in window_starts(height, crop_height, self.detail_crop // 2)
            for x in window_starts(width, crop_width, self.detail_crop // 2)
        ]
        # All crops run as one batch, then split by place again: [places,N,C,h,w].
        found = self.detail(torch.cat([box.cut(images) for box in places])).unflatten(0, (len(places), -1))
        stride = self.grid // 2
        size = (height // stride, width // stride)
        total = count = found.new_zeros(())
        for number, box in enumerate(places):
            small = box.divided(stride)
            total = total + paste(found[number], small, size)
            count = count + paste(found.new_ones((1, 1, small.height, small.width)), small, size)
        return total / count

    def draw_crop(self, height: int, width: int) -> Box:
        """Draw a place of the detail crop in an image, in pixels, multiples of the grid; uses torch's generator."""
        sides = (min(self.detail_crop, height), min(self.detail_crop, width))
        free = ((height - sides[0]) // self.grid, (width - sides[1]) // self.grid)
        y, x = (int(torch.randint(cells + 1, ())) * self.grid for cells in free)
        return Box(y, x, *sides)

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return (1 - w) CE(fused), w CE(s_HR on its crop), w = ``detail_weight``, and extra terms; 255 is ignored."""
        self._check(inputs)
        box = self.draw_crop(*inputs.shape[-2:])
        context = self.encoder_input(inputs)
        with self.style_hallucination():
            features = self.extract_feat(context)
            logits, attention = self._logits_and_attention(features)
            detail = self.detail(box.cut(inputs))
        joined = fuse(logits, detail, attention, box.divided(self.grid))
        samples = self.repeat_for_shade(data_samples)
        fused = self._loss(joined, samples, None)
        own = self._loss(detail, samples, box)
        return self.terms(context, data_samples, features, joined) | {
            "decode.loss_ce": (1 - self.detail_weight) * fused["loss_ce"],
            "detail.loss_ce": self.detail_weight * own["loss_ce"],
            "decode.acc_seg": fused["acc_seg"],
        }

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[dict[str, Any]]) -> Tensor:
        """Return the logits [N,C,H,W] of images [N,3,H,W]."""
        logits = self._forward(inputs)
        return functional.interpolate(logits, size=inputs.shape[-2:], mode="bilinear", align_corners=False)

    def _forward(self, inputs: Tensor, data_samples: object = None) -> Tensor:
        """Return the logits [N,C,H/stride,W/stride], with the detail of the whole image."""
        self._check(inputs)
        logits, attention = self.context(inputs)
        return fuse(logits, self.whole_detail(inputs), attention, Box(0, 0, *logits.shape[-2:]))

    def _logits_and_attention(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.decode_head(features), torch.sigmoid(self.scale_head(features))

    def _loss(self, logits: Tensor, data_samples: Sequence[Any], box: Box | None) -> dict[str, Tensor]:
        if box is None:
            return self.decode_head.loss_by_feat(logits, data_samples)
        cut = [sample.clone() for sample in data_samples]
        for sample in cut:
            field = sample.gt_sem_seg.clone()
            del sample.gt_sem_seg
            label = box.cut(field.data)
            sample.gt_sem_seg = type(field)(data=label)
        return self.decode_head.loss_by_feat(logits, cut)

    def _check(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.grid or width % self.grid:
            raise UsageError(
                f"an image has {width}x{height} pixels; both sides must be multiples of {self.grid}",
                f"choose a crop whose sides are multiples of {self.grid}",
            )
