"""Folder layouts of the public data sets: where their label maps and photographs lie.

A layout is a list of trees, the forms in which the data set is found on disk; the first tree with label maps is used.
Within a tree the label ``LABELS/sub/<stem><suffix>`` belongs to the photograph ``IMAGES/sub/<stem><suffix>``.
"""

from dataclasses import dataclass

from dgkit.data.listing import PHOTOGRAPHS

ALL = "all"
GENERATED = "dgkit"  # folders written by dgkit generate
PAIRS = "pairs"  # the data set that two patterns of files define
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
TRAIN_IDS = ("_labelTrainIds.png", "train_ids")
# Files next to the label maps of Cityscapes, ACDC, Dark Zurich and BDD100K that hold no class ids.
LABEL_SKIPS = tuple(
    f"_{kind}.png"
    for kind in ("color", "labelColor", "instanceIds", "instanceTrainIds", "panoptic", "invIds", "invColor", "invGray")
)


@dataclass(frozen=True)
class Tree:
    """One form of a data set on disk.

    ``labels`` and ``images`` are folders below the root, searched recursively; ``{split}`` and ``{condition}`` stand
    for the folder names of splits and ``conditions``. ``suffixes`` are pairs (end of the file name, encoding), the
    preferred one first: of several files with the same stem the first suffix wins. An encoding of None marks files to
    skip. ``config`` is a file below the root with the class names of the encoding.
    """

    labels: str
    images: str
    suffixes: tuple[tuple[str, str | None], ...]
    image_suffixes: tuple[str, ...] = PHOTOGRAPHS
    conditions: tuple[str, ...] = ("",)
    config: str = ""


@dataclass(frozen=True)
class Layout:
    """A data set: a line of description, its trees, and the split used by default."""

    description: str
    trees: tuple[Tree, ...]
    default_split: str = ALL
    condition: str = ""


_CITYSCAPES = (("_gtFine_labelTrainIds.png", "train_ids"), ("_gtFine_labelIds.png", "cityscapes_ids"))
_ACDC = (("_gt_labelTrainIds.png", "train_ids"), ("_gt_labelIds.png", "cityscapes_ids"))
_GTA = (TRAIN_IDS, (".png", "cityscapes_ids"))
_BDD = (("_train_id.png", "train_ids"), ("_train_color.png", None), (".png", "train_ids"))
_DERIVED = ("_labelTrainIds.png", None)  # made by other tools with an unknown mapping

# Other names of data sets, such as those of the city's roles.
ALIASES = {"bdd": "bdd100k", "darkzurich": "dark_zurich"}

LAYOUTS = {
    "gta": Layout(
        "GTA5",
        (
            Tree("labels", "images", _GTA),
            Tree("labels/{split}", "images/{split}", _GTA),
        ),
    ),
    "synthia": Layout(
        "SYNTHIA-RAND-CITYSCAPES",
        (Tree("GT/LABELS", "RGB", (TRAIN_IDS, (".png", "synthia"))),),
    ),
    "cityscapes": Layout(
        "Cityscapes, fine annotations",
        (
            Tree("gtFine/{split}", "leftImg8bit/{split}", _CITYSCAPES, ("_leftImg8bit.png",)),
            Tree(
                "gtFine_trainvaltest/gtFine/{split}",
                "leftImg8bit_trainvaltest/leftImg8bit/{split}",
                _CITYSCAPES,
                ("_leftImg8bit.png",),
            ),
        ),
        "train",
    ),
    "bdd100k": Layout(
        "BDD100K, 10k semantic segmentation",
        (
            Tree("labels/sem_seg/masks/{split}", "images/10k/{split}", _BDD),
            Tree("seg/labels/{split}", "seg/images/{split}", _BDD),
            Tree("labels/{split}", "images/{split}", _BDD),
        ),
        "train",
    ),
    "mapillary": Layout(
        "Mapillary Vistas v1.2, mapping A (RobustNet, HRDA, DGInStyle)",
        (
            Tree("{split}/v1.2/labels", "{split}/images", (_DERIVED, (".png", "mapillary_a"))),
            Tree("{split}/labels", "{split}/images", (_DERIVED, (".png", "mapillary_a"))),
        ),
        "train",
    ),
    "mapillary_b": Layout(
        "Mapillary Vistas v1.2, mapping B (by name)",
        (
            Tree("{split}/v1.2/labels", "{split}/images", (_DERIVED, (".png", "mapillary_b"))),
            Tree("{split}/labels", "{split}/images", (_DERIVED, (".png", "mapillary_b"))),
        ),
        "train",
    ),
    "mapillary_v2": Layout(
        "Mapillary Vistas v2.0, mapping B (by the names in its config)",
        (
            Tree(
                "{split}/v2.0/labels",
                "{split}/images",
                (_DERIVED, (".png", "mapillary_b")),
                config="config_v2.0.json",
            ),
        ),
        "train",
    ),
    "acdc": Layout(
        "ACDC, by condition or flat",
        (
            Tree(
                "gt/{condition}/{split}",
                "rgb_anon/{condition}/{split}",
                _ACDC,
                ("_rgb_anon.png",),
                ("fog", "night", "rain", "snow"),
            ),
            Tree("gt/{split}", "rgb_anon/{split}", _ACDC, ("_rgb_anon.png",)),
        ),
        "train",
    ),
    "dark_zurich": Layout(
        "Dark Zurich",
        (Tree("gt/{split}", "rgb_anon/{split}", _ACDC, ("_rgb_anon.png",)),),
        "val",
        "night",
    ),
    "camvid": Layout(
        "CamVid, 11 classes; bicyclist counts as bicycle",
        (Tree("{split}annot", "{split}", ((".png", "camvid"),)),),
        "train",
    ),
    # Not a layout but two patterns, see open_pairs in dgkit.data.datasets.
    PAIRS: Layout("files by two patterns, IMAGES::LABELS::ENCODING", (Tree(".", ".", (TRAIN_IDS,)),)),
    GENERATED: Layout(
        "a folder written by dgkit generate",
        (Tree("labels", "images", (TRAIN_IDS,)),),
    ),
}
