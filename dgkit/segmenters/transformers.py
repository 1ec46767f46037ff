"""SegFormer folders of the transformers library as segmenters."""

import contextlib
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dgkit.documents import parse_config_json, read_bytes
from dgkit.errors import ModelError, one_line, shown
from dgkit.files import digest_file, open_regular
from dgkit.labels import CLASSES, NUM_CLASSES
from dgkit.optional import first_line
from dgkit.segmenters.base import IMAGENET_MEAN, IMAGENET_STD, ModuleSource, Triple
from dgkit.texts import count_of

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
MAX_SIZE, MAX_LAYERS = 65536, 1024  # larger numbers in a config are mistakes
_SAVE = "save or download it again"
_DTYPES = ("float32", "float16", "bfloat16")
_UNUSED = ("do_resize", "do_center_crop", "do_pad")  # the protocol of the evaluation determines the size of images


def transformers_source(folder: Path) -> ModuleSource:
    """Return the SegformerForSemanticSegmentation in ``folder``; nothing in it is executed or fetched.

    Classes are those of ``id2label``; the normalization is that of ``preprocessor_config.json``, by default ImageNet's.
    The digest covers weights (single or sharded), config and normalization. Raises ModelError, also for a folder with a
    PEFT adapter, which transformers would apply only where peft is installed.
    """
    config = read_config_json(folder / "config.json")
    if config.get("model_type") != "segformer":
        raise ModelError(
            f"{folder} holds a {shown(config.get('model_type'))} model; allowed: 'segformer'",
            "export it to ONNX: an .onnx file may hold any network",
        )
    if (folder / ADAPTER).exists():
        raise ModelError(
            f"{folder} holds a PEFT adapter ({ADAPTER}), which dgkit does not apply",
            f"merge it (merge_and_unload) and save the model, or remove {ADAPTER} to use the model without it",
        )
    if config.get("quantization_config") is not None:
        raise ModelError(f"{folder} holds quantized weights; allowed: fp32, fp16, bf16", "save it without quantization")
    if config.get("num_channels", 3) != 3:
        raise ModelError(f"{folder} takes images of {shown(config['num_channels'])} channels; allowed: 3", "use RGB")
    files = _weight_files(folder)
    names, notes = _classes(config, folder / "config.json")
    mean, std, ignored = _normalization(folder / "preprocessor_config.json")
    return ModuleSource(
        path=folder,
        kind="transformers SegFormer",
        load=lambda: _Segformer(folder, config),
        digest=_digest(files, config, mean, std),
        classes=names,
        mean=mean,
        std=std,
        notes=(*notes, *ignored),
        segformer=True,
    )


class _Segformer(nn.Module):
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import SegformerForSemanticSegmentation

        try:
            with without_progress_bar():
                self.model, found = SegformerForSemanticSegmentation.from_pretrained(
                    folder,
                    config=_network_config(config),
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except Exception as error:  # a damaged file raises one of many library errors
            raise ModelError(f"{folder} cannot be read: {first_line(error)}", _SAVE) from error
        missing = sorted(found["missing_keys"])
        if missing:  # the library would initialize them at random
            raise ModelError(
                f"{folder} lacks {count_of(len(missing), 'weight')} of the network, the first is {missing[0]}",
                "use a whole segmenter: a backbone alone has no classes",
            )

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image, return_dict=False)[0]


def read_network_config(folder: Path) -> Any:
    """Return the SegformerConfig in ``folder``, of the keys that describe the network.

    All other keys are dropped, since some make transformers import or download code (``attn_implementation``). Raises
    ModelError for a file that is no JSON object, ValueError for sizes that no network has.
    """
    return _network_config(read_config_json(folder / "config.json"))


def _network_config(config: Mapping[str, Any]) -> Any:
    """Return the SegformerConfig of the content of a ``config.json``, as :func:`read_network_config` does."""
    from transformers import SegformerConfig

    kept = network_settings(config, {*SegformerConfig.__annotations__, "id2label", "label2id"})
    strides = kept.get("strides", [])  # no weight has their size, so that wrong ones show only when the network runs
    if not isinstance(strides, list) or not all(type(stride) is int and stride >= 1 for stride in strides):
        raise ValueError(f"its config states strides {shown(strides)}; allowed are integers from 1")
    dtype = config.get("dtype", config.get("torch_dtype"))
    return SegformerConfig(**kept, **({"dtype": dtype} if dtype in _DTYPES else {}))


