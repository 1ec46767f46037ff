"""Commands on hostile folders: nothing in them is executed, imported or unpickled, and nothing is fetched.

:data:`READS` lists what the commands may read of such a folder; SECURITY.md states the same.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgkit.labels import PALETTE
from tests.generated import make_generated
from tests.scenes import make_labels
from tests.security import hostile

ROOT = Path(__file__).resolve().parents[2]
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
READS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model folder": (
        ("generate", "swap", "build-engines", "export", "bench", "engines check"),
        ("dgkit.json", "model_index.json", "*/config.json", "scheduler/scheduler_config.json",
         "tokenizer/*.json", "tokenizer/merges.txt", *_WEIGHTS),
    ),
    "SegFormer folder": (
        ("eval", "export segmenter", "train segmenter"),
        ("config.json", "preprocessor_config.json", *_WEIGHTS),
    ),
    "mmsegmentation checkpoint": (("eval", "export segmenter"), ("*.pth", "config.py")),
    "ONNX file": (("eval", "filter", "quality", "generate"), ("*.onnx", "*.data", "*.yaml")),
    "recipe": (("generate", "train", "build-engines"), ("*.yaml",)),
    "generated folder": (
        ("report", "verify", "stats", "filter", "pack", "merge"),
        ("config.yaml", "manifest.jsonl", "*.png", "dataset.json", "labels_filtered/*.json", "labels_filtered/*.jsonl",
         "labels_filtered/.*.jsonl", "README.md"),
    ),
}  # fmt: skip
"""For each kind of input the commands that open one, and patterns of the files in its folder that they may read."""


@dataclass(frozen=True)
class Case:
    """A command on a hostile input; ``folder`` is the one that holds it."""

    kind: str
    what: str
    folder: Path
    command: Sequence[str | Path]


Found = list[tuple[Case, dict[str, Any]]]


def _model_cases(root: Path, labels: Path) -> Iterator[Case]:
    settings = ["--labels", labels, "--count", "1", "--set", "steps=1", "--engine", "torch"]
    for number, (what, folder) in enumerate(hostile.model_folders(root)):
        yield Case("model folder", what, folder, ["swap", folder, folder, root / "out" / f"swap{number}"])
        if what == hostile.HARMLESS:
            out = root / "out" / f"generate{number}"
            yield Case("model folder", what, folder, ["generate", out, "--model", folder, *settings])


def _segmenter_cases(root: Path, scenes: Path) -> Iterator[Case]:
    settings = ["--on", f"dgkit={scenes}", "--set", "scale=[64,64]", "--set", "crop=32"]
    found = [("SegFormer folder", *case) for case in hostile.segformer_folders(root)]
    if importlib.util.find_spec("mmseg"):
        found += [("mmsegmentation checkpoint", *case) for case in hostile.mmseg_checkpoints(root)]
    if importlib.util.find_spec("onnxruntime"):
        found += [("ONNX file", *case) for case in hostile.onnx_models(root)]
    for number, (kind, what, path) in enumerate(found):
        folder = path if path.is_dir() else path.parent
        yield Case(kind, what, folder, ["eval", path, *settings, "--out", root / "out" / f"eval{number}"])


def _generated_cases(root: Path) -> Iterator[Case]:
    """A config.yaml that names models of the hub and of other folders, and code next to the images."""
    scenes, out = make_generated(root / "scenes", 2), root / "out"
    for folder in (scenes, scenes / "images", scenes / "labels"):
        hostile.write_code(folder)
    text = (scenes / "config.yaml").read_text().replace("model: null", "model: evil/model")
    (scenes / "config.yaml").write_text(text.replace("judge: null", "judge: /etc/passwd"))
    commands: list[list[str | Path]] = [
        ["filter", scenes, "--boundary", "1"],
        ["report", scenes, "--json"],
        ["verify", scenes, "--json"],
        ["stats", "--labels", scenes / "labels", "--cache", out / "counts.npz"],
        ["pack", scenes, out / "packed", "--format", "webdataset"],
        ["merge", out / "merged", scenes],
    ]
    return (Case("generated folder", "code next to the images", scenes, command) for command in commands)


def _recipe_cases(root: Path) -> Iterator[Case]:
    texts = (
        "!!python/object/apply:os.system ['touch {}']",
        "seed: !!python/name:evil_code.Evil",
        "x: !!python/module:evil_code",
    )
    for number, text in enumerate(texts):
        folder = root / "recipes" / str(number)
        hostile.write_code(folder)
        (folder / "a.yaml").write_text(text.format(folder / hostile.MARKER) + "\n")
        out = root / "out" / f"recipe{number}"
        yield Case("recipe", text, folder, ["generate", out, "--recipe", folder / "a.yaml"])


def _labelled_set(folder: Path) -> Path:
    label = np.repeat(np.array([0, 8, 10, 13], np.uint8), 16)[:, None].repeat(64, 1)
    for name, values in (("images/0.png", PALETTE[label]), ("labels/0_labelTrainIds.png", label)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / name)
    return folder


def _executing_case(root: Path) -> Case:
    """A command that executes a file, as its help says."""
    folder = root / "named"
    hostile.write_code(folder)
    checkpoint = root / "mmseg" / "plain" / "a.pth"
    command = ["export", "segmenter", checkpoint, root / "out" / "a.onnx", "--config", folder / "evil_code.py"]
    return Case("mmsegmentation checkpoint", "config named on the command line", folder, command)


def _run_guarded(root: Path, commands: Sequence[Sequence[str | Path]]) -> list[dict[str, Any]]:
    """Run the commands in one process, whose Python path and working directory are those of hostile code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    places = [str(ROOT), *sys.path, str(root / "models" / "plain"), str(root / "recipes" / "0")]
    environment |= {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    lines = "".join(json.dumps([str(word) for word in command]) + "\n" for command in commands)
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.guarded", str(root)],
        input=lines, cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(commands), done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile").resolve()


@pytest.fixture(scope="module")
def results(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All commands, in one process, since its imports take longer than most commands."""
    own = tmp_path_factory.mktemp("own")
    cases = [
        *_recipe_cases(root),
        *_generated_cases(root),
        *_model_cases(root, make_labels(own / "labels")),
        *_segmenter_cases(root, _labelled_set(own / "set")),
        _executing_case(root),
    ]
    return list(zip(cases, _run_guarded(root, [case.command for case in cases]), strict=True))


def _problems(case: Case, found: dict[str, Any], root: Path) -> list[str]:
    """What a command did besides succeeding or being refused, and reading what it may read."""
    command = str(case.command[0])
    commands, patterns = READS[case.kind]
    assert command in commands
    commit = f"start: git -C {ROOT} "  # records name the commit of dgkit itself
    did = [f"{event}: {name}" for event, name in found["events"] if event not in ("read", "write")]
    did = [text for text in did if text != "start: uname -p" and not text.startswith(commit)]
    read = [os.path.relpath(root / path, case.folder) for event, path in found["events"] if event == "read"]
    out = os.path.relpath(root / "out", case.folder) + os.sep
    did += [
        f"read: {path}"
        for path in read
        if not path.startswith(out) and (path.startswith("..") or not any(fnmatch(path, p) for p in patterns))
    ]
    explained = found["code"] == 0 or "error: " in found["stderr"] or command == "verify"
    if found["code"] not in (0, 1, 2) or not explained:
        did.append(f"exit {found['code']}: {found['stderr'][-300:]}")
    return [f"{command}, {case.what}: {text}" for text in did]


@pytest.mark.parametrize("kind", READS)
def test_nothing_runs_and_only_listed_files_are_read(root: Path, results: Found, kind: str) -> None:
    chosen = [(case, found) for case, found in results[:-1] if case.kind == kind]
    if not chosen:
        pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]', and ONNX Runtime: pip install 'dgkit[cpu]'")
    assert [text for case, found in chosen for text in _problems(case, found, root)] == []
    markers = [path.relative_to(root) for path in root.rglob(hostile.MARKER)]
    assert [path for path in markers if path.parts[0] != "named"] == []


def test_what_is_not_ignored_is_refused(results: Found) -> None:
    for case, found in results[:-1]:
        if case.kind == "generated folder":  # those that check the folder find the code
            wanted = case.command[0] in ("verify", "merge")
        else:
            wanted = case.what != hostile.HARMLESS
        assert bool(found["code"]) is wanted, (case, found)
        if case.kind == "recipe":
            assert "not valid YAML" in found["stderr"]


def test_the_guard_sees_code_that_runs(root: Path, results: Found) -> None:
    """Otherwise the other tests would prove nothing."""
    pytest.importorskip("mmseg")
    _, found = results[-1]
    assert ["execute", "named/evil_code.py"] in found["events"] or (root / "named" / hostile.MARKER).exists()


def test_the_policy_states_the_same_list() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    section = text.split("## What is read")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|`]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    stated = {
        kind.strip(): (tuple(re.findall("`(.+?)`", commands)), tuple(re.findall("`(.+?)`", files)))
        for kind, commands, files in rows[1:]
    }
    assert stated == READS
