"""Files by patterns such as ``b/**/*.png``, and photographs that belong to label maps in other folders."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dgkit.data.listing import find_matches, same_name, split_ending
from dgkit.errors import InputError
from dgkit.files import user_path
from dgkit.texts import count_of

# Ends of names, without the type of the file, that differ between a photograph and its label map.
_MARKS = (
    "_leftImg8bit", "_rgb_anon", "_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine_color", "_gt_labelTrainIds",
    "_gt_labelIds", "_gt_labelColor", "_labelTrainIds", "_labelIds", "_color", "_train_id", "_label", "_mask",
)  # fmt: skip


def has_wildcard(text: str) -> bool:
    """Return whether ``text`` is a pattern of file names."""
    return any(letter in text for letter in "*?[")


def fixed_folder(pattern: str) -> Path:
    """Return the folder above the first part of a pattern with a wildcard; folders named ``a[1]`` are no patterns."""
    return _split(pattern)[0]


def expand(pattern: str, endings: Sequence[str], what: str) -> list[Path]:
    """Return the files that match a pattern and have one of ``endings``, in any case, sorted; hidden ones are skipped.

    A folder counts once, also if links lead to it. Raises InputError naming the files ``what`` if there are none.
    """
    folder, parts = _split(pattern)
    found = sorted(set(find_matches(folder, parts)) if parts else [], key=str)
    files = [file for file in found if split_ending(file.name, endings)]
    if not files:
        raise InputError(
            f"no {what} match {pattern}: it matches {count_of(len(found), 'other file')}",
            "quote the pattern, and use ** for any number of folders: 'maps/**/*.png'",
        )
    return files


def _split(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """Return the folder above the first part with a wildcard, and the parts from there on; none for an empty text."""
    path = user_path(pattern)
    count = max(0, len(path.parts) - 1)
    for number, part in enumerate(path.parts[:-1]):
        if has_wildcard(part) and not Path(*path.parts[: number + 1]).is_dir():
            count = number
            break
    return Path(*path.parts[:count]), path.parts[count:]


def partners(labels: Mapping[Path, Path], images: Mapping[Path, Path]) -> dict[Path, Path]:
    """Return the photograph of each label map that has one; both map files to their paths below a fixed folder.

    Paths are compared without the type of the file and marks such as ``_leftImg8bit`` or ``_labelIds``. If no path is
    equal, the photograph of the same name counts, as long as no other photograph or label map has that name. A label
    map is never a photograph. Raises InputError for a label map with several photographs at its path.
    """
    by_path: dict[str, list[Path]] = defaultdict(list)
    named: dict[str, list[Path]] = defaultdict(list)
    for image, inside in images.items():
        if image not in labels:
            by_path[_plain(inside)].append(image)
            named[_plain(Path(inside.name))].append(image)
    asking: dict[str, set[str]] = defaultdict(set)
    for inside in labels.values():
        asking[_plain(Path(inside.name))].add(_plain(inside))
    found = {}
    for label, inside in labels.items():
        name = _plain(Path(inside.name))
        alone = len(named[name]) == len(asking[name]) == 1
        same = by_path.get(_plain(inside)) or (named[name] if alone else [])
        if len(same) > 1:
            raise InputError(
                f"{label}: {len(same)} photographs have its name, among them {same[0].name} and {same[1].name}",
                "remove all but one, or use a pattern that one of them matches, such as '*.jpg'",
            )
        if same:
            found[label] = same[0]
    return found


def _plain(inside: Path) -> str:
    split = split_ending(inside.stem, _MARKS)
    return same_name(str(inside.with_name(inside.stem if split is None or not split[0] else split[0])))
