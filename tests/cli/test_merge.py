"""``dgkit merge`` through the real command line."""

from pathlib import Path

from dgkit.cli.app import main
from tests.scenes import FAST_FLAGS, snapshot


def test_a_merged_folder_equals_that_of_a_single_run(micro: Path, labels: Path, tmp_path: Path) -> None:
    settings = ["--labels", str(labels), "--model", str(micro), "--count", "3", *FAST_FLAGS]
    assert main(["generate", str(tmp_path / "whole"), *settings]) == 0
    parts = [str(tmp_path / f"part{number}") for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        assert main(["generate", part, *settings, "--shard", f"{number}/2"]) == 0
    assert main(["merge", str(tmp_path / "merged"), *parts]) == 0
    assert snapshot(tmp_path / "merged") == snapshot(tmp_path / "whole")
