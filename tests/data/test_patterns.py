"""Patterns of files list what a folder lists, and pairs never join files that only look alike."""

from pathlib import Path

import pytest

from dgkit.data.datasets import find_labels, open_dataset
from dgkit.data.patterns import expand, fixed_folder, partners
from dgkit.errors import InputError, UsageError


def files(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(pattern: str, root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in expand(pattern, (".png",), "PNG files")]


def test_circles_of_links_end_and_each_folder_counts_once(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b/c.png")
    for link in ("x", "y", "b/z"):
        (tmp_path / link).symlink_to(tmp_path)
    assert found(f"{tmp_path}/**/*.png", tmp_path) == ["a.png", "b/c.png"]
    assert found(f"{tmp_path}/**", tmp_path) == ["a.png", "b/c.png"]
    assert found(f"{tmp_path}/**/b/**/*.png", tmp_path)[0].endswith("b/c.png")


def test_system_files_are_skipped_and_endings_match_in_any_case(tmp_path: Path) -> None:
    files(tmp_path, "a/b.PNG", "a/c.png", "a/d.jpg", "a/@eaDir/c.png/thumb.png", "__MACOSX/a/c.png", ".x/e.png")
    assert found(f"{tmp_path}/**/*.png", tmp_path) == ["a/b.PNG", "a/c.png"]
    assert found(f"{tmp_path}/*/*.PNG", tmp_path) == ["a/b.PNG", "a/c.png"]
    assert found(f"{tmp_path}/a/[bd]*", tmp_path) == ["a/b.PNG"]


def test_folders_with_brackets_are_no_patterns(tmp_path: Path) -> None:
    files(tmp_path, "set[1]/maps/a.png", "set1/maps/b.png", "set1/c[1].png", "set1/c1.png")
    assert found(f"{tmp_path}/set[1]/maps/*.png", tmp_path) == ["set[1]/maps/a.png"]
    assert fixed_folder(f"{tmp_path}/set[1]/maps/*.png") == tmp_path / "set[1]/maps"
    assert found(f"{tmp_path}/set[0-9]/maps/*.png", tmp_path) == ["set1/maps/b.png"]
    assert "set1/c[1].png" in found(f"{tmp_path}/set1/c[1].png", tmp_path)


@pytest.mark.parametrize("pattern", ["", "*.png", "none/*.png"])
def test_no_files(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match="no PNG files match"):
        find_labels(f"{tmp_path}/{pattern}")


def pairs(labels: str, images: str) -> dict[str, str]:
    table = partners({Path(name): Path(name[2:]) for name in labels.split()},
                     {Path(name): Path(name[2:]) for name in images.split()})  # fmt: skip
    return {str(label): str(image) for label, image in table.items()}


def test_the_name_alone_joins_only_files_that_have_it_alone() -> None:
    assert pairs("m/s1/1.png m/s2/1.png", "p/s1/1.jpg") == {"m/s1/1.png": "p/s1/1.jpg"}
    assert pairs("m/x/1_labelIds.png m/x/2.png", "p/y/1.jpg p/y/2.jpg p/z/2.jpg") == {"m/x/1_labelIds.png": "p/y/1.jpg"}


def test_a_label_map_is_no_photograph() -> None:
    assert pairs("d/a_mask.png", "d/a_mask.png d/a_rgb.png") == {}
    assert pairs("d/a_mask.png", "d/a_mask.png d/a.png") == {"d/a_mask.png": "d/a.png"}


def test_two_photographs_of_one_label_map_are_refused() -> None:
    with pytest.raises(InputError, match=r"m/a\.png: 2 photographs have its name, among them a\.jpg and a\.png"):
        pairs("m/a.png", "p/a.jpg p/a.png")
    assert pairs("m/b.png", "p/a.jpg p/a.png p/b.jpg") == {"m/b.png": "p/b.jpg"}


def test_pairs_have_no_splits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--split val and pairs cannot be combined"):
        open_dataset("pairs", f"{tmp_path}/*.jpg::{tmp_path}/*.png", "val")
