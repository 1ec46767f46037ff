"""The dataset card of a folder, and the files that other programs need to read it.

They are README.md, metadata.jsonl for `datasets`, and a config for mmsegmentation.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgkit import __version__
from dgkit.data.generated import GeneratedFolder, open_generated
from dgkit.files import read_file, write_changed
from dgkit.markdown import markdown_table
from dgkit.outputs.class_pixels import ClassPixels, count_classes
from dgkit.outputs.shards import tree_path
from dgkit.outputs.summary import Summary, summarise, write_summary
from dgkit.progress import Advance
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

CARD, SNIPPET, METADATA = "README.md", "mmseg_dataset.py", "metadata.jsonl"
_MARK = "<!-- Written by dgkit. Without this line dgkit leaves the file alone. -->"
# Files of the train split. They are spelt out because `datasets` takes "train" in a file name, which may be the class,
# for the name of a split.
FILES = {
    "generated": ["metadata.jsonl", "images/*.png", "labels/*.png"],
    "folder": ["train/metadata.jsonl", "train/images/*.png", "train/labels/*.png"],
    "webdataset": ["train-*.tar"],
    "parquet": ["data/train-*.parquet"],
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_CONTENT = {
    "generated": "`images/ID.png` (RGB), `labels/ID_labelTrainIds.png` (train ids, 255 = ignore), `vis/`, one line of "
    "`manifest.jsonl` for each scene, all settings in `config.yaml`.",
    "folder": "`train/images/ID.png` (RGB), `train/labels/ID_labelTrainIds.png` (train ids, 255 = ignore), "
    "`train/metadata.jsonl`.",
    "webdataset": "`train-NNNNNN.tar`: for each scene `KEY.image.png` (RGB), `KEY.label.png` (train ids, 255 = ignore) "
    "and `KEY.json`, its line of the manifest.",
    "parquet": "`data/train-*.parquet`: columns `image` (RGB), `label` (train ids, 255 = ignore), `style`, `class`, "
    "`prompt` and others; `record` is the line of the manifest.",
}


def write_card(
    path: Path | str,
    *,
    source_pixels: Sequence[int] | None = None,
    workers: int = 0,
    progress: Advance | None = None,
) -> Summary:
    """Write README.md, dataset.json, metadata.jsonl and mmseg_dataset.py into a generated folder.

    They depend on scenes and settings alone. ``source_pixels`` is as for :func:`summarise`. A README.md that dgkit did
    not write stays. Raises InputError if ``path`` is not a generated folder, LabelError for a label that cannot be
    read, OutputError if the folder cannot be written.
    """
    folder = open_generated(path, partial=True)
    return describe(folder, count_classes(folder, workers, progress), source_pixels)


def describe(folder: GeneratedFolder, pixels: ClassPixels, source_pixels: Sequence[int] | None = None) -> Summary:
    """Write the files of :func:`write_card` for a folder that was read and counted already."""
    summary = summarise(folder, pixels, source_pixels)
    write_summary(summary, folder.path)
    write_changed(folder.path / METADATA, metadata_lines(folder.records))
    write_changed(folder.path / SNIPPET, mmseg_snippet("", folder.taxonomy).encode())
    write_readme(folder.path, summary, "generated")
    return summary


def write_readme(folder: Path, summary: Summary, layout: str) -> None:
    """Write the card of a folder in one of the layouts of :data:`FILES`; a README.md that dgkit did not write stays."""
    path = folder / CARD
    if path.is_file() and _MARK.encode() not in read_file(path):
        return
    write_changed(path, card_text(summary, layout).encode("utf-8", "backslashreplace"))


def card_text(summary: Summary, layout: str) -> str:
    """Return the README.md for the Hugging Face hub: content, how to load it, licences of its parts."""
    parts = [
        _front_matter(summary, layout),
        _MARK,
        f"\n# {summary.images:,} labelled street scenes\n",
        f"Images{_pixels(summary)}, generated with dgkit {__version__}: each image shows a label map in the "
        f"style of a prompt. Labels are {_label_classes(summary.taxonomy)} as train ids.\n",
        markdown_table(("setting", "value"), _settings(summary)),
        f"## Files\n\n{_CONTENT[layout]}\n",
        _loading(layout),
        "## Styles\n",
        markdown_table(
            ("style", "images"),
            [(_style(name, summary.settings), f"{count:,}") for name, count in summary.styles.items()],
        ),
        _classes(summary),
        _licence(summary),
    ]
    return "\n".join(parts)


def metadata_lines(records: Iterable[dict[str, Any]]) -> bytes:
    """Return the ``metadata.jsonl`` of an image folder for `datasets`: ``image`` and ``label`` become image columns."""
    kept = ("id", "style", "class", "prompt", "source", "crop", "seed")
    lines = (
        {
            "file_name": tree_path(record, "image"),
            "label_file_name": tree_path(record, "label"),
            **{key: record[key] for key in kept},
        }
        for record in records
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "backslashreplace")


def mmseg_snippet(prefix: str, taxonomy: Taxonomy = CITYSCAPES19) -> str:
    """Return a config of mmsegmentation 1.x for its own folder; ``prefix`` is the path to images/ and labels/."""
    palette = [list(map(int, colour)) for colour in taxonomy.palette]
    return f"""# This folder as a data set of mmsegmentation 1.x:
