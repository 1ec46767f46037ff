"""Damaged files of a generated folder are one line of error, or harmless, in every command that reads the folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dgkit.cli.app import main
from dgkit.outputs.card import write_card
from tests.generated import make_generated

COMMANDS = ("verify OUT", "report OUT", "pack OUT DEST --format folder --partial", "pack OUT DEST", "merge DEST OUT",
            "filter OUT --boundary 1")  # fmt: skip
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    float("inf"),
    "",
    "\0",
    "x" * 300,
    "\udce9",
    "../a",
    [],
    {},
    [[]] * 4,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = make_generated(tmp_path_factory.mktemp("damaged") / "out", 3)
    write_card(out, source_pixels=[1] * 19)
    return out


def damages(whole: Path) -> list[tuple[str, bytes]]:
    """(name of a file, its damaged content)."""
    lines = [json.loads(line) for line in (whole / "manifest.jsonl").read_text().splitlines()]
    found = [("manifest.jsonl", b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}\n"), ("manifest.jsonl", b"\0\xff\n")]
    for number, key in enumerate(lines[0]):
        value = VALUES[number % len(VALUES)]
        changed = [{**line, key: value} if line["index"] == 1 else line for line in lines]
        found.append(("manifest.jsonl", "".join(json.dumps(line) + "\n" for line in changed).encode()))
    card = json.loads((whole / "dataset.json").read_text())
    for key in ("classes", "settings"):
        found += [("dataset.json", json.dumps({**card, key: value}).encode()) for value in VALUES[::3]]
    found += [("dataset.json", data) for data in (b"[" * 10_000, b"null", b'{"classes": 1e999}')]
    config = (whole / "config.yaml").read_text()
    changes = (
        ("preset: exact", 'preset: "\\uDCE9"'),
        ("seed: 0", "seed: 0x_"),
        ("seed: 0", f"seed: {'9' * 5000}"),
        ("count: 3", "count: 2024-02-30"),
        ("size:", "size: null\nsizes:"),
        ("batch: 8", "batch: [" * 999),
    )
    for old, new in changes:
        assert old in config
        found.append(("config.yaml", config.replace(old, new).encode()))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_damaged_files_are_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    places = {"OUT": str(tmp_path / "out"), "DEST": str(tmp_path / "dest")}
    arguments = [places.get(word, word) for word in command.split()]
    for name, data in damages(whole):
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, places["OUT"])
        (tmp_path / "out" / name).write_bytes(data)
        code = main(["-q", *arguments])
        errors = capsys.readouterr().err.splitlines()
        assert code in (0, 1, 2), (name, data[-300:])
        if code and arguments[0] != "verify":
            assert errors[0].startswith("error: ") and len(errors) <= 2, (name, errors)
