"""Generated folders: manifests, settings, images, filtered labels, packed sets."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import yaml

from tests.fuzz.checks import attempt, command
from tests.fuzz.documents import damage_json, damage_lines, damage_yaml
from tests.fuzz.mutations import (
    broken_bytes,
    odd_file,
)
from tests.fuzz.pictures import make_png

HEIGHT, WIDTH = 96, 128  # of the scenes


def generated(folder: Path) -> None:
    """A folder of three scenes."""
    from tests.generated import make_generated

    make_generated(folder / "out", 3)


def read_generated(rng: random.Random, folder: Path) -> None:
    from dgkit.data import manifest
    from dgkit.data.generated import find_agreement, list_scenes, open_generated
    from dgkit.generation.verification import inspect_folder
    from dgkit.progress import ignore

    out = folder / "out"
    attempt(
        lambda: manifest.read(out / "manifest.jsonl"),
        lambda: find_agreement(open_generated(out, partial=True)),
        lambda: [scene.read() for scene in list_scenes(out, refuse_unlabelled=True)],
        lambda: inspect_folder(out, ignore)[1].to_json(),
        lambda: _sample_command(rng, folder),
    )


def _sample_command(rng: random.Random, folder: Path) -> None:
    """Now and then one of the commands that read a generated folder."""
    out = folder / "out"
    if rng.random() > 0.15:
        return
    match rng.randrange(8):
        case 0 | 1:
            command("report", out, "--json")
        case 2 | 3:
            command("verify", out, "--json")
        case 4:
            command("pack", out, "--format", rng.choice(("webdataset", "parquet", "folder")), folder / "packed")
        case 5:
            command("stats", "--labels", out / "labels", "--json", "--cache", folder / "cache.npz")
        case 6:
            command("filter", out, "--boundary", "1")
        case _:
            command("merge", folder / "merged", out)


def make_filtered(folder: Path) -> None:
    """A generated folder with filtered labels, its card, and the journal files of the filter."""
    from dgkit.generation.filter_folder import filter_folder
    from dgkit.outputs.report_page import report

    generated(folder)
    filter_folder(folder / "out", boundary=1, duplicates=2)
    filtered = folder / "out" / "labels_filtered"
    shutil.copy(filtered / "manifest.jsonl", filtered / ".written.jsonl")
    report(folder / "out")


def damage_filtered(rng: random.Random, folder: Path) -> None:
    filtered = folder / "out" / "labels_filtered"
    names = ("manifest.jsonl", ".measured.jsonl", ".written.jsonl")
    name = rng.choice((*names, *names, "filter.json", "dataset.json"))
    if name.endswith(".jsonl"):
        damage_lines(rng, filtered / name)
        if name == ".written.jsonl":
            (filtered / "manifest.jsonl").unlink()
    else:
        damage_json(rng, filtered / name if name == "filter.json" else folder / "out" / name)


def read_filtered(rng: random.Random, folder: Path) -> None:
    from dgkit.data.generated import find_agreement, list_scenes, open_generated
    from dgkit.generation.filter_folder import filter_folder

    out = folder / "out"
    attempt(
        lambda: find_agreement(open_generated(out, filtered=True)),
        lambda: [scene.read() for scene in list_scenes(out, filtered=True)],
        lambda: filter_folder(out, boundary=1, duplicates=2),
        lambda: command("report", out, "--json") if rng.random() < 0.1 else None,
        lambda: command("pack", out, folder / "p", "--filtered") if rng.random() < 0.05 else None,
    )


def damage_settings(rng: random.Random, folder: Path) -> None:
    path = folder / "out" / "config.yaml"
    damage_yaml(rng, path, yaml.safe_load(path.read_text()))


def damage_scene_files(rng: random.Random, folder: Path) -> None:
    """Replace one image, label map or picture of a generated folder."""
    files = sorted((folder / "out").rglob("*.png"))
    path = rng.choice(files)
    if rng.random() < 0.06:
        odd_file(rng, path)
        return
    label = path.parent.name == "labels"
    path.write_bytes(make_png(rng, HEIGHT, WIDTH, 0 if label and rng.random() < 0.6 else None))


def make_packed(folder: Path) -> None:
    from dgkit.outputs.packing import pack

    generated(folder)
    pack(folder / "out", folder / "packed", "webdataset")


def damage_packed(rng: random.Random, folder: Path) -> None:
    files = [path for path in sorted((folder / "packed").rglob("*")) if path.is_file()]
    path = rng.choice(files)
    if path.suffix == ".json":
        damage_json(rng, path)
    elif path.suffix == ".jsonl":
        damage_lines(rng, path)
    elif rng.random() < 0.15:
        odd_file(rng, path)
    else:
        path.write_bytes(broken_bytes(rng, path.read_bytes()))


def read_packed(rng: random.Random, folder: Path) -> None:
    from dgkit.outputs.packing import pack

    pack(folder / "out", folder / "packed", "webdataset")
