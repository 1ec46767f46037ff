"""Opening label maps: a public data set, a folder, files by patterns, pairs with photographs, or arrays."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dgkit.data.colour_maps import COLOURS, is_colours
from dgkit.data.folder_taxonomy import class_numbers
from dgkit.data.labelmap import find_encoding
from dgkit.data.layouts import (
    ALIASES,
    ALL,
    GENERATED,
    LABEL_SKIPS,
    LAYOUTS,
    PAIRS,
    SPLIT_FOLDERS,
    TRAIN_IDS,
    Layout,
    Tree,
)
from dgkit.data.listing import PHOTOGRAPHS, split_ending, walk
from dgkit.data.patterns import expand, fixed_folder, has_wildcard, partners
from dgkit.data.samples import ArraySample, Dataset, Sample, tree_samples, with_ids
from dgkit.errors import InputError, LabelError, UsageError, did_you_mean
from dgkit.files import user_path
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, qualified
from dgkit.texts import count_of


def open_dataset(name: str, root: Path | str, split: str | None = None, taxonomy: Taxonomy = CITYSCAPES19) -> Dataset:
    """Find the samples of the data set ``name`` (see :data:`LAYOUTS`) below ``root``.

    ``split`` is "train", "val", "test" or "all"; None is the default of the layout. Files are listed, not read.
    Raises UsageError for an unknown name or split, InputError if there are no label maps or they are of other classes
    than ``taxonomy``.
    """
    name = ALIASES.get(name, name)
    if name not in LAYOUTS:
        raise UsageError(
            f"unknown data set {name!r}; known data sets: {', '.join(LAYOUTS)}",
            did_you_mean(name, LAYOUTS, "use --dataset NAME=DIR"),
        )
    if split not in (None, ALL, *SPLIT_FOLDERS):
        raise UsageError(
            f"unknown split {split!r}; known splits: {', '.join((*SPLIT_FOLDERS, ALL))}", "use for example --split val"
        )
    if name == PAIRS:
        if split not in (None, ALL):
            raise UsageError(
                f"--split {split} and {PAIRS} cannot be combined: the patterns select the files", "drop --split"
            )
        return open_pairs(str(root), taxonomy)
    layout = LAYOUTS[name]
    wanted = split or layout.default_split
    folder = _existing_folder(root)
    numbers = _layout_numbers(name, folder, taxonomy)
    for tree in layout.trees:
        samples = list(tree_samples(folder, tree, layout, wanted, taxonomy, numbers))
        if samples:
            _check_encodings(samples, taxonomy)
            return Dataset(name, folder, wanted, tuple(samples))
    others = splits_in(name, folder)
    if others:
        raise InputError(
            f"no label maps of {layout.description}, split {wanted}, below {folder}; it holds {' and '.join(others)}",
            f"use --split {others[0]}, or give another folder",
        )
    searched = ", ".join(dict.fromkeys(f"{tree.labels}/**/*{_label_suffixes(tree)}" for tree in layout.trees))
    raise InputError(
        f"no label maps of {layout.description}, split {wanted}, below {folder}; searched {searched}",
        f"give the folder that holds {layout.trees[0].labels.partition('/')[0]}/, or another --split",
    )


def _layout_numbers(name: str, folder: Path, taxonomy: Taxonomy) -> str:
    """Return the encoding that the layout calls train ids: those of Cityscapes, except for generated folders."""
    if name == GENERATED:
        return class_numbers(folder, taxonomy) or "train_ids"
    return "train_ids" if taxonomy.is_default else qualified(CITYSCAPES19, "train_ids")


def _check_encodings(samples: Sequence[Sample], taxonomy: Taxonomy) -> None:
    """Raise before a file is read if ``taxonomy`` has no table for the ids of the samples."""
    if not taxonomy.is_default:
        for encoding in {sample.encoding for sample in samples}:
            find_encoding(encoding, taxonomy)


def splits_in(name: str, root: Path | str) -> list[str]:
    """Return the splits of the data set ``name`` that have label maps below ``root``; none for other folders."""
    layout, folder = LAYOUTS[ALIASES.get(name, name)], user_path(root)

    def has(split: str) -> bool:
        return any(next(tree_samples(folder, tree, layout, split), None) is not None for tree in layout.trees)

    return [split for split in SPLIT_FOLDERS if has(split)]


def labels_folder(root: Path | str, encoding: str | None = None, taxonomy: Taxonomy = CITYSCAPES19) -> Dataset:
    """List a plain folder of label maps (PNG), recursively, or a folder with ``labels/`` and optionally ``images/``.

    If both ``a.png`` and ``a_labelTrainIds.png`` exist, the latter is used; ``*_labelIds.png`` are Cityscapes ids;
    other files have the id system ``encoding``, by default the usual one of ``taxonomy`` (train ids). Colour, instance
    and invalid maps of Cityscapes, ACDC and Dark Zurich are skipped; with an encoding by colours, maps of ids are
    skipped instead. Raises InputError if there are no PNG files of ids, or they are of other classes, UsageError for an
    unknown encoding.
    """
    folder = _existing_folder(root)
    stated = class_numbers(folder, taxonomy)
    plain = _plain(encoding or stated, taxonomy)
    suffixes = _colour_suffixes(plain) if is_colours(plain, taxonomy) else _id_suffixes(plain, taxonomy)
    inside = (folder / "labels").is_dir()
    tree = Tree("labels" if inside else ".", "images" if inside else "", suffixes)
    numbers = stated or "train_ids"
    samples = tuple(tree_samples(folder, tree, Layout("label maps", (tree,)), ALL, taxonomy, numbers))
    if not samples:
        raise _no_labels(folder / "labels" if inside else folder)
    return Dataset("labels", folder, ALL, samples)


_Suffixes = tuple[tuple[str, str | None], ...]


def _plain(encoding: str | None, taxonomy: Taxonomy) -> str:
    return find_encoding(encoding or taxonomy.usual_encoding, taxonomy).name


def _id_suffixes(plain: str, taxonomy: Taxonomy) -> _Suffixes:
    skips = tuple((suffix, None) for suffix in LABEL_SKIPS)
    ids = "cityscapes_ids" if taxonomy.is_default else plain
    return (TRAIN_IDS, ("_labelIds.png", ids), *skips, (".png", plain))


def _colour_suffixes(plain: str) -> _Suffixes:
    colours = ("_color.png", "_labelColor.png")
    others = (TRAIN_IDS[0], "_labelIds.png", *(suffix for suffix in LABEL_SKIPS if suffix not in colours))
    return (*((suffix, plain) for suffix in colours), *((suffix, None) for suffix in others), (".png", plain))


def label_files(
    folder: Path, files: Sequence[Path], encoding: str | None = None, taxonomy: Taxonomy = CITYSCAPES19
) -> Dataset:
    """Return single files below ``folder`` as label maps in ``encoding``, by default train ids, in the given order.

    Raises UsageError for an unknown encoding.
    """
    system = _plain(encoding, taxonomy)
    found = []
    for file in files:
        inside = file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)
        name = "_".join((*inside.parent.parts, file.stem))
        found.append((file.stem, name, Sample("", file, None, system, taxonomy=taxonomy)))
    return Dataset("labels", folder, ALL, tuple(with_ids(found)))


def find_labels(pattern: str, encoding: str | None = None, taxonomy: Taxonomy = CITYSCAPES19) -> Dataset:
    """List the PNG files that match a pattern such as ``b/**/*.png``, sorted, as label maps in ``encoding``.

    Hidden files are skipped. Raises InputError if no PNG file matches, UsageError for an unknown encoding.
    """
    return label_files(fixed_folder(pattern), expand(pattern, (".png",), "PNG files"), encoding, taxonomy)


def open_pairs(text: str, taxonomy: Taxonomy = CITYSCAPES19) -> Dataset:
    """Return label maps with their photographs by two patterns, ``"IMAGES::LABELS"`` or ``"IMAGES::LABELS::ENCODING"``.

    See :func:`~dgkit.data.patterns.partners` for which belong together. Raises UsageError for another text or an
    unknown encoding, InputError if a pattern matches no file.
    """
    images, separator, rest = text.partition("::")
    labels, _, encoding = rest.partition("::")
    if not separator or not images or not labels:
        raise UsageError(
            f"{PAIRS}={text} is not IMAGES::LABELS, two patterns of files",
            f"use for example '{PAIRS}=photos/**/*.jpg::maps/**/*.png::cityscapes_ids'",
        )
    dataset = find_labels(labels, encoding or None, taxonomy)
    folder, photographs = fixed_folder(images), expand(images, PHOTOGRAPHS, "photographs")
    found = partners(
        {sample.label: sample.label.relative_to(dataset.root) for sample in dataset.samples},
        {photograph: photograph.relative_to(folder) for photograph in photographs},
    )
    samples = tuple(replace(sample, image=found.get(sample.label)) for sample in dataset.samples)
    return replace(dataset, name=PAIRS, samples=samples)


def label_arrays(
    arrays: Iterable[np.ndarray], encoding: str | None = None, taxonomy: Taxonomy = CITYSCAPES19
) -> Dataset:
    """Return label maps in memory as a data set: integer arrays [H, W] of ids in ``encoding``, by default train ids.

    Raises LabelError without arrays or for another type or shape, UsageError for an unknown encoding or one by colours.
    """
    system = _plain(encoding, taxonomy)
    if is_colours(system, taxonomy):
        raise UsageError(f"encoding {system} is for files; arrays hold ids", "convert the colours to ids first")
    samples = []
    for number, array in enumerate(arrays):
        name = f"labels[{number}]"
        if isinstance(array, list | tuple):
            raise LabelError(
                f"{name}: a {type(array).__name__}; a label map is a 2-D array (height, width), best of uint8",
                "pass numpy.array(label, dtype=numpy.uint8)",
            )
        pixels = np.asarray(array)
        samples.append(ArraySample(f"array-{number:06d}", Path(name), None, system, taxonomy=taxonomy, array=pixels))
    if not samples:
        raise LabelError("labels is an empty list of arrays", "pass at least one label map")
    for sample in samples:
        sample.train_ids()
    return Dataset("labels", Path("labels"), ALL, tuple(samples))


def open_source(
    labels: Path | str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    encoding: str | None = None,
    taxonomy: Taxonomy = CITYSCAPES19,
) -> Dataset:
    """Open the label maps of a command: a folder or pattern of files ``labels``, or ``dataset`` as ``"NAME=DIR"``.

    Raises UsageError unless exactly one of the two is given, or if ``split`` or ``encoding`` cannot be combined with
    it; otherwise as :func:`labels_folder` and :func:`open_dataset`.
    """
    if (labels is None) == (dataset is None):
        got = "neither was" if labels is None else "both were"
        raise UsageError(f"label maps come from one of --labels and --dataset; {got} given", "use --labels DIR")
    if labels is not None:
        if split is not None:
            raise UsageError("--split and --labels cannot be combined", "give the folder of that split to --labels")
        pattern = has_wildcard(str(labels)) and not Path(labels).exists()
        if pattern:
            return find_labels(str(labels), encoding, taxonomy)
        return labels_folder(labels, encoding, taxonomy)
    assert dataset is not None
    name, equals, folder = dataset.partition("=")
    if not equals or not folder:
        raise UsageError(
            f"--dataset {dataset!r} is not NAME=DIR; known names: {', '.join(LAYOUTS)}", "use --dataset gta=DIR"
        )
    if encoding is not None:
        raise UsageError("--encoding and --dataset cannot be combined", "omit --encoding: each data set has its own")
    return open_dataset(name, folder, split, taxonomy)


def _existing_folder(root: Path | str) -> Path:
    folder = user_path(root)
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}", "give the root folder of the label maps")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}", f"make it readable: chmod u+rx '{folder}'") from error
    return folder


def _no_labels(folder: Path) -> InputError:
    names = [name for _, names in walk(folder) for name in sorted(names)]
    skipped = [name for name in names if split_ending(name, LABEL_SKIPS)]
    if skipped:
        return InputError(
            f"no label maps in {folder}: it holds {count_of(len(skipped), 'colour, instance or invalid map')} such as "
            f"{skipped[0]}",
            "give the files that hold class ids, such as *_labelTrainIds.png or *_labelIds.png, or read colour maps "
            f"with --encoding {COLOURS}",
        )
    return InputError(f"no PNG files in {folder}", "give a folder of label maps")


def _label_suffixes(tree: Tree) -> str:
    kept = [suffix for suffix, encoding in tree.suffixes if encoding is not None]
    return kept[0] if len(kept) == 1 else "{" + ",".join(kept) + "}"
