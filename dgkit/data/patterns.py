"""Files by patterns such as ``b/**/*.png``, and photographs that belong to label maps in other folders."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from dgkit.data.listing import is_hidden, same_name, split_ending
from dgkit.errors import InputError
from dgkit.files import local_path

# Ends of names, without the type of the file, that differ between a photograph and its label map.
_MARKS = (
    "_leftImg8bit", "_rgb_anon", "_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine_color", "_gt_labelTrainIds",
    "_gt_labelIds", "_gt_labelColor", "_labelTrainIds", "_labelIds", "_color", "_train_id", "_label", "_mask",
)  # fmt: skip


def has_wildcard(text: str) -> bool:
    """Return whether ``text`` is a pattern of file names."""
    return any(letter in text for letter in "*?[")


def fixed_folder(pattern: str) -> Path:
    """Return the folder above the first part of a pattern with a wildcard."""
    path = local_path(pattern).expanduser()
    count = next((i for i, part in enumerate(path.parts) if has_wildcard(part)), len(path.parts) - 1)
    return Path(*path.parts[:count])


def expand(pattern: str, endings: Sequence[str], what: str) -> list[Path]:
    """Return the files that match a pattern and have one of ``endings``, in any case, sorted; hidden ones are skipped.

    Raises InputError, which names the files ``what``, if there are none.
    """
    found = [Path(name) for name in sorted(glob.glob(str(local_path(pattern).expanduser()), recursive=True))]  # noqa: PTH207
    files = [file for file in found if split_ending(file.name, endings) and not is_hidden(file.name) and file.is_file()]
    if not files:
        other = f"{len(found)} other files" if found else "nothing"
        raise InputError(
            f"no {what} match {pattern}: it finds {other}",
            "quote the pattern, and use ** for any number of folders: 'maps/**/*.png'",
        )
    return files


def partners(labels: Mapping[Path, Path], images: Mapping[Path, Path]) -> dict[Path, Path]:
    """Return the photograph of each label map that has one; both map files to their paths below a fixed folder.

    Paths are compared without the type of the file and marks such as ``_leftImg8bit`` or ``_labelIds``; if no path is
    equal, the only photograph of the same name counts.
    """
    by_path: dict[str, Path] = {}
    by_name: dict[str, list[Path]] = {}
    for image, inside in images.items():
        by_path.setdefault(_plain(inside), image)
        by_name.setdefault(_plain(Path(inside.name)), []).append(image)
    found = {}
    for label, inside in labels.items():
        named = by_name.get(_plain(Path(inside.name)), [])
        partner = by_path.get(_plain(inside)) or (named[0] if len(named) == 1 else None)
        if partner is not None:
            found[label] = partner
    return found


def _plain(inside: Path) -> str:
    split = split_ending(inside.stem, _MARKS)
    return same_name(str(inside.with_name(inside.stem if split is None or not split[0] else split[0])))
