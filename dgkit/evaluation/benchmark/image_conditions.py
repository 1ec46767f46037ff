"""Conditions of the images of a data set, such as weather or style, from folder names, attributes or a manifest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgkit.data import manifest
from dgkit.data.folder_taxonomy import MANIFEST
from dgkit.data.layouts import GENERATED, SPLIT_FOLDERS
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import InputError, one_line
from dgkit.files import parse_json
from dgkit.progress import Notify

BDD100K = "bdd100k"
ATTRIBUTES = ("weather", "timeofday", "scene")  # of BDD100K
# Files of BDD100K that state attributes, below its root, with the name of the split.
ATTRIBUTE_FILES = (
    "labels/sem_seg/polygons/sem_seg_{split}.json",
    "labels/bdd100k_labels_images_{split}.json",
    "bdd100k_labels_images_{split}.json",
    "labels/det_20/det_{split}.json",
)
Groups = dict[str, list[str]]
"""Ids of the images of each condition, which need not be disjoint."""


def folder_conditions(samples: Iterable[Sample]) -> Groups:
    """Return the ids of the images of each condition that the folders of a data set name."""
    return _grouped((sample.condition, sample.id) for sample in samples if sample.condition)


def stated_conditions(dataset: Dataset, samples: Sequence[Sample]) -> Groups:
    """Return the ids of the images of each condition that files of the data set state.

    These are attributes of BDD100K, such as "weather rainy", and the styles of a generated folder, "style snow"; other
    data sets have none. Raises InputError for a file that cannot be read.
    """
    if dataset.name == BDD100K:
        attributes = _bdd_attributes(dataset)
        return _grouped(
            (f"{key} {found[key]}", sample.id)
            for key in ATTRIBUTES
            for sample in samples
            if isinstance((found := attributes.get(Path(str(sample.image)).stem, {})).get(key), str)
        )
    if dataset.name == GENERATED:
        lines = {Path(str(line.get("image"))).stem: line for line in manifest.read(dataset.root / MANIFEST)}
        styles = ((sample, lines.get(Path(str(sample.image)).stem, {}).get("style")) for sample in samples)
        return _grouped((f"style {style}", sample.id) for sample, style in styles if isinstance(style, str))
    return {}


def find_conditions(
    sets: Sequence[Dataset],
    samples: Mapping[str, Sequence[Sample]],
    notify: Notify | None = None,
    *,
    required: bool = True,
) -> dict[str, Groups]:
    """Return :func:`stated_conditions` of each data set; ``notify`` gets a line about each that has none at all.

    Raises InputError if conditions are ``required`` and no data set has any, stated or in the names of folders.
    """
    found = {dataset.name: stated_conditions(dataset, samples[dataset.name]) for dataset in sets}
    without = [name for name, groups in found.items() if not groups and not folder_conditions(samples[name])]
    if required and len(without) == len(found):
        raise InputError(
            f"no data set states conditions: {', '.join(without)}",
            "omit conditions from --metrics, or add acdc, a generated folder, or bdd with its attributes "
            f"({ATTRIBUTE_FILES[0].format(split='val')})",
        )
    if notify is not None:
        for name in without:
            notify(f"{name}: its files state no conditions")
    return found


def _bdd_attributes(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return the attributes of each image by its name without ending."""
    names = [name for names in SPLIT_FOLDERS.values() for name in names]
    wanted = [name for name in names if dataset.split in ("all", name)] or list(SPLIT_FOLDERS[dataset.split])
    paths = [dataset.root / text.format(split=name) for text in ATTRIBUTE_FILES for name in wanted]
    found: dict[str, dict[str, Any]] = {}
    for frame in (frame for path in paths if path.is_file() for frame in _frames(path)):
        if isinstance(frame, dict) and isinstance(frame.get("attributes"), dict):
            found.setdefault(Path(str(frame.get("name"))).stem, frame["attributes"])
    return found


def _frames(path: Path) -> Iterator[Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {one_line(str(error))}", "download it again, or remove it") from error
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise InputError(f"{path} holds no list of images", "download it again, or remove it")
    yield from frames


def _grouped(pairs: Iterable[tuple[str, str]]) -> Groups:
    """Return ids by condition, sorted by name."""
    found: Groups = {}
    for condition, name in pairs:
        found.setdefault(condition, []).append(name)
    return dict(sorted(found.items()))
