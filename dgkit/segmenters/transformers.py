"""SegFormer folders of the transformers library as segmenters."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dgkit.errors import ModelError
from dgkit.files import digest_file
from dgkit.labels import CLASSES, NUM_CLASSES
from dgkit.segmenters.base import IMAGENET_MEAN, IMAGENET_STD, ModuleSource, Triple

_WEIGHTS = "model.safetensors"


def transformers_source(folder: Path) -> ModuleSource:
    """Return the SegformerForSemanticSegmentation in ``folder``; nothing in it is executed.

    Classes are those of ``id2label``; mean and std those of ``preprocessor_config.json``, by default ImageNet's.
    Raises ModelError.
    """
    config = _json(folder / "config.json")
    if config.get("model_type") != "segformer":
        raise ModelError(
            f"{folder} holds a {config.get('model_type')!r} model; allowed: 'segformer'",
            "export it to ONNX: an .onnx file may hold any network",
        )
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {_WEIGHTS}", "save it with safe_serialization")
    labels = {int(number): str(name) for number, name in dict(config.get("id2label") or {}).items()}
    names = tuple(labels[number] for number in sorted(labels))
    if len(names) == NUM_CLASSES and names == tuple(f"LABEL_{number}" for number in range(NUM_CLASSES)):
        names = CLASSES  # unnamed classes are in the usual order
    preprocessor = folder / "preprocessor_config.json"
    values = _json(preprocessor) if preprocessor.is_file() else {}
    return ModuleSource(
        path=folder,
        kind="transformers SegFormer",
        load=lambda: _Segformer(folder),
        digest=hashlib.sha256(
            (digest_file(folder / _WEIGHTS) + json.dumps(config, sort_keys=True)).encode()
        ).hexdigest(),
        classes=names,
        mean=_triple(values.get("image_mean"), IMAGENET_MEAN, preprocessor),
        std=_triple(values.get("image_std"), IMAGENET_STD, preprocessor),
    )


class _Segformer(nn.Module):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import SegformerForSemanticSegmentation

        try:
            with _without_progress_bar():
                self.model, found = SegformerForSemanticSegmentation.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, output_loading_info=True
                )
        except Exception as error:  # a damaged file raises one of many library errors
            raise ModelError(f"{folder} cannot be read: {error}", "save or download it again") from error
        missing = sorted(found["missing_keys"])
        if missing:  # the library would initialize them at random
            raise ModelError(
                f"{folder / _WEIGHTS} lacks {len(missing)} weights of the network, the first is {missing[0]}",
                "use a whole segmenter: a backbone alone has no classes",
            )

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image, return_dict=False)[0]


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "save or download it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} does not hold a JSON object", "save or download it again")
    return found


def _triple(values: Any, default: Triple, path: Path) -> Triple:
    if values is None:
        return default
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise ModelError(f"{path}: {values!r} is not a list of three numbers", "correct the file")
    return values[0], values[1], values[2]
