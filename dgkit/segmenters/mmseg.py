"""Checkpoints of mmsegmentation, including those of ``dgkit train segmenter``, as segmenters."""

import contextlib
import hashlib
import importlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from dgkit.errors import InputError, ModelError, UsageError
from dgkit.files import digest_file
from dgkit.labels import CLASSES, NUM_CLASSES
from dgkit.optional import first_line, require
from dgkit.provenance import version
from dgkit.segmenters.base import LOGITS, SCORES, ModuleSource, Triple
from dgkit.segmenters.mm_checkpoint import load_module, quiet, read_checkpoint
from dgkit.segmenters.mmseg_config import (
    SCOPE,
    find_config,
    find_model,
    read_config,
    type_names,
    without_initial_weights,
)
from dgkit.taxonomies import Taxonomy, find_taxonomy

_LIBRARIES = ("mmseg", "mmengine", "mmcv")
_PACKAGES = ("mmseg.", "mmengine.", "mmcv.", "torch.nn.", "dgkit.")
_GRAPHS = ("onedl-mmsegmentation", "onedl-mmcv")
# Further packages of parts of dgkit's networks: module and extra of each by its name on an index.
_FURTHER = {
    "efficientnet-lite-pytorch": ("efficientnet_lite_pytorch", "imagenet"),
    "peft": ("peft", "train"),
    "transformers": ("transformers", "train"),
}
SCORE_HEADS = ("MaskedAttentionHead", "EomtHead")  # dgkit's query heads
_LOADERS = ("TIMMBackbone", "VPD", "CLIPTextEncoder")  # read or download files when they are built


def mmseg_source(checkpoint: Path, config: Path | None = None) -> ModuleSource:
    """Return the checkpoint of mmsegmentation at ``checkpoint``; nothing in it is executed.

    A stated ``config`` is executed, as mmsegmentation does. Otherwise the config is the one that
    :func:`~dgkit.segmenters.mmseg_config.find_config` finds, read as data. Classes are those of the checkpoint. Raises
    UsageError for a config that would have to be executed, InputError, ModelError, MissingDependency.
    """
    content = read_checkpoint(checkpoint)
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    model = _model_config(checkpoint, config, meta)
    build = _build_from_data if config is None else _build
    needed = _needed(model)
    software = " ".join(str(version(name)) for name in (*_GRAPHS, *needed))  # their code defines the graph
    try:
        mean, std, reverse = _normalization(model.get("data_preprocessor") or {}, checkpoint)
        facts = json.dumps(model, sort_keys=True, default=str) + software
        classes, side, taxonomy = _stated_classes(meta), _fixed_side(model), _stated_taxonomy(meta)
        names = classes or _usual_classes(model, checkpoint)
        values = SCORES if _head(model).get("type") in SCORE_HEADS else LOGITS
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ModelError(
            f"the config of {checkpoint} holds values of wrong types: {first_line(error)}",
            "choose another with --config",
        ) from error
    return ModuleSource(
        path=checkpoint,
        kind="mmsegmentation",
        load=lambda: _Network(build(model, checkpoint), reverse),
        digest=hashlib.sha256((digest_file(checkpoint) + facts).encode()).hexdigest(),
        classes=names,
        mean=mean,
        std=std,
        side=side,
        segformer=_head(model).get("type") == "SegformerHead",
        taxonomy=taxonomy,
        values=values,
        notes=() if classes else ("the checkpoint names no classes: they are taken in the usual order",),
    )


class _Network(nn.Module):
    """A module that maps normalized RGB images, float [N,3,H,W], to the logits of mmsegmentation's ``encode_decode``.

    Logits have the stride of the network. If the network aligns corners, or takes only multiples of a number so that
    images are padded on the right and at the bottom, they have the size of the images.
    """

    def __init__(self, network: Any, reverse: bool) -> None:
        super().__init__()
        self.network, self.reverse = network, reverse
        self.align = bool(getattr(network, "align_corners", False))
        settings = getattr(network.data_preprocessor, "test_cfg", None) or {}
        self.divisor, self.fill = settings.get("size_divisor"), float(network.data_preprocessor.pad_val)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if self.reverse:
            image = image.flip(1)
        padding = (0, 0) if self.divisor is None else (-height % self.divisor, -width % self.divisor)
        if any(padding):
            image = functional.pad(image, (0, padding[1], 0, padding[0]), value=self.fill)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="When align_corners")  # advice on image sizes
            logits = self.network._forward(image)
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise ModelError(
                f"{type(self.network).__name__} does not return a map of logits", "use a network with one head"
            )
        if self.align or any(padding):
            logits = functional.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=self.align)
        return logits[..., :height, :width] if any(padding) else logits


def _model_config(checkpoint: Path, config: Path | None, meta: Mapping[str, Any]) -> dict[str, Any]:
    if config is not None:
        return _executed(config)
    name, text = find_config(checkpoint, meta.get("cfg"))
    read = read_config(text, name)
    _prepare()
    return find_model(read, name)


