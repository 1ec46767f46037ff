"""Shards join to the folder of one run."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import dgkit
from dgkit.cli.app import main
from dgkit.errors import InputError, OutputError, UsageError
from dgkit.generation import merging as module
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.merging import merge
from tests.scenes import snapshot

COUNT = 7  # four blocks: two for the first shard of three, one for each of the others


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dgkit.generate(tmp_path_factory.mktemp("merge") / "whole", **settings).out


@pytest.fixture(scope="module")
def shards(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("merge")
    results = [dgkit.generate(root / f"part{n}", shard=f"{n}/3", **settings) for n in (1, 2, 3)]
    assert [[record.index for record in result.records] for result in results] == [[0, 1, 6], [2, 3], [4, 5]]
    assert [result.written for result in results] == [3, 2, 2]
    return [result.out for result in results]


@pytest.mark.parametrize("copy", [False, True])
def test_shards_join_to_the_folder_of_one_run(whole: Path, shards: list[Path], tmp_path: Path, copy: bool) -> None:
    before = [snapshot(part) for part in shards]
    reported: list[tuple[str, float, float]] = []
    result = merge(tmp_path / "out", shards[::-1], copy=copy, progress=lambda *report: reported.append(report))
    assert [record.index for record in result.records] == list(range(COUNT))
    assert snapshot(tmp_path / "out") == snapshot(whole)
    assert [snapshot(part) for part in shards] == before
    image = Path(result.records[0].image).relative_to(tmp_path / "out")
    assert os.path.samefile(tmp_path / "out" / image, shards[0] / image) is not copy
    assert reported[-1] == ("merge", COUNT, COUNT)
    again = merge(tmp_path / "out", shards)
    assert again.records == result.records
    assert snapshot(tmp_path / "out") == snapshot(whole)


@pytest.mark.parametrize("copy", [False, True])
def test_symbolic_links_in_a_part_are_copied(whole: Path, shards: list[Path], tmp_path: Path, copy: bool) -> None:
    parts = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    for part, shard in zip(parts, shards, strict=True):
        shutil.copytree(shard, part)
        for path in [path for kind in ("images", "labels", "vis") for path in (part / kind).iterdir()]:
            store = tmp_path / f"{path.parent.name}-{path.name}"
            path.rename(store)
            path.symlink_to(store)
    merge(tmp_path / "out", parts, copy=copy)
    for part in parts:
        shutil.rmtree(part)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]
    assert snapshot(tmp_path / "out") == snapshot(whole)


def test_an_interrupted_merge_resumes(
    whole: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = module._place, [10]

    def stop(source: Path, target: Path, copy: bool) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(source, target, copy)

    monkeypatch.setattr(module, "_place", stop)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "out", shards)
    assert len(list((tmp_path / "out/images").iterdir())) > 1
    monkeypatch.undo()
    merge(tmp_path / "out", shards)
    assert snapshot(tmp_path / "out") == snapshot(whole)


def test_a_merged_folder_grows_as_one_run_does(
    whole: Path, shards: list[Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    merge(tmp_path / "out", shards, copy=True)
    result = dgkit.generate(tmp_path / "out", **settings)
    assert (result.written, result.continued) == (0, COUNT)
    assert snapshot(tmp_path / "out") == snapshot(whole)


def test_parts_that_do_not_make_up_a_run_are_refused(
    shards: list[Path], whole: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="2 of 7 images are in no part; the first is number 2"):
        merge(out, [shards[0], shards[2]])
    with pytest.raises(InputError, match="image 0 is both in"):
        merge(out, [*shards, shards[0]])
    with pytest.raises(InputError, match="image 0 is both in"):
        merge(out, [whole, *shards])
    other = dgkit.generate(tmp_path / "other", **(settings | {"shard": "2/3", "seed": 1})).out
    with pytest.raises(InputError, match=r"different settings .*seed: 0 -> 1"):
        merge(out, [shards[0], other, shards[2]])
    with pytest.raises(UsageError, match="both a part and the output folder"):
        merge(shards[0], shards)
    assert not out.exists()


def test_a_damaged_or_unfinished_part_is_refused_with_the_command_that_fixes_it(
    shards: list[Path], tmp_path: Path, settings: dict[str, Any], whole: Path
) -> None:
    part = Path(shutil.copytree(shards[1], tmp_path / "part"))
    image = next((part / "images").iterdir())
    image.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"incomplete or damaged \(1 unreadable\)") as caught:
        merge(tmp_path / "out", [shards[0], part, shards[2]])
    assert f"dgkit verify {part} --repair" in caught.value.hint
    assert main(["verify", str(part), "--repair"]) == 0  # a part is repaired as a part
    assert main(["merge", str(tmp_path / "out"), str(shards[0]), str(part), str(shards[2])]) == 0
    assert snapshot(tmp_path / "out").items() >= snapshot(whole).items()  # the command adds the dataset card


def test_a_shard_keeps_its_number_and_its_batch(shards: list[Path], settings: dict[str, Any]) -> None:
    for change, message in (({"shard": "1/3"}, r"shard: \[2, 3\] -> \[1, 3\]"), ({"batch": 6}, "batch: 4 -> 6")):
        with pytest.raises(OutputError, match=message):
            dgkit.generate(shards[1], **(settings | {"shard": "2/3"} | change))


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_shard_is_one_of_several(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "out", "--shard", shard]) == 2
    assert "expected I/N with 1 <= I <= N" in capsys.readouterr().err


def test_a_shard_without_an_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path / "out"), "--count", "7", "--batch", "4", "--shard", "5/6"]) == 2
    error = capsys.readouterr().err
    assert "shard 5/6 has no image" in error and "at most 4 shards" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", ["some", "-1", "5000"])
def test_workers_are_a_number_or_auto(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "out", f"--workers={workers}"]) == 2
    assert "expected a number from 0 to 1024, or auto" in capsys.readouterr().err
    assert GenerateConfig(workers="3").workers == 3 and GenerateConfig(workers="auto").readers >= 1
