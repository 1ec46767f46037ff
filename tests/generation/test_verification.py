"""``verify`` finds every kind of damage in a folder, and ``repair`` restores the folder."""

import json
import re
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dgkit
from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.errors import InputError, OutputError
from dgkit.generation import verification as module
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.verification import KINDS, verify
from dgkit.locks import sole_writer
from tests.scenes import FAST, snapshot

KINDS_OF_FILES = ("image", "label", "vis")


@pytest.fixture(scope="module")
def made(micro: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "out"
    dgkit.generate(out, labels=labels, model=str(micro), count=4, style_mix="uniform", **FAST)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def name(out: Path, kind: str, index: int) -> str:
    return json.loads((out / "manifest.jsonl").read_text().splitlines()[index])[kind]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """Another picture of the same size: readable, and not what was written."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] = 255 if pixels[0, 0].max() == 0 else 0
    Image.fromarray(pixels).save(path)


def shrink(path: Path) -> None:
    Image.open(path).resize((32, 32)).save(path)


def unknown_id(path: Path) -> None:
    """A label with id 19, and a manifest that knows of it."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] = 19
    old = path.read_bytes()
    Image.fromarray(pixels).save(path)
    manifest = path.parents[1] / "manifest.jsonl"
    digests = [dgkit_digest(data) for data in (old, path.read_bytes())]
    manifest.write_text(manifest.read_text().replace(*digests))


def dgkit_digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def append(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(path.read_text() + text)

    return change


def drop_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))


def double_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))


# What is damaged, how, and what is then found.
DAMAGE: list[tuple[str, Callable[[Path], object], dict[str, int]]] = [
    ("image", Path.unlink, {"missing": 1}),
    ("label", Path.unlink, {"missing": 1}),
    ("vis", Path.unlink, {"missing": 1}),
    ("image", cut, {"unreadable": 1}),
    ("vis", cut, {"unreadable": 1}),
    ("label", flip, {"digest": 1}),
    ("image", flip, {"digest": 1}),
    ("label", shrink, {"size": 1}),
    ("vis", shrink, {"size": 1}),
    ("label", unknown_id, {"ids": 1}),
    ("contact_sheet.png", Path.unlink, {"missing": 1}),
    ("manifest.jsonl", append("no object\n"), {"line": 1}),
    ("manifest.jsonl", append('{"index": 9}\n'), {"line": 1}),
    ("manifest.jsonl", drop_line, {"job": 1, "orphan": 3}),
    ("manifest.jsonl", double_line, {"twice": 1}),
    ("manifest.jsonl", Path.unlink, {"job": 4, "orphan": 12}),
]


