"""One walk over the files of users, and one rule for endings and hidden files."""

import os
import unicodedata
from pathlib import Path

import pytest

from dgkit.data.listing import find_named, find_stems, printable, split_ending, walk
from dgkit.errors import InputError
from dgkit.files import is_hidden


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def listed(root: Path) -> list[str]:
    return sorted(f"{sub}/{name}".removeprefix("./") for sub, names in walk(root) for name in names)


@pytest.mark.parametrize(
    "name",
    [".DS_Store", "._a.png", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "Thumbs.db", "THUMBS.DB", "desktop.ini",
     "$RECYCLE.BIN", "lost+found", "#recycle", "@tmp", "~snapshot", "Network Trash Folder", "Temporary Items"],
)  # fmt: skip
def test_hidden_and_system_files_and_folders_are_skipped(tmp_path: Path, name: str) -> None:
    assert is_hidden(name)
    make(tmp_path, "a.png", f"sub/{name}", f"{name}_/b.png", f"folder/{name}/c.png")
    found = listed(tmp_path)
    assert "a.png" in found and f"sub/{name}" not in found and f"folder/{name}/c.png" not in found


def test_endings_match_in_any_case() -> None:
    assert split_ending("A.PNG", (".jpg", ".png")) == ("A", 1)
    assert split_ending("a_LABELTRAINIDS.Png", ("_labelTrainIds.png", ".png")) == ("a", 0)
    assert split_ending("a.tif", (".png",)) is None


def test_each_folder_is_visited_once(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "b/1.png", "2.png")
    make(tmp_path / "elsewhere", "3.png", "deep/4.png")
    (root / "x").symlink_to(".")
    (root / "b" / "up").symlink_to("..")
    (root / "a").symlink_to("b")
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "circle").symlink_to("circle")
    assert listed(root) == ["2.png", "again/4.png", "b/1.png", "circle", "outside/3.png"]


def test_pipes_are_skipped_and_links_to_nothing_are_listed(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("absent")
    assert listed(tmp_path) == ["a.png", "c.png"]
    assert listed(tmp_path / "absent") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "a/b.png")
    (tmp_path / "a").chmod(0)
    with pytest.raises(InputError, match="cannot be listed"):
        listed(tmp_path)
    (tmp_path / "a").chmod(0o700)


def test_stems_of_photographs(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "stra\u00dfe-\u00e9")
    make(tmp_path, "a.JPG", "b.jpeg", "b.png", "c.jpg", "c.JPG", f"{decomposed}.Jpg", "sub/d.png", "._a.jpg")
    found = {stem: path.name for stem, path in find_stems(tmp_path, (".png", ".jpg", ".jpeg")).items()}
    assert found == {
        "a": "a.JPG", "b": "b.png", "c": "c.jpg", unicodedata.normalize("NFC", decomposed): f"{decomposed}.Jpg"
    }  # fmt: skip
    assert find_stems(tmp_path / "absent", (".png",)) == {}


def test_names_in_manifests_of_other_systems(tmp_path: Path) -> None:
    stored = unicodedata.normalize("NFD", "images/\u00e9.png")
    make(tmp_path, stored, "images/a.png")
    assert find_named(tmp_path, "images\\a.png") == tmp_path / "images/a.png"
    assert find_named(tmp_path, "images\\\u00e9.png") == tmp_path / stored
    assert find_named(tmp_path, "images/absent.png") == tmp_path / "images/absent.png"


def test_names_that_cannot_be_printed() -> None:
    assert printable("a\nb\udcdf\u2028c\u00e9") == "a\ufffdb\ufffd\ufffdc\u00e9"
