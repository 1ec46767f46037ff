"""``dgkit build-engines`` through the real command line: what is built, what is refused and why."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dgkit.cli.app import main
from dgkit.engines import machine
from dgkit.engines.onnx_export import graph_key
from dgkit.engines.runner import RUNNERS
from dgkit.engines.sidecar import SIDECAR
from dgkit.engines.store import Engine, EngineStore
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError

Capture = pytest.CaptureFixture[str]
TINY = ("--random", "tiny", "--networks", "condition")


class QuickRunner(TorchRunner):
    """A runner with engines of a few bytes, kept by the real store under a complete key."""

    failure: EngineError | None = None
    full = False

    def prepare(self) -> list[Engine]:
        key = graph_key(self.network, self.dtype_name)
        key = key.model_copy(
            update={
                "backend": "openvino",
                "shapes": {**key.shapes, "batch": ",".join(map(str, self.options.batch))},
                "backend_version": machine.backend_version("openvino"),
                "device": machine.device_facts("cpu"),
            }
        )
        return [EngineStore().obtain(key, self._build, rebuild=self.rebuild, model=self.network.model)]

    def _build(self, folder: Path) -> dict[str, object]:
        if self.failure:
            raise self.failure
        if self.full:
            (folder / "model.blob").symlink_to("/dev/full")
        (folder / "model.blob").write_bytes(bytes(range(256)) * 40)
        return {"error": {"condition": 2e-6}}


@pytest.fixture()
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineStore:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(RUNNERS, "openvino", f"{__name__}.QuickRunner")
    return EngineStore()


def build(capsys: Capture, *arguments: str, code: int = 0) -> tuple[list[dict], str]:
    """Return the rows of the outcome and the text on stderr."""
    capsys.readouterr()
    assert main(["build-engines", "--engine", "openvino", *arguments, "--json"]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out)["networks"], captured.err


def test_missing_then_built_then_ready(store: EngineStore, capsys: Capture) -> None:
    reason = "there is no openvino engine in fp32 for the condition"
    (row,), _ = build(capsys, *TINY, "--dry-run")
    assert (row["state"], row["reason"], row["ids"]) == ("missing", reason, []) and not store.root.exists()
    (row,), said = build(capsys, *TINY, "--rebuild", "never", code=1)
    assert row["state"] == "missing"
    command = "dgkit build-engines --random tiny --engine openvino --networks condition --dtype fp32 --batch 1,8,64"
    assert said == f"error: {reason}\nhint: {command} --rebuild always\n"
    (row,), _ = build(capsys, *TINY)
    assert (row["state"], row["reason"], row["bytes"], row["error"]) == ("built", reason, 10240, 2e-6)
    assert [path.name for path in store.root.iterdir()] == row["ids"]
    for policy in ("auto", "never"):
        (again,), _ = build(capsys, *TINY, "--rebuild", policy)
        assert again == {**row, "state": "ready", "reason": "", "seconds": 0}
    (again,), _ = build(capsys, *TINY, "--rebuild", "always")
    assert (again["state"], again["reason"]) == ("built", "rebuild requested")


def test_the_hint_is_a_command_that_helps(store: EngineStore, capsys: Capture, micro: Path) -> None:
    only = (str(micro), "--networks", "vae_decoder", "--dtype", "bf16", "--batch", "1,2,4")
    _, said = build(capsys, *only, "--rebuild", "never", code=1)
    command = shlex.split(said.splitlines()[-1].removeprefix("hint: "))
    assert command[0] == "dgkit" and main(command[1:]) == 0
    rows, _ = build(capsys, *only, "--rebuild", "never")
    assert [row["state"] for row in rows] == ["ready"]


def test_the_table(store: EngineStore, capsys: Capture) -> None:
    for options, words in ((["--dry-run"], "would be built"), ([], "built"), (["--dry-run"], "would be used")):
        assert main(["build-engines", "--random", "tiny", "--engine", "openvino", *options]) == 0
        table = capsys.readouterr().out
        assert all(f"{name} " in table for name in ("text_encoder", "condition", "denoiser", "vae_decoder"))
        assert table.count(words) >= 5
    assert main(["build-engines", "--random", "tiny", "--engine", "torch"]) == 0
    assert capsys.readouterr().out.count("none needed") == 5


def test_a_recipe_and_flags(store: EngineStore, capsys: Capture, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{dtype: bf16, options: {batch: [1, 2, 4]}, networks: {text_encoder: {engine: torch}}}")
    flags = ("--random", "tiny", "--recipe", str(recipe), "--batch", "2", "--set", "networks.condition.dtype=fp32")
    rows, _ = build(capsys, *flags)
    assert {row["network"]: (row["engine"], row["dtype"], row["state"]) for row in rows} == {
        "text_encoder": ("torch", "fp32", "none needed"),
        "condition": ("openvino", "fp32", "built"),
        "denoiser": ("openvino", "bf16", "built"),
        "vae_encoder": ("openvino", "bf16", "built"),
        "vae_decoder": ("openvino", "bf16", "built"),
    }
    cars = [json.loads((folder / SIDECAR).read_text()) for folder in store.root.iterdir()]
    assert {car["key"]["shapes"]["batch"] for car in cars} == {"2,2,2"}


def test_a_build_that_fails_does_not_stop_the_others(
    store: EngineStore, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(capsys, *TINY)
    monkeypatch.setattr(QuickRunner, "failure", EngineError("the library refuses", "use --engine torch"))
    rows, said = build(capsys, "--random", "tiny", "--networks", "condition,denoiser,vae_decoder", code=1)
    assert [row["state"] for row in rows] == ["ready", "failed", "failed"] and rows[1]["seconds"] >= 0
    assert said.endswith("\nerror: the library refuses\nhint: use --engine torch\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "nope"), "unknown engine 'nope'; known: torch, "),
        (("--dtype", "int3"), "dtype='int3' is not allowed"),
        (("--networks", "unet"), "unknown network 'unet'; known: "),
        (("--batch", "8,4,2"), "expected 1 <= min <= opt <= max"),
        (("--batch", "many"), "expected min,opt,max or one number"),
        (("--rebuild", "sometimes"), "known: never, auto, always"),
        (("--random", "sd3"), "unknown random model 'sd3'; known: sd15, sd21, sdxl, city, tiny"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("models/city", "--random", "tiny"), "the model models/city and --random tiny cannot be combined"),
        (("--random", "tiny", "--controlnet", "c"), "has its own ControlNet"),
    ],
)
def test_refusals(store: EngineStore, capsys: Capture, arguments: tuple[str, ...], words: str) -> None:
    assert main(["build-engines", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.startswith("error: ") and message.count("\n") <= 2
    assert not store.root.exists()


# ---------------------------------------------------------------------------------------------------------------------
# Ways an engine can become stale: refused with never, rebuilt with auto, and the field that differs is named.


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.blob", 100)


def flip(folder: Path) -> None:
    data = bytearray((folder / "model.blob").read_bytes())
    data[5000] ^= 1
    (folder / "model.blob").write_bytes(data)


def edit(folder: Path) -> None:
    path = folder / SIDECAR
    path.write_text(path.read_text().replace('"dtype": "fp32"', '"dtype": "bf16"'))


def swap_in_another(folder: Path) -> None:
    """Another engine under this one's name."""
    assert main(["build-engines", *TINY, "--engine", "openvino", "--dtype", "bf16"]) == 0
    other = next(path for path in folder.parent.iterdir() if path != folder)
    shutil.rmtree(folder)
    other.rename(folder)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "size of model.blob: expected 10240, found 100"),
    "one byte flipped": (flip, "sha256 of model.blob: expected "),
    "file missing": (
        lambda folder: (folder / "model.blob").unlink(),
        "file model.blob: expected present, found absent",
    ),
    "foreign file": (lambda folder: (folder / "x.bin").write_bytes(b""), "file x.bin: expected absent, found present"),
    "side-car missing": (lambda folder: (folder / SIDECAR).unlink(), "side-car: expected engine.json, found missing"),
    "side-car edited": (edit, "side-car checksum: expected "),
    "foreign engine": (swap_in_another, "dtype: expected fp32, found bf16"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_engine_is_refused_and_rebuilt(store: EngineStore, capsys: Capture, damage: str) -> None:
    (good,), _ = build(capsys, *TINY)
    harm, words = DAMAGES[damage]
    harm(store.root / good["ids"][0])
    refused_then_rebuilt(capsys, f"has changed: {words}", good["ids"])


def test_other_weights(store: EngineStore, capsys: Capture, micro: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(micro, tmp_path / "model")
    only = (str(model), "--networks", "condition")
    build(capsys, *only)
    path = model / "controlnet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["controlnet_cond_embedding.conv_in.bias"] += np.float32(1e-3)
    save_file(tensors, path)
    refused_then_rebuilt(capsys, "differs in weights: expected ", arguments=only)


OTHERS = {
    "shapes": (("--batch", "1,8,32"), "differs in shapes.batch: expected 1,8,32, found 1,8,64"),
    "dtype": (("--dtype", "bf16"), "differs in dtype: expected bf16, found fp32"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_request(store: EngineStore, capsys: Capture, what: str) -> None:
    build(capsys, *TINY)
    arguments, words = OTHERS[what]
    refused_then_rebuilt(capsys, words, arguments=(*TINY, *arguments))
    assert len(list(store.root.iterdir())) == 2  # the first stays


@pytest.mark.parametrize("what", ["version", "device"])
def test_another_machine(store: EngineStore, capsys: Capture, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    build(capsys, *TINY)
    if what == "version":
        monkeypatch.setattr(machine, "backend_version", lambda backend: "9.9")
        words = "differs in backend_version: expected 9.9, found "
    else:
        facts = {**machine.device_facts("cpu"), "features": "none"}
        monkeypatch.setattr(machine, "device_facts", lambda device: facts)
        words = "differs in device.features: expected none, found "
    refused_then_rebuilt(capsys, words)


def refused_then_rebuilt(
    capsys: Capture, words: str, ids: list[str] | None = None, arguments: tuple[str, ...] = TINY
) -> None:
    (row,), said = build(capsys, *arguments, "--rebuild", "never", code=1)
    assert row["state"] == "missing" and words in row["reason"]
    error, hint = said.splitlines()
    assert words in error and hint.startswith("hint: dgkit build-engines ")
    (row,), _ = build(capsys, *arguments, "--dry-run")
    assert row["state"] == "missing" and words in row["reason"]
    (row,), _ = build(capsys, *arguments)
    assert row["state"] == "built" and words in row["reason"] and ids in (None, row["ids"])
    (row,), _ = build(capsys, *arguments, "--rebuild", "never")
    assert row["state"] == "ready"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk(store: EngineStore, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QuickRunner, "full", True)
    assert main(["build-engines", *TINY, "--engine", "openvino"]) == 1
    assert "the disk is full" in capsys.readouterr().err and not list(store.root.iterdir())


@pytest.mark.slow
def test_two_commands_at_once_build_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dgkit", "-v", "build-engines", *TINY, "--engine", "ort", "--json"]
    environment = {**os.environ, "DGKIT_CACHE": str(tmp_path)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    results = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    lines = [line for _, said in results for line in said.splitlines()]
    assert sum(b" building condition-onnx-fp32-" in line for line in lines) == 1
    assert len({json.loads(out)["networks"][0]["ids"][0] for out, _ in results}) == 1
    assert len(list((tmp_path / "engines").iterdir())) == 1
