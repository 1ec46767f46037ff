"""The study of foundation encoders: what is trained, and its table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.benchmarks.scripts import load_script


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with load_script("studies/foundation") as module:
        yield module


def row(network: str, arm: str, what: str, miou: float, seed: int = 0) -> dict[str, Any]:
    return {"network": network, "protocol": "half", "arm": arm, "seed": seed, "set": what, "miou": miou}


def test_the_table_shows_what_each_arm_adds(script: ModuleType) -> None:
    rows = [row("a", "source", "x", 9.0), row("a", "colour", "x", 10.0), row("a", "full", "x", 12.5),
            row("b", "colour", "x", 20.0), row("b", "full", "x", 19.0), row("b", "full", "x fog", 1.0)]  # fmt: skip
    lines = script.table(rows).splitlines()
    assert lines[0] == "| network | protocol | set | source, colours disturbed | source alone | generated |"
    assert lines[2:] == ["| a | half | x | 10.0 | -1.0 | +2.5 |", "| b | half | x | 20.0 |  | -1.0 |"]
    assert script.answer(rows).splitlines() == [
        "a: generated images add +2.5 points of mIoU",
        "b: generated images add -1.0 points of mIoU",
    ]


def study(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, *options: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["foundation.py", str(tmp_path), *options])
    parser = script.make_parser("")
    parser.set_defaults(arms=list(script.WANTED))
    given = script.parse(parser)
    given.networks = {"first": "one.py", "second": "two.py freeze=true"}
    return script.NetworkStudy(given, network, "half", "first")


def test_networks_share_scenes_and_the_filter(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("--source", "gta=g", "--on", "bdd=b")
    one, two = (study(script, tmp_path, monkeypatch, name, *sets) for name in ("first", "second"))
    names = [job.name for job in two.jobs()]
    assert names[:2] == ["generated/full", "filter/full"]
    assert names[2:] == ["source-0", "colour-0", "quarter-0", "full-0", "filter-0", *names[7:]]
    quarter, full = (two.training(name, 0) for name in ("quarter", "full"))
    assert str(quarter.out) == str(tmp_path / "runs" / "second" / "quarter-0") and quarter.recipe == Path("two.py")
    assert quarter.result.name == "quarter-0-half.json" and quarter.sets[0] == "freeze=true"
    assert "data.share=0.25" in quarter.sets and not any(text.startswith("data.share") for text in full.sets)
    folder = f'data.generated=["{tmp_path / "generated" / "full"}"]'
    assert folder in quarter.sets and folder in full.sets and quarter.protocol == {"protocol": "half"}
    alone = two.training("source", 0)
    assert {"data.generated=[]", "data.share=0", "data.val=null"} <= set(alone.sets)
    called: list[tuple[object, ...]] = []
    for each in (one, two):
        monkeypatch.setattr(each, "_dgkit", lambda *words: called.append(words))
        each.filter("full")
    assert [words[-1] for words in called] == [tmp_path / "runs" / "first" / "colour-0" / "segmenter.onnx"]


def test_networks_are_compared_with_the_one_without_pretraining(script: ModuleType) -> None:
    import foundation_table

    rows = [{"arm": arm, "network": arm.upper(), "iteration": "9", "processor_seconds": "60.4", "miou": miou}
            for arm, miou in (("mit_b0", "5"), ("mit_b0", "10"), ("lite0", "16.04"))]  # fmt: skip
    assert foundation_table.encoders(rows).splitlines()[2:] == [
        "| MIT_B0 | 9 | 60 | 10.0 |  |", "| LITE0 | 9 | 60 | 16.0 | 1.60 |"
    ]  # fmt: skip
