"""The safetensors files of one part of a model: a single file, or shards with an index, of one variant."""

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from dgkit.diffusion.part_config import KNOWN_PARTS, TEXT_ENCODERS, read_json
from dgkit.errors import ModelError, one_line, shown

if TYPE_CHECKING:
    from torch import Tensor

VARIANTS = ("", "fp16", "non_ema")  # in order of preference
FLOATS = ("float64", "float32", "bfloat16", "float16")
_PICKLES = ("bin", "pt", "pth", "ckpt")
_SHARD = re.compile(r"[\w.-]+\.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """``paths`` of the weights, in order of their names; ``index`` is the JSON file that lists shards, if any."""

    paths: tuple[Path, ...]
    index: Path | None = None


def find_weights(folder: Path, part: str) -> WeightFiles:
    """Return the weights of a part folder: full precision before fp16 before others, one file before shards.

    Raises ModelError if there are none, only pickles, several variants of which none is preferred, or if the index of
    shards names missing files.
    """
    name = choose_weights([path.name for path in folder.glob(f"{KNOWN_PARTS[part].stem}*")], part, str(folder))
    if name is None:
        raise _no_weights(folder, KNOWN_PARTS[part].stem)
    path = folder / name
    if not name.endswith(".json"):
        return WeightFiles((_regular(path),))
    names = list_shards(path)
    missing = [shard for shard in names if not (folder / shard).exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{folder / missing[0]}{more} is missing, a shard of {name}", "copy all shards")
    return WeightFiles(tuple(_regular(folder / shard) for shard in names), path)


def choose_weights(names: Sequence[str], part: str, where: str) -> str | None:
    """Return which of the files of a part holds its weights or is the index of its shards; None if there is none.

    ``where`` is the folder in messages. Raises ModelError for several variants of which none is preferred.
    """
    stem = KNOWN_PARTS[part].stem
    found = sorted({_variant(name, stem) for name in names if _is_weights(name, stem)})
    preferred = [variant for variant in VARIANTS if variant in found] or found
    if not preferred:
        return None
    if preferred[0] not in VARIANTS and len(preferred) > 1:
        raise ModelError(
            f"{where} has the weights {', '.join(found)}, of which none is {stem}.safetensors",
            f"rename the one to use to {stem}.safetensors",
        )
    variant = f".{preferred[0]}" if preferred[0] else ""
    single = f"{stem}{variant}.safetensors"
    return single if single in names else f"{stem}.safetensors.index{variant}.json"


def list_shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists. Raises ModelError if it is damaged."""
    return sorted(set(_weight_map(index).values()))


def open_tensors(files: WeightFiles, part: str) -> Iterator[tuple[str, Any, Path]]:
    """Yield name, open file and path of every tensor, without CLIP's position ids, which newer classes compute.

    Raises ModelError for a damaged file and for shards whose content differs from their index.
    """
    listed = _weight_map(files.index) if files.index else {}
    with ExitStack() as stack:
        for path in files.paths:
            file = stack.enter_context(_open(path))
            names = list(file.keys())
            differing = sorted(set(names) ^ {name for name, shard in listed.items() if shard == path.name})
            if files.index and differing:
                raise ModelError(
                    f"{path} does not hold what {files.index.name} lists: {one_line(differing[0], 100)}",
                    "download or copy the shards and their index again",
                )
            for name in names:
                if not (part in TEXT_ENCODERS and name.endswith("position_ids")):
                    yield name, file, path


def check_headers(files: WeightFiles) -> None:
    """Raise ModelError for a file whose size differs from its header, before anything reads or hashes it whole."""
    for path in files.paths:
        with _open(path):
            pass


def count_weights(files: WeightFiles, part: str) -> int:
    """Return the number of weights; only headers are read. Raises as :func:`open_tensors`."""
    return sum(math.prod(file.get_slice(name).get_shape()) for name, file, _ in open_tensors(files, part))


def finite_tensors(files: WeightFiles, part: str) -> Iterator[tuple[str, "Tensor"]]:
    """Yield name and tensor. Raises ModelError at the first that is not floating point, finite and readable."""
    for name, file, path in open_tensors(files, part):
        try:
            tensor = file.get_tensor(name)
        except (SafetensorError, OSError, MemoryError, RuntimeError, ValueError, AttributeError, KeyError) as error:
            raise ModelError(f"{path} is damaged: {one_line(str(error))}", "download or copy the file again") from None
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in FLOATS:
            raise ModelError(f"{path}: {one_line(name, 100)} has type {kind}; supported: fp64, fp32, bf16, fp16")
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"{path}: {one_line(name, 100)} contains NaN or infinity", "train or download the weights again"
            )
        yield name, tensor


def _is_weights(name: str, stem: str) -> bool:
    pattern = re.escape(stem) + r"((\.\w+)?\.safetensors|\.safetensors\.index(\.\w+)?\.json)"
    return re.fullmatch(pattern, name) is not None


def _variant(name: str, stem: str) -> str:
    rest = name.removeprefix(stem)
    return rest.replace(".safetensors", "").replace(".index", "").removesuffix(".json").strip(".")


def _weight_map(index: Path) -> dict[str, str]:
    """Return shard by tensor name. Shards are plain names of files next to the index."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{index} has no weight_map of tensors and shards", "download or copy the index again")
    for shard in found.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ModelError(f"{index} lists {shown(shard)}; expected safetensors files in the same folder")
    return found


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"{path} is not a regular file")
    return path


def _no_weights(folder: Path, stem: str) -> ModelError:
    pickles = sorted(path.name for suffix in _PICKLES for path in folder.glob(f"*.{suffix}"))
    if not pickles:
        return ModelError(f"{folder / stem}.safetensors is missing")
    names = [str(folder / name) for name in pickles if name.split("-0")[0] == pickles[0].split("-0")[0]]
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"save_file({{k: v.contiguous() for f in {names} for k, v in torch.load(f, weights_only=True).items()}}, "
        f"{str(folder / stem) + '.safetensors'!r})"
    )
    return ModelError(
        f"{folder} has only pickled weights ({pickles[0]}), which can execute code; expected {stem}.safetensors",
        f"convert: python -c {shlex.quote(code)}",
    )


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, MemoryError, ValueError, OverflowError) as error:
        reason = one_line(str(error)) or "it needs more memory than there is"
        raise ModelError(f"{path} is damaged: {reason}", "download or copy the file again") from None
