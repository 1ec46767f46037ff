"""Integrity of what a training writes and reads again: sizes and SHA-256 of files, and finite values."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgkit.errors import ModelError
from dgkit.files import atomic_write, digest_file, json_bytes, open_regular, parse_json

Files = dict[str, dict[str, Any]]
"""Size in bytes and SHA-256 of files by their paths below a folder, with forward slashes."""

_LONGEST_JSON = 1 << 26  # bytes; state files are far smaller


def digest_files(folder: Path, paths: Iterable[Path]) -> Files:
    """Return size and digest of ``paths``, which lie below ``folder``; folders stand for all files in them."""
    files: Files = {}
    for path in sorted(paths):
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            name = file.relative_to(folder).as_posix()
            files[name] = {"size": file.stat().st_size, "sha256": digest_file(file)}
    return files


def find_damage(folder: Path, files: Any) -> str:
    """Return what is wrong with the first file of ``folder`` that is not as recorded in ``files``, "" if all are."""
    if not isinstance(files, Mapping):
        return "the list of files is not a JSON object"
    for name, expected in files.items():
        path = folder / name
        if not isinstance(expected, Mapping):
            return f"{name}: the recorded size and SHA-256 are missing"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected.get("size"):
            return f"{name} has {path.stat().st_size} bytes, {expected.get('size')} were written"
        if digest_file(path) != expected.get("sha256"):
            return f"{name} differs from the SHA-256 recorded when it was written"
    return ""


def digest_weights(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors and names; batch norm counters are skipped, weight files lack them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def first_not_finite(tensors: Mapping[str, Any]) -> str:
    """Return the name of the first floating-point tensor in ``tensors`` that holds NaN or infinity, "" if none does."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return ""


def check_finite(tensors: Mapping[str, Any], what: str, hint: str) -> None:
    """Raise ModelError with ``hint`` if a tensor of ``what`` holds NaN or infinity."""
    if name := first_not_finite(tensors):
        raise ModelError(f"{what}: {name} holds values that are not finite", hint)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises OSError, and ValueError for anything else than a JSON object."""
    with open_regular(path, _LONGEST_JSON) as stream:
        data = stream.read()
    try:
        content = parse_json(data)
    except ValueError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} contains a {type(content).__name__}, expected a JSON object")
    return content


def record_result(path: Path, folder: Path, written: Iterable[Path], **facts: Any) -> None:
    """Write ``path``, the proof that a training is finished: ``facts``, and the digests of all files ``written``.

    ``written`` are files and folders below ``folder``.
    """
    atomic_write(path, json_bytes({**facts, "files": digest_files(folder, written)}))


def find_result(path: Path, folder: Path, **facts: Any) -> str | None:
    """Return "" if ``path`` records a finished training with ``facts`` whose files are all intact.

    Returns None if there is no such record, and what is wrong if a file is missing or differs.
    """
    if not path.is_file():
        return None
    try:
        record = read_object(path)
    except (OSError, ValueError) as error:
        return str(error)
    if any(name not in record or record[name] != value for name, value in facts.items()):
        return None
    return find_damage(folder, record.get("files"))
