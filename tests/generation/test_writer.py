"""The output folder: complete or absent files, one run at a time, refusal of other settings."""

import errno
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgkit.data.crops import CropBox
from dgkit.data.records import Record
from dgkit.diffusion.sampler import SceneResult
from dgkit.errors import OutputError
from dgkit.generation import writer
from dgkit.generation.encoding import EncodedImage, GeneratedImage, encode, side_by_side
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import Job
from dgkit.generation.writer import OutputFolder, refuse_changes
from dgkit.locks import LOCK
from dgkit.processes import Terminated, sigterm_raises
from tests.scenes import make_label, snapshot

CONFIG = GenerateConfig(
    count=3, source_digest="s", model_digest="m", preset="exact", engine="torch", dtype="fp32", batch=8, workers=0
)


def make_one(index: int) -> Job:
    label = make_label(index, 32, 48)
    return Job(index, f"{index:06d}_x_car", "x", "car", CropBox(1, 2, 48, 32), 1.0, True, "p", "night", 7, label)


def image(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def encoded(index: int, retried: bool = False) -> EncodedImage:
    return encode(GeneratedImage(make_one(index), SceneResult(image(index), None, "p", retried=retried)))


def fill(out: Path, *numbers: int, config: GenerateConfig = CONFIG) -> OutputFolder:
    folder = OutputFolder(out)
    with folder.opened(config):
        for number in numbers:
            folder.add(encoded(number))
        folder.finish("title", "note")
    return folder


def test_files_hold_what_was_written(tmp_path: Path) -> None:
    fill(tmp_path / "out", 0)
    label = np.asarray(Image.open(tmp_path / "out/labels/000000_x_car_labelTrainIds.png"))
    assert np.array_equal(label, make_one(0).label) and (label == 255).any()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/images/000000_x_car.png")), image(0))
    vis = np.asarray(Image.open(tmp_path / "out/vis/000000_x_car.png"))
    assert vis.shape == (32, 3 * 48, 3)
    assert np.array_equal(vis, side_by_side(image(0), label))
    line = json.loads((tmp_path / "out/manifest.jsonl").read_text())
    assert Record.from_json(line).to_json() == line
    assert (line["crop"], line["class"], line["seed"]) == ([1, 2, 48, 32], "car", 7)
    assert not (tmp_path / "out" / LOCK).exists()


def test_the_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    fill(tmp_path / "a", 0, 1, 2)
    fill(tmp_path / "b", 2, 0, 1)
    fill(tmp_path / "c", 1)
    fill(tmp_path / "c", 2, 0)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b") == snapshot(tmp_path / "c")


@pytest.mark.parametrize("name", ["images/000001_x_car.png", "labels/000001_x_car_labelTrainIds.png"])
@pytest.mark.parametrize("damage", ["remove", "change"])
def test_an_image_with_a_missing_or_changed_file_is_not_complete(tmp_path: Path, name: str, damage: str) -> None:
    fill(tmp_path / "out", 0, 1, 2)
    whole = snapshot(tmp_path / "out")
    if damage == "remove":
        (tmp_path / "out" / name).unlink()
    else:
        (tmp_path / "out" / name).write_bytes(b"something else")
    folder = OutputFolder(tmp_path / "out")
    with folder.opened(CONFIG):
        assert sorted(folder.records) == [0, 2]
        folder.add(encoded(1))
        folder.finish("title", "note")
    assert snapshot(tmp_path / "out") == whole


def test_a_missing_vis_file_is_made_from_image_and_label(tmp_path: Path) -> None:
    fill(tmp_path / "out", 0, 1)
    whole = snapshot(tmp_path / "out")
    (tmp_path / "out/vis/000001_x_car.png").unlink()
    (tmp_path / "out/contact_sheet.png").unlink()
    assert len(fill(tmp_path / "out").records) == 2
    assert snapshot(tmp_path / "out") == whole


@pytest.mark.parametrize("tail", [b'{"index": 1, "id"', b"\x00\x00\n", b'{"index": 1}\n', b'{"index": "x"}\n'])
def test_a_damaged_last_line_is_dropped(tmp_path: Path, tail: bytes) -> None:
    fill(tmp_path / "out", 0)
    whole = snapshot(tmp_path / "out")
    with open(tmp_path / "out/manifest.jsonl", "ab") as stream:
        stream.write(tail)
    assert sorted(fill(tmp_path / "out").records) == [0]
    assert snapshot(tmp_path / "out") == whole


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    fill(tmp_path / "out", 0)
    whole = snapshot(tmp_path / "out")
    (tmp_path / "out/images/.000001_x_car.png.999999999.tmp").write_bytes(b"half")
    (tmp_path / "out" / LOCK).touch()
    fill(tmp_path / "out")
    assert snapshot(tmp_path / "out") == whole


@pytest.mark.parametrize("step", range(4))
def test_a_full_disk_leaves_no_half_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    fill(tmp_path / "out", 0)
    whole = snapshot(tmp_path / "out")
    folder = OutputFolder(tmp_path / "out")
    real_write, left = Path.write_bytes, [step]

    def full_write(path: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] >= 0:
            return real_write(path, data)
        real_write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def full_append(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with folder.opened(CONFIG), pytest.raises(OutputError, match="disk is full") as caught:
        monkeypatch.setattr(Path, "write_bytes", full_write)
        monkeypatch.setattr("dgkit.data.manifest.os.write", full_append)
        folder.add(encoded(1))
    assert "run the same command again" in caught.value.hint
    assert snapshot(tmp_path / "out") == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_manifest_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, number: signal.Signals
) -> None:
    folder = OutputFolder(tmp_path / "out")
    real = writer.atomic_write
    # Python keeps its own handler out where the tests run in the background of a shell, which ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupted(path: Path, data: bytes) -> None:
        signal.raise_signal(number)
        real(path, data)

    with pytest.raises(KeyboardInterrupt) as raised, sigterm_raises(), folder.opened(CONFIG):
        monkeypatch.setattr(writer, "atomic_write", interrupted)
        folder.add(encoded(0))
    assert isinstance(raised.value, Terminated) is (number == signal.SIGTERM)
    assert len((tmp_path / "out/manifest.jsonl").read_text().splitlines()) == 1
    again = OutputFolder(tmp_path / "out")
    with again.opened(CONFIG):
        assert sorted(again.records) == [0]


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out").opened(CONFIG):
        with pytest.raises(OutputError, match="another run is writing"), OutputFolder(tmp_path / "out").opened(CONFIG):
            pass
        assert (tmp_path / "out/config.yaml").exists()  # the refused run removes nothing


@pytest.mark.parametrize("there", [False, True])
def test_an_error_before_the_first_image_leaves_nothing(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(RuntimeError, match="no weights"), OutputFolder(out).opened(CONFIG):
        raise RuntimeError("no weights")
    assert out.exists() == there
    assert not there or not list(out.iterdir())


def test_other_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        OutputFolder(tmp_path).check()
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "images").mkdir()
    assert OutputFolder(tmp_path).check() is None
    (tmp_path / "images" / "holiday.png").touch()
    with pytest.raises(OutputError, match="holds other files"):
        OutputFolder(tmp_path).check()


CHANGES: list[tuple[dict[str, Any], str | None]] = [
    ({"batch": 3}, None),
    ({"workers": 2}, None),
    ({"device": "cuda"}, None),
    ({"count": 30}, None),
    ({"labels": Path("/elsewhere")}, None),  # the digest shows that the label maps are the same
    ({"model": "/elsewhere"}, None),
    ({"count": 2}, "count: 3 -> 2"),
    ({"seed": 4}, "seed: 0 -> 4"),
    ({"preset": "official", "steps": 3}, "preset: exact -> official; steps: None -> 3"),
    ({"model": "/other", "model_digest": "n"}, "model: None -> /other; model_digest: m -> n"),
    ({"source_digest": "t"}, "source_digest: s -> t"),
    ({"dtype": "bf16"}, "dtype: fp32 -> bf16"),
    ({"size": (64, 64)}, r"size: None -> \[64, 64\]"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_settings_that_change_images_are_refused(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    new = CONFIG.model_copy(update=change)
    if message is None:
        refuse_changes(tmp_path, CONFIG, new)
        return
    with pytest.raises(OutputError, match=message) as caught:
        refuse_changes(tmp_path, CONFIG, new)
    assert "choose another output folder" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"seed": 4}, "omit --seed to continue it, or"),
        ({"source_digest": "t"}, "restore the label maps of its first run to continue it, or"),
        ({"seed": 4, "jobs_digest": "t"}, "omit --seed and restore the jobs table of its first run to continue it, or"),
        ({"model": "/other", "model_digest": "n"}, "omit --model to continue it, or"),
        ({"world": 8, "source_digest": "t"}, "omit --world to continue it, or"),
    ],
)
def test_the_hint_names_what_to_undo(tmp_path: Path, change: dict[str, Any], hint: str) -> None:
    with pytest.raises(OutputError) as caught:
        refuse_changes(tmp_path, CONFIG, CONFIG.model_copy(update=change))
    assert caught.value.hint == f"{hint} choose another output folder"


def test_a_larger_count_keeps_the_existing_images(tmp_path: Path) -> None:
    fill(tmp_path / "out", 0, 1, 2)
    folder = fill(tmp_path / "out", 3, config=CONFIG.model_copy(update={"count": 4}))
    assert sorted(folder.records) == [0, 1, 2, 3]
    assert "count: 4" in (tmp_path / "out/config.yaml").read_text()