#   _base_ = ["THIS_FOLDER/{SNIPPET}"]
# gives a config `train_dataloader`; other keys of the same name in your config win.
data_root = "{{{{ fileDirname }}}}"
metainfo = dict(
    classes={taxonomy.names!r},
    palette={palette!r},
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        data_prefix=dict(img_path="{prefix}images", seg_map_path="{prefix}labels"),
        img_suffix=".png",
        seg_map_suffix="_labelTrainIds.png",
        metainfo=metainfo,
        reduce_zero_label=False,
        ignore_index=255,
        pipeline=train_pipeline,
    ),
)
"""


def _front_matter(summary: Summary, layout: str) -> str:
    size = next((name for limit, name in _SIZES if summary.images < limit), "n>1M")
    licence = summary.licence or "other"
    files = "".join(f"\n    - {json.dumps(pattern)}" for pattern in FILES[layout])
    return (
        f"---\nlicense: {licence}\npretty_name: {summary.images} labelled street scenes\n"
        f"task_categories:\n- image-segmentation\nsize_categories:\n- {size}\n"
        "tags:\n- synthetic\n- street scenes\n- domain generalization\n- dgkit\n"
        f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path:{files}\n---"
    )


def _settings(summary: Summary) -> list[tuple[str, str]]:
    shown = ("preset", "steps", "guidance_scale", "style_mix", "engine", "dtype", "seed", "rare")
    rows = [("model", summary.model), ("label maps", summary.source)]
    rows += [(key, f"`{summary.settings[key]}`") for key in shown if summary.settings.get(key) is not None]
    rows += [(key, f"`{value}`") for key, value in summary.words.items() if key != "styles"]
    digests = [(f"{key} digest", f"`{str(summary.settings.get(f'{key}_digest'))[:16]}`") for key in ("model", "source")]
    return rows + digests


def _loading(layout: str) -> str:
    code = ['from datasets import load_dataset\n\nscenes = load_dataset("THIS_FOLDER", split="train")']
    code[0] += '\nimage, label = scenes[0]["image.png"], scenes[0]["label.png"]' * (layout == "webdataset")
    code[0] += '\nimage, label = scenes[0]["image"], scenes[0]["label"]' * (layout != "webdataset")
    if layout == "webdataset":
        code.append(
            'import glob\n\nimport webdataset\n\nshards = sorted(glob.glob("THIS_FOLDER/train-*.tar"))\n'
            'scenes = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("image.png", "label.png", "json")'
        )
    text = "".join(f"```python\n{block}\n```\n\n" for block in code)
    if layout in ("generated", "folder"):
        text += f'mmsegmentation: `_base_ = ["THIS_FOLDER/{SNIPPET}"]` in a config.\n'
    return f"## Loading\n\n{text}"


def _classes(summary: Summary) -> str:
    source = summary.source_pixels or (0,) * summary.taxonomy.size
    rows = [
        (name, _share(summary.pixels[i], sum(summary.pixels)), _share(source[i], sum(source)),
         f"{summary.scenes[i]:,}", f"{summary.drawn.get(name, 0):,}")
        for i, name in enumerate(summary.taxonomy.names)
    ]  # fmt: skip
    heads = ("class", "pixels", "pixels in the source", "images with it", "crops for it")
    table = markdown_table(heads, rows)
    return f"## Classes\n\nShares of the pixels that are not ignored; {summary.ignored_share:.2%} are.\n\n{table}"


def _licence(summary: Summary) -> str:
    if summary.licence is not None:
        return (
            "## Licence\n\nModel and label maps are part of dgkit, which is licensed under Apache-2.0; images and "
            "labels may be used under the same terms.\n"
        )
    return (
        f"## Licence\n\nNot settled by dgkit. The images are the output of a model ({summary.model}) whose licence may "
        f"restrict their use. The labels are crops of other people's work ({summary.source}), whose terms apply. Check "
        "both, and state here what applies before you distribute this folder.\n"
    )


def _label_classes(taxonomy: Taxonomy) -> str:
    return f"the {taxonomy.size} classes of {'Cityscapes' if taxonomy.is_default else taxonomy.name}"


def _pixels(summary: Summary) -> str:
    return f" of {summary.size[1]} x {summary.size[0]} pixels" if summary.size else ""


def _style(name: str, settings: Mapping[str, Any]) -> str:
    """Return the name of a style, with its clause if the settings define one."""
    for key in ("styles", "style_mix"):
        own = settings.get(key)
        if isinstance(own, dict) and isinstance(own.get(name), dict) and own[name].get("clause"):
            return f"{name}: {own[name]['clause']}"
    return "without style" if name == "none" else name


def _share(count: int, total: int) -> str:
    return f"{count / total:.3%}" if total else "-"
