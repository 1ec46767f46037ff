"""``dgkit generate`` through the real command line: what it prints, and what it refuses."""

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.generation.blocks import Block
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.scene_generator import SceneGenerator
from dgkit.generation.writer import OutputFolder
from dgkit.processes import Terminated
from tests.models import make_micro_model
from tests.scenes import FAST_FLAGS, make_label, make_labels, snapshot

Arguments = list[str]
Build = Callable[[Path, Path, Path], Arguments]


@pytest.fixture
def usual(micro: Path, labels: Path) -> Arguments:
    return ["--labels", str(labels), "--model", str(micro), "--count", "2", *FAST_FLAGS]


def test_a_run_prints_where_to_look(usual: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["generate", str(out), *usual]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 labelled scenes" in captured.err and "images/hour" in captured.err
    assert f"contact sheet: {out / 'contact_sheet.png'}" in captured.err
    assert main(["generate", str(out), *usual]) == 0
    assert "all were already present" in capsys.readouterr().err


def test_json_is_a_summary_for_programs(usual: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["generate", str(out), *usual, "--json", "--style-mix", "night"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["written"], summary["styles"]) == (2, 2, {"night": 2})
    assert Path(summary["contact_sheet"]).is_file() and Path(summary["manifest"]).is_file()


def test_recipe_then_set_then_flags(usual: Arguments, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\nguidance_scale: 2\nattempts: 5\n")
    flags = [*usual, "--recipe", str(recipe), "--set", "seed=2", "--set", "guidance_scale=3", "--seed", "4",
             "--no-cuda-graph"]  # fmt: skip
    assert main(["generate", str(tmp_path / "out"), *flags]) == 0
    config = load_config(GenerateConfig, tmp_path / "out" / "config.yaml")
    assert (config.seed, config.guidance_scale, config.attempts) == (4, 3, 5) and not config.cuda_graph


def test_a_style_mix_file_is_written_out_in_the_config(usual: Arguments, tmp_path: Path) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text("foggy: 3\nnone: 0\n")
    assert main(["generate", str(tmp_path / "out"), *usual, "--style-mix", str(mix)]) == 0
    config = load_config(GenerateConfig, tmp_path / "out" / "config.yaml")
    assert config.style_mix == {"foggy": 3, "none": 0}


def test_a_flag_wins_over_the_recipe_even_if_it_is_the_default(usual: Arguments, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\nrare: false\nbatch: 4\n")
    flags = [*usual, "--recipe", str(recipe), "--seed", "0", "--rare"]
    assert main(["generate", str(tmp_path / "out"), *flags]) == 0
    config = load_config(GenerateConfig, tmp_path / "out" / "config.yaml")
    assert (config.seed, config.rare, config.batch) == (0, True, 4)


def test_ctrl_c_explains_how_to_resume(
    usual: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dgkit.generation.run.generate", stop)
    assert main(["generate", str(tmp_path / "out"), *usual]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err


def test_the_format_folder_is_refused(usual: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["generate", str(out), *usual, "--format", "folder"]) == 2
    assert f"hint: omit --format, or make a copy with dgkit pack {out} DEST --format folder" in capsys.readouterr().err
    assert not out.exists()


def test_sigterm_says_how_many_unfinished_images_were_dropped(
    usual: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(generator: SceneGenerator, block: Block, advance: Callable[[float], None]) -> None:
        advance(0.5)
        raise Terminated

    monkeypatch.setattr(SceneGenerator, "generate", stop)
    out = tmp_path / "out"
    assert main(["generate", str(out), *usual]) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"stopped; 0 of 2 images are in {out}, 2 unfinished images dropped; run the same command")
    assert line.endswith(f"again to resume {out}: {shlex.join(['dgkit', 'generate', str(out), *usual])}")


# ---------------------------------------------------------------------------------------------------------------------
# Unusable input. Each case prepares it in its own folder and returns arguments that replace the usual ones.


def labels_of(root: Path, data: bytes | Image.Image, name: str = "a.png") -> Arguments:
    folder = make_labels(root / "labels", 1)
    if isinstance(data, bytes):
        (folder / name).write_bytes(data)
    else:
        data.save(folder / name)
    return ["--labels", str(folder)]


def png_bytes(root: Path) -> bytes:
    Image.fromarray(make_label(9)).save(root / "whole.png")
    return (root / "whole.png").read_bytes()


def huge_png() -> bytes:
    """The header of 100,000 x 100,000 pixels; decoding it would need 10 GB."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def unreadable(root: Path) -> Arguments:
    folder = make_labels(root / "labels", 1)
    folder.chmod(0)
    if os.access(folder, os.R_OK):
        folder.chmod(0o755)
        pytest.skip("this user may read every folder, so none can be made unreadable")
    return ["--labels", str(folder)]


def plain_file(root: Path) -> str:
    (root / "file").touch()
    return str(root / "file")


def dataset_of_nothing(root: Path) -> Arguments:
    (root / "gta").mkdir()
    return ["--labels=", "--dataset", f"gta={root / 'gta'}"]


def broken_model(micro: Path, root: Path, change: Callable[[Path], object]) -> Arguments:
    model = root / "model"
    shutil.copytree(micro, model)
    change(model)
    return ["--model", str(model)]


def set_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def put_nan(model: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path)


def drop_weight(model: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = model / "controlnet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def only_pickle(model: Path) -> None:
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def wide_controlnet(root: Path) -> Arguments:
    other = make_micro_model(root / "other", text_time=True)
    return ["--controlnet", str(other / "controlnet")]


def written(root: Path, name: str, text: str) -> str:
    (root / name).write_text(text)
    return str(root / name)


# name -> (what to prepare, exit code, a part of the message, a part of the hint)
BAD: dict[str, tuple[Build, int, str, str]] = {
    # label maps
    "no such folder": (lambda r, m, s: ["--labels", str(r / "nope")], 1, "nope", "folder"),
    "a file for a folder": (lambda r, m, s: ["--labels", plain_file(r)], 1, "a file", "folder"),
    "no label maps in it": (lambda r, m, s: ["--labels", str(r)], 1, "no PNG", "label maps"),
    "unreadable folder": (lambda r, m, s: unreadable(r), 1, "labels", "chmod"),
    "empty file": (lambda r, m, s: labels_of(r, b""), 1, "a.png", ""),
    "not a PNG": (lambda r, m, s: labels_of(r, b"GIF89a and more"), 1, "a.png", ""),
    "truncated": (lambda r, m, s: labels_of(r, png_bytes(r)[:200]), 1, "a.png", ""),
    "header only": (lambda r, m, s: labels_of(r, png_bytes(r)[:40]), 1, "a.png", ""),
    "huge": (lambda r, m, s: labels_of(r, huge_png()), 1, "100000x100000", "scale"),
    "a colour picture": (
        lambda r, m, s: labels_of(r, Image.new("RGB", (96, 96))), 1, "RGB", "class ids",
    ),
    "ids of another system": (
        lambda r, m, s: labels_of(r, Image.fromarray(np.full((96, 96), 33, np.uint8))), 1, "33", "cityscapes_ids",
    ),
    "16-bit ids": (
        lambda r, m, s: labels_of(r, Image.fromarray(np.full((96, 96), 4000, np.uint16))), 1, "4000", "",
    ),
    "nothing but ignore": (
        lambda r, m, s: only_ignore(r), 1, "every pixel is ignore", "dgkit stats",
    ),
    "unknown encoding": (lambda r, m, s: ["--encoding", "coco"], 2, "coco", ""),
    "two sources": (lambda r, m, s: ["--world", "3"], 2, "--labels and --world", "--labels"),
    "unknown data set": (lambda r, m, s: ["--labels=", "--dataset", f"kitti={r}"], 2, "kitti", ""),
    "data set without a folder": (lambda r, m, s: ["--labels=", "--dataset", "gta"], 2, "NAME=DIR", "gta=DIR"),
    "data set of nothing": (lambda r, m, s: dataset_of_nothing(r), 1, "no label maps of GTA5", ""),
    "encoding for the city": (lambda r, m, s: ["--labels=", "--encoding", "camvid"], 2, "--encoding", "--labels"),
    "tiny scale": (lambda r, m, s: ["--label-scale", "0"], 2, "label_scale", ""),
    # models
    "no such model": (lambda r, m, s: ["--model", str(r / "nope")], 1, "does not exist", "folder"),
    "a model on an unreachable hub": (
        lambda r, m, s: ["--model", "nobody/nothing-here"], 1, "nobody/nothing-here", "hf download",
    ),
    "a part is missing": (
        lambda r, m, s: broken_model(m, r, lambda f: shutil.rmtree(f / "vae")), 1, "has no vae/", "",
    ),
    "no ControlNet": (
        lambda r, m, s: broken_model(m, r, lambda f: shutil.rmtree(f / "controlnet")), 1, "controlnet", "--controlnet",
    ),
    "a ControlNet of another width": (lambda r, m, s: wide_controlnet(r), 1, "does not fit", "trained on"),
    "a ControlNet of other conditions": (
        lambda r, m, s: broken_model(m, r, lambda f: set_json(f / "controlnet/config.json", conditioning_channels=3)),
        1, "3 condition channels", "",
    ),
    "weights are NaN": (lambda r, m, s: broken_model(m, r, put_nan), 1, "unet", ""),
    "a weight is missing": (lambda r, m, s: broken_model(m, r, drop_weight), 1, "controlnet", ""),
    "weights cut off": (
        lambda r, m, s: broken_model(m, r, lambda f: cut_in_half(f / "vae/diffusion_pytorch_model.safetensors")),
        1, "vae", "",
    ),
    "weights as pickle only": (lambda r, m, s: broken_model(m, r, only_pickle), 1, "safetensors", ""),
    "config is not JSON": (
        lambda r, m, s: broken_model(m, r, lambda f: (f / "unet/config.json").write_text("{")), 1, "config.json", "",
    ),
    "no tokenizer files": (
        lambda r, m, s: broken_model(m, r, lambda f: (f / "tokenizer/merges.txt").unlink()), 1, "merges.txt", "",
    ),
    "wrong dgkit.json": (
        lambda r, m, s: broken_model(m, r, lambda f: (f / "dgkit.json").write_text('{"colour": 1}')), 1, "colour", "",
    ),
    # settings
    "unknown engine": (lambda r, m, s: ["--engine", "steam"], 2, "steam", ""),
    "unknown dtype": (lambda r, m, s: ["--dtype", "fp64"], 2, "dtype='fp64'", ""),
    "unknown device": (lambda r, m, s: ["--device", "abacus"], 2, "abacus", ""),
    "unknown preset": (lambda r, m, s: ["--preset", "best"], 2, "best", ""),
    "unknown style mix": (lambda r, m, s: ["--style-mix", "windy"], 2, "windy", "--style windy="),
    "negative weight": (
        lambda r, m, s: ["--style-mix", written(r, "mix.yaml", "sunny: -1")], 2, "sunny", "",
    ),
    "size between cells": (lambda r, m, s: ["--size", "100"], 1, "100", "96x96"),
    "size in words": (lambda r, m, s: ["--size", "large"], 2, "HEIGHTxWIDTH", ""),
    "no images": (lambda r, m, s: ["--count", "0"], 2, "count=0", ""),
    "no batch": (lambda r, m, s: ["--batch", "0"], 2, "batch='0'", ""),
    "unknown key": (lambda r, m, s: ["--set", "sede=3"], 2, "sede", "seed"),
    "no assignment": (lambda r, m, s: ["--set", "seed"], 2, "seed", "--set key=value"),
    "no such recipe": (lambda r, m, s: ["--recipe", str(r / "no.yaml")], 1, "no.yaml", ""),
    "recipe is not YAML": (lambda r, m, s: ["--recipe", written(r, "x.yaml", "a: [")], 1, "not valid YAML", ""),
}  # fmt: skip


def only_ignore(root: Path) -> Arguments:
    make_labels(root / "labels", 0)
    Image.fromarray(np.full((96, 96), 255, np.uint8)).save(root / "labels" / "a.png")
    return ["--labels", str(root / "labels")]


def two_lines(text: str) -> tuple[str, str]:
    """The error and the hint; only lines of progress, which begin with the time, may precede them."""
    lines = [line for line in text.splitlines() if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]
    assert 1 <= len(lines) <= 2, text
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or lines[1].startswith("hint: ")
    return lines[0], lines[1] if len(lines) == 2 else ""


@pytest.mark.parametrize("name", BAD)
def test_bad_input(
    name: str, micro: Path, labels: Path, usual: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line that says what came, one that says what to type, the right exit code, and no output."""
    build, code, message, hint = BAD[name]
    changed = build(tmp_path, micro, labels)
    arguments = [*usual, *changed]
    if "--labels=" in changed:  # another source instead of the usual one
        arguments = [*usual[2:], *(text for text in changed if text != "--labels=")]
    before = snapshot(tmp_path)
    capfd.readouterr()
    assert main(["generate", str(tmp_path / "out"), *arguments]) == code
    captured = capfd.readouterr()
    error, advice = two_lines(captured.err)
    assert message in error
    assert hint in advice
    assert captured.out == ""
    assert not (tmp_path / "out").exists()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["file", "foreign", "changed", "locked", "damaged config"])
def test_a_folder_that_cannot_be_used_is_left_as_it_is(
    name: str, usual: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, flags = tmp_path / "out", list(usual)
    if name == "file":
        out.touch()
    elif name == "foreign":
        out.mkdir()
        (out / "diary.txt").write_text("dear diary")
    else:
        assert main(["generate", str(out), *usual]) == 0
        capfd.readouterr()
    if name == "changed":
        flags += ["--seed", "3"]
    elif name == "damaged config":
        (out / "config.yaml").write_text("colour: blue\n")
    before = out.read_bytes() if out.is_file() else snapshot(out)
    if name == "locked":
        config = load_config(GenerateConfig, out / "config.yaml")
        with OutputFolder(out).opened(config):
            assert main(["generate", str(out), *flags]) == 1
    else:
        assert main(["generate", str(out), *flags]) == 1
    error, hint = two_lines(capfd.readouterr().err)
    expected = {
        "file": "is a file",
        "foreign": "diary.txt",
        "changed": "seed: 0 -> 3",
        "locked": "another run",
        "damaged config": "colour",
    }
    assert expected[name] in error
    assert "folder" in hint or "another name" in hint
    assert (out.read_bytes() if out.is_file() else snapshot(out)) == before


def test_a_full_disk_is_named_and_the_same_command_resumes(
    usual: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small disk")
    try:
        out = disk / "out"
        (disk / "ballast").write_bytes(bytes(20_000))
        assert main(["generate", str(out), *usual]) == 1
        error, hint = two_lines(capfd.readouterr().err)
        assert "disk is full" in error and "run the same command again" in hint
        names = set(snapshot(out)) if out.exists() else set()
        stems = {Path(name).stem for name in names if name.startswith("images/")}
        assert {Path(name).stem for name in names if name.startswith("labels/")} == {
            s + "_labelTrainIds" for s in stems
        }
        assert not [name for name in names if name.endswith(".tmp")]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert main(["generate", str(out), *usual]) == 0
        assert main(["generate", str(tmp_path / "whole"), *usual]) == 0
        assert snapshot(out) == snapshot(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_limit_on_file_size_keeps_what_is_whole(
    usual: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A quota stops the writing as a full disk does; after it is lifted, the same command resumes."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    assert main(["generate", str(tmp_path / "whole"), *usual]) == 0
    whole = snapshot(tmp_path / "whole")
    limit = len((tmp_path / "whole" / "manifest.jsonl").read_bytes()) - 1
    assert limit < max(len(data) for name, data in whole.items() if name.startswith("vis"))
    capfd.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = main(["generate", str(out), *usual])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    error, _ = two_lines(capfd.readouterr().err)
    assert "cannot write" in error
    assert not out.exists() or not [name for name in snapshot(out) if name.startswith(("images", "labels", "vis"))]
    assert main(["generate", str(out), *usual]) == 0
    assert snapshot(out) == whole