def test_a_sound_folder_has_no_problems(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(made)
    result = verify(made)
    assert (result.images, result.expected, result.problems) == (4, 4, ())
    assert main(["verify", str(made)]) == 0
    assert "4 images: files, labels and manifest are in order" in capsys.readouterr().err
    assert snapshot(made) == before


@pytest.mark.parametrize(("what", "damage", "counts"), DAMAGE)
def test_damage_is_found(out: Path, what: str, damage: Callable[[Path], object], counts: dict[str, int]) -> None:
    damage(out / (name(out, what, 1) if what in KINDS_OF_FILES else what))
    damaged = snapshot(out)
    found = verify(out)
    assert found.counts == counts
    assert set(found.counts) <= set(KINDS)
    assert snapshot(out) == damaged  # a check changes nothing


# Each damages another image than the others of its row; one repair costs a run.
REPAIRED: list[list[tuple[str, int, Callable[[Path], object]]]] = [
    [("image", 0, Path.unlink), ("label", 1, flip), ("vis", 2, cut), ("contact_sheet.png", 0, Path.unlink)],
    [("label", 0, unknown_id), ("image", 1, shrink), ("manifest.jsonl", 0, append("no object\n"))],
    [("image", 0, cut), ("vis", 0, Path.unlink), ("manifest.jsonl", 0, double_line)],
    [("manifest.jsonl", 0, drop_line), ("label", 0, shrink)],
    [("manifest.jsonl", 0, Path.unlink)],
]


@pytest.mark.parametrize("damages", REPAIRED)
def test_damage_is_repaired_bit_for_bit(
    made: Path, out: Path, damages: list[tuple[str, int, Callable[[Path], object]]]
) -> None:
    for what, index, damage in damages:
        damage(out / (name(out, what, index) if what in KINDS_OF_FILES else what))
    found = verify(out)
    assert len(found.problems) >= len(damages)
    after = verify(out, repair=True)
    assert (after.problems, after.changed, after.repaired) == ((), 0, len(found.problems))
    assert snapshot(out) == snapshot(made)


def test_a_manifest_of_windows_is_no_problem(out: Path) -> None:
    manifest = out / "manifest.jsonl"
    text = re.sub(r"(images|labels|vis)/", r"\1" + r"\\\\", manifest.read_text()).replace("\n", "\r\n")
    assert "images\\\\" in text
    manifest.write_bytes(text.encode().removesuffix(b"\r\n"))
    assert verify(out).problems == ()


def test_files_of_the_system_are_no_problem(out: Path) -> None:
    for name in ("images/.DS_Store", "labels/Thumbs.db", "vis/desktop.ini", "images/._000000.png"):
        (out / name).write_bytes(b"x")
    assert verify(out).problems == ()


def test_leftovers_of_runs_are_removed_and_other_files_are_kept(made: Path, out: Path) -> None:
    (out / "images/.000001_x.png.999999999.tmp").write_bytes(b"half")
    shutil.copy(out / name(out, "image", 0), out / "images/000077_0_car.png")
    (out / "vis/holiday.png").write_bytes(b"mine")
    result = verify(out, repair=True)
    assert [(problem.kind, problem.path) for problem in result.problems] == [("orphan", "vis/holiday.png")]
    assert result.repaired == 2 and result.redrawn == 0
    (out / "vis/holiday.png").unlink()
    assert snapshot(out) == snapshot(made)


def test_images_that_cannot_be_reproduced_are_counted(out: Path) -> None:
    """As on another machine: what the line says is not what this one computes."""
    manifest = out / "manifest.jsonl"
    record = json.loads(manifest.read_text().splitlines()[1])
    manifest.write_text(manifest.read_text().replace(record["image_sha256"], "0" * 64))
    result = verify(out, repair=True)
    assert (result.problems, result.redrawn, result.changed) == ((), 1, 1)


def test_the_command_lists_counts_and_exits_with_1(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / name(out, "image", 2)).unlink()
    assert main(["verify", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"missing": 1}
    assert found["problems"] == [{"kind": "missing", "path": name(out, "image", 2), "index": 2}]
    assert main(["verify", str(out)]) == 1
    errors = capsys.readouterr().err
    assert f"missing: {name(out, 'image', 2)} image 2" in errors and "--repair" in errors
    assert main(["verify", str(out), "--repair"]) == 0
    assert "1 problem repaired, 1 image remade" in capsys.readouterr().err


def test_other_folders_and_folders_in_use_are_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder of dgkit generate: there is no such folder"):
        verify(tmp_path / "nothing")
    with sole_writer(out), pytest.raises(OutputError, match="another run is writing"):
        verify(out)
    assert verify(out).problems == ()


def test_many_missing_images_are_counted_and_not_listed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (out / "config.yaml").read_text().replace("count: 4", "count: 3000000")
    (out / "config.yaml").write_text(config)
    tracemalloc.start()
    result = verify(out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (result.expected, result.images, result.counts) == (3_000_000, 4, {"job": 2_999_996})
    assert len(result.problems) == 1000 and result.problems[0].index == 4
    assert peak < 20e6
    assert main(["verify", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"job": 2_999_996} and len(found["problems"]) == 1000


def test_repair_of_a_folder_that_a_run_has_opened_is_refused(
    out: Path, micro: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start of the run, before its model is loaded; otherwise its images would be made twice."""
    import dgkit.diffusion.loading as loading

    load, errors = loading.load_pipeline, []

    def look(*args: Any, **options: Any) -> Any:
        with pytest.raises(OutputError, match="another run is writing") as raised:
            verify(out, repair=True)
        errors.append(raised.value)
        return load(*args, **options)

    monkeypatch.setattr(loading, "load_pipeline", look)
    settings = {"labels": labels, "model": str(micro), "style_mix": "uniform", **FAST}
    result = dgkit.generate(out, count=6, **settings)
    assert errors and result.written == 2
    assert verify(out, repair=True).problems == ()


def test_a_run_is_refused_while_a_folder_is_repaired(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = module._remove_damaged

    def look(path: Path, problems: Sequence[Any]) -> None:
        with pytest.raises(OutputError, match="another run is writing"):
            dgkit.generate(out, load_config(GenerateConfig, out / "config.yaml"))
        remove(path, problems)

    monkeypatch.setattr(module, "_remove_damaged", look)
    before = snapshot(out)
    (out / name(out, "image", 1)).unlink()
    assert verify(out, repair=True).redrawn == 1
    assert snapshot(out) == before


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_images_too_large_to_decode_are_replaced(out: Path, kind: str) -> None:
    """Such files take gigabytes when they are decoded, a few bytes on disk."""
    before = snapshot(out)
    path = out / name(out, kind, 2)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert verify(out).counts == {"unreadable": 1}
    assert verify(out, repair=True).problems == ()
    assert snapshot(out) == before


def test_a_folder_without_a_size_is_refused(out: Path) -> None:
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(re.sub(r"size:\n- 64\n- 64\n", "size: null\n", text))
    with pytest.raises(InputError, match="does not state the size"):
        verify(out)
