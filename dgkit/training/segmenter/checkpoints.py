"""Checkpoints of a segmenter's training: complete or absent, verified by digests, with finite weights.

mmengine writes ``iter_N.pth`` in place and deletes older ones first. Here a checkpoint is written under a temporary
name, flushed and renamed, and its SHA-256 is kept in ``checkpoints.json``; only then are older ones deleted.
Checkpoints of earlier versions have no digest and are only checked for finite weights.
"""

import os
import re
from pathlib import Path
from typing import Any

from dgkit.errors import DgkitError, InputError, ModelError
from dgkit.files import atomic_write, digest_file, json_bytes, output_error, temporary_path
from dgkit.segmenters.mm_checkpoint import read_checkpoint
from dgkit.training.loop.integrity import check_finite, first_not_finite, read_object
from dgkit.training.segmenter.mm import Runner, master_only

DIGESTS = "checkpoints.json"
_NAME = re.compile(r"iter_(\d+)\.pth")
_BEST = re.compile(r"best_mIoU_iter_(\d+)\.pth")


class SafeRunner(Runner):
    """mmengine's Runner with checkpoints that survive kills and full disks; it keeps the newest ``keep`` of them."""

    keep = 1

    @master_only  # type: ignore[untyped-decorator]
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write ``out_dir/filename``. Raises DgkitError for weights that are not finite, and OutputError."""
        folder, path = Path(out_dir), Path(out_dir, filename)
        _check_weights(self, folder)
        temporary = temporary_path(path)
        try:
            super().save_checkpoint(out_dir, temporary.name, *args, **kwargs)
            _flush(temporary)
            # Both the old and the new content are valid until the rename is done.
            digests, new = read_digests(folder), digest_file(temporary)
            write_digests(folder, {**digests, filename: [*digests.get(filename, [])[-1:], new]})
            temporary.replace(path)
            write_digests(folder, {**digests, filename: [new]})
        except OSError as error:
            raise output_error(path, error) from error
        finally:
            temporary.unlink(missing_ok=True)
        if _NAME.fullmatch(filename):
            self._delete_old(folder)

    def _delete_old(self, folder: Path) -> None:
        for path in list_checkpoints(folder)[: -self.keep]:
            path.unlink()
        digests = {name: kept for name, kept in read_digests(folder).items() if (folder / name).exists()}
        write_digests(folder, digests)


def list_checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints ``iter_N.pth`` in ``out``, oldest first."""
    return _numbered(out, _NAME)


def best_checkpoint(out: Path) -> Path | None:
    """Return the checkpoint of the best validation in ``out``."""
    return next(iter(reversed(_numbered(out, _BEST))), None)


def find_checkpoint(out: Path) -> Path | None:
    """Return the newest checkpoint in ``out``, None if there is none. Raises ModelError if it is damaged.

    In a folder of an earlier version a file without a digest may be half-written; there it must be the one that
    mmengine names in ``last_checkpoint``, which it writes last.
    """
    found = list_checkpoints(out)
    if not read_digests(out):
        last = _named_last(out)
        found = [path for path in found if path.name == last]
    if not found:
        return None
    if damage := find_damage(found[-1]):
        good = next((path for path in reversed(found[:-1]) if not find_damage(path)), None)
        following = f"to resume from {good}" if good else "to start again: there is no intact earlier checkpoint"
        raise ModelError(f"the checkpoint {found[-1]} cannot be read: {damage}", f"delete that file {following}")
    return found[-1]


def find_damage(path: Path) -> str:
    """Return what is wrong with a checkpoint, "" if it is intact: its digest, else readability, and finite weights."""
    known = read_digests(path.parent).get(path.name)
    if known and digest_file(path) not in known:
        return "it differs from the SHA-256 recorded when it was written"
    try:
        content = read_checkpoint(path)
        check_finite(content["state_dict"], path.name, "")
    except ModelError as error:
        return error.message
    return "" if isinstance(content.get("meta"), dict) and "iter" in content["meta"] else "it has no iteration"


def read_digests(out: Path) -> dict[str, list[str]]:
    """Return the valid SHA-256 of each checkpoint by name, empty without ``checkpoints.json``. Raises InputError."""
    path = out / DIGESTS
    if not path.exists():
        return {}
    try:
        digests = read_object(path)
        if not all(isinstance(found, list) for found in digests.values()):
            raise ValueError(f"{path.name} is not a list of digests by name")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "delete it to resume without checking digests") from error
    return digests


def write_digests(out: Path, digests: dict[str, list[str]]) -> None:
    """Write ``checkpoints.json``."""
    atomic_write(out / DIGESTS, json_bytes(digests))


def _numbered(out: Path, name: re.Pattern[str]) -> list[Path]:
    found = [(int(match[1]), path) for path in out.glob("*.pth") if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _named_last(out: Path) -> str:
    try:
        return Path((out / "last_checkpoint").read_text(encoding="utf-8").strip()).name
    except (OSError, ValueError):
        return ""


def _check_weights(runner: Any, folder: Path) -> None:
    network = getattr(runner.model, "module", runner.model)
    if name := first_not_finite(network.state_dict()):
        found = list_checkpoints(folder)
        good = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
        raise DgkitError(
            f"{name} holds values that are not finite after {runner.iter} iterations; {good}",
            "train again in another folder with a lower train.lr or train.precision=bf16",
        )


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