def network_settings(config: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the ``known`` keys of the content of a ``config.json``. Raises ValueError for sizes that no network has.

    Other keys are dropped, since some make transformers import or download code.
    """
    kept = {name: value for name, value in config.items() if name in known}
    numbers = [value for entry in kept.values() for value in (entry if isinstance(entry, list) else [entry])]
    large = [value for value in numbers if isinstance(value, int | float) and not abs(value) <= MAX_SIZE]
    depths = kept.get("depths")
    if large or (isinstance(depths, list) and sum(v for v in depths if isinstance(v, int)) > MAX_LAYERS):
        raise ValueError(f"its config states {large[0] if large else depths}, which is too large")
    return kept


@contextlib.contextmanager
def without_progress_bar() -> Iterator[None]:
    """Keep transformers from showing a progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights: one, or an index and its shards."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}", "save it with safe_serialization")
    shards = read_config_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()) or not shards:
        raise ModelError(f"{folder / INDEX} does not name the files of the weights", _SAVE)
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelError(f"{folder / INDEX} names {shown(name)}, which is not a file in {folder}", _SAVE)
    return [folder / INDEX, *(folder / name for name in names)]


def _check_header(path: Path) -> None:
    """Raise ModelError if the header of a safetensors file does not fit the file; its tensors are not read."""
    if path.suffix != ".safetensors":
        return
    try:
        with open_regular(path), safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError, MemoryError) as error:
        raise ModelError(f"{path} cannot be read: {one_line(first_line(error))}", _SAVE) from error


def _digest(files: list[Path], config: Mapping[str, Any], mean: Triple, std: Triple) -> str:
    """Return the SHA-256 of weights, config and normalization; ImageNet's normalization is not part of it."""
    for path in files:
        _check_header(path)
    parts = [digest_file(path) for path in files] + [json.dumps(config, sort_keys=True)]
    if (mean, std) != (IMAGENET_MEAN, IMAGENET_STD):
        parts.append(json.dumps([mean, std]))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _classes(config: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names in the order of the channels, and what was assumed about them."""
    found = config.get("id2label")
    if found is None and config.get("num_labels") == NUM_CLASSES:
        found = {str(number): f"LABEL_{number}" for number in range(NUM_CLASSES)}
    if not isinstance(found, dict) or sorted(map(str, found)) != sorted(map(str, range(len(found)))) or not found:
        raise ModelError(f"{path}: 'id2label' does not map the numbers 0, 1, 2, ... to names", "correct the file")
    names = tuple(found[str(number)] for number in range(len(found)))
    if not all(isinstance(name, str) for name in names):
        wrong = next(name for name in names if not isinstance(name, str))
        raise ModelError(f"{path}: 'id2label' holds {shown(wrong)}; allowed are names", "correct the file")
    if names == tuple(f"LABEL_{number}" for number in range(NUM_CLASSES)):
        return CLASSES, ("config.json names no classes: they are taken in the usual order",)
    return names, ()


def _normalization(path: Path) -> tuple[Triple, Triple, tuple[str, ...]]:
    """Return mean and std of RGB / 255 that give the tensors of the image processor, and which settings have no effect.

    The processor computes (value * rescale_factor - mean) / std, where ``do_rescale`` and ``do_normalize`` are true.
    """
    values = read_config_json(path) if path.is_file() else {}
    if values.get("do_flip_channel_order"):
        raise ModelError(f"{path}: the network takes BGR images (do_flip_channel_order)", "export it to ONNX with RGB")
    mean, std = _triple(values, "image_mean", IMAGENET_MEAN, path), _triple(values, "image_std", IMAGENET_STD, path)
    factor = values.get("rescale_factor")
    factor = 1 / 255 if factor is None else _number(factor, "rescale_factor", path)
    if factor <= 0 or min(std) <= 0:
        raise ModelError(f"{path}: image_std and rescale_factor must be above 0", "correct the file")
    if not _flag(values, "do_normalize", path):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    scale = 255 * factor if _flag(values, "do_rescale", path) else 255.0
    if not math.isclose(scale, 1):
        mean, std = ((v[0] / scale, v[1] / scale, v[2] / scale) for v in (mean, std))
    unused = [key for key in _UNUSED if values.get(key)]
    note = f"{path.name}: {', '.join(unused)} not applied; the protocol determines the size of images"
    return mean, std, ((note,) if unused else ())


def _flag(values: Mapping[str, Any], key: str, path: Path) -> bool:
    found = values.get(key)
    if found is not None and not isinstance(found, bool):
        raise ModelError(f"{path}: {key} is {shown(found)}; allowed are true and false", "correct the file")
    return found is not False


def _number(value: Any, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ModelError(f"{path}: {key} is {shown(value)}; allowed is a finite number", "correct the file")
    return value


def _triple(values: Mapping[str, Any], key: str, default: Triple, path: Path) -> Triple:
    found = values.get(key)
    if found is None:
        return default
    if isinstance(found, int | float):  # one number for all channels
        found = [found] * 3
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(v, int | float) for v in found):
        raise ModelError(f"{path}: {shown(found)} is not a list of three numbers", "correct the file")
    first, second, third = (_number(value, key, path) for value in found)
    return first, second, third


def read_config_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ModelError."""
    try:
        found = parse_config_json(read_bytes(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}", _SAVE) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} does not hold a JSON object", _SAVE)
    return found