def _executed(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise InputError(f"{config}: no such file", "check the path of --config")
    _prepare()
    try:
        with quiet():
            found = load_module("mmengine.config").Config.fromfile(str(config)).to_dict()
    except Exception as error:  # the file may raise anything when it is executed
        raise InputError(
            f"{config} cannot be read: {type(error).__name__}: {first_line(error)}", "correct the file"
        ) from error
    if not isinstance(found.get("model"), dict):
        raise InputError(f"{config} describes no network: it has no 'model'", "choose another with --config")
    return found["model"]


def _needed(model: Mapping[str, Any]) -> list[str]:
    """Return the packages that a network needs in addition to mmsegmentation's. Raises MissingDependency."""
    backbone = model.get("backbone")
    backbone = backbone if isinstance(backbone, Mapping) else {}
    kind = str(backbone.get("type"))
    found = {
        "efficientnet-lite-pytorch": kind in ("EfficientNetLite0", "ReinLite"),
        "peft": bool(backbone.get("lora")),
        "transformers": model.get("type") == "FoundationSegmentor",
    }
    needed = [name for name, wanted in found.items() if wanted]
    for name in needed:
        require(*_FURTHER[name])
    return needed


def _normalization(preprocessor: Mapping[str, Any], path: Path) -> tuple[Triple, Triple, bool]:
    """Return mean and std of RGB / 255, and whether the network takes BGR; mmsegmentation reads images as BGR."""
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    if mean is None or std is None or len(mean) != 3 or len(std) != 3:
        raise ModelError(f"{path}: its config states no mean and std of three channels", "choose another with --config")
    reverse = not preprocessor.get("bgr_to_rgb", False)
    step = -1 if reverse else 1
    first, second, third = (float(value) / 255 for value in mean[::step])
    spread = tuple(float(value) / 255 for value in std[::step])
    if not all(map(math.isfinite, (first, second, third, *spread))) or min(spread) <= 0:
        raise ModelError(f"{path}: mean {mean} and std {std} cannot normalize an image", "choose another with --config")
    return (first, second, third), (spread[0], spread[1], spread[2]), reverse


def _stated_classes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    stated = meta.get("dataset_meta")
    names = (stated if isinstance(stated, Mapping) else {}).get("classes") or meta.get("CLASSES")
    return tuple(str(name) for name in names or ())


def _stated_taxonomy(meta: Mapping[str, Any]) -> Taxonomy | None:
    """Return the taxonomy that dgkit train segmenter wrote; other checkpoints state none. Raises ModelError."""
    stated = meta.get("dataset_meta")
    found = stated.get("taxonomy") if isinstance(stated, Mapping) else None
    return None if found is None else find_taxonomy(found)


def _usual_classes(model: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    count = _head(model).get("num_classes")
    if count != NUM_CLASSES:
        raise ModelError(
            f"{path} does not name its {count} classes", f"name them, or use a model of the {NUM_CLASSES} classes"
        )
    return CLASSES


def _head(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the last head."""
    head = model.get("decode_head")
    return (head[-1] if isinstance(head, Sequence) else head) or {}


def _fixed_side(model: Mapping[str, Any]) -> int | None:
    """Return the input side of an exported HRDA, which slides windows of its own; None for other networks."""
    return int(model["test_cfg"]["crop_size"][0]) if model.get("type") == "HRDASegmentor" else None


def _build_from_data(model: Mapping[str, Any], checkpoint: Path) -> Any:
    """Build a network from a config that was read as data, so that nothing is imported, read or downloaded."""
    cleaned = without_initial_weights(model)
    registries = [load_module("mmseg.registry").MODELS, load_module("mmengine.registry").MODELS]
    registries.append(load_module("mmseg.registry").TASK_UTILS)
    for name in type_names(cleaned):
        found = next((registry.module_dict[name] for registry in registries if name in registry.module_dict), None)
        if found is None or not found.__module__.startswith(_PACKAGES) or name in _LOADERS:
            raise UsageError(
                f"the config of {checkpoint} names the class {name!r}, which "
                + ("is not registered" if found is None else "may read or download files"),
                "if you trust the config, pass it with --config: it is then executed",
            )
    with _no_imports():
        return _build(cleaned, checkpoint)


@contextlib.contextmanager
def _no_imports() -> Iterator[None]:
    """Keep mmengine's registries from importing what an unknown name stands for."""
    registry = load_module("mmengine.registry.registry")
    before = registry.import_module, registry.get_object_from_string

    def import_known(name: str) -> Any:
        if name.partition(".")[0] not in _LIBRARIES:
            raise ImportError(f"{name} is not part of mmsegmentation")
        return importlib.import_module(name)

    registry.import_module, registry.get_object_from_string = import_known, lambda name: None
    try:
        yield
    finally:
        registry.import_module, registry.get_object_from_string = before


def _build(model: Mapping[str, Any], checkpoint: Path) -> Any:
    settings = {**model, "pretrained": None, "train_cfg": None, "init_cfg": None}
    state = read_checkpoint(checkpoint)["state_dict"]
    try:
        with quiet():
            network = load_module("mmseg.registry").MODELS.build(settings)
            network = load_module("mmengine.model").revert_sync_batchnorm(network)
        network.load_state_dict(state)
    except Exception as error:  # registry, key, type and shape errors have the same cause
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ModelError(f"{checkpoint} does not fit its config: {reason}", "state the right --config") from error
    return network.eval()


def _prepare() -> None:
    """Register the classes of mmsegmentation."""
    load_module("mmseg.models")
    load_module("mmengine.registry").init_default_scope(SCOPE)
