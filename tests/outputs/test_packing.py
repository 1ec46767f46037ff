"""Packed folders: their own loaders read back what was generated; an interrupted call can be repeated."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from dgkit.errors import InputError, MissingDependency, OutputError, UsageError
from dgkit.locks import LOCK, sole_writer
from dgkit.outputs import packing as module
from dgkit.outputs.packing import FORMATS, SUMS, pack
from tests.generated import make_generated, make_image, make_job
from tests.scenes import snapshot

SHARD = 24_000  # bytes: two or three of the scenes of these tests


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'dgkit[outputs]'")
    return request.param


def check_sums(dest: Path) -> list[str]:
    lines = [line.split("  ") for line in (dest / SUMS).read_text().splitlines()]
    for digest, name in lines:
        assert hashlib.sha256((dest / name).read_bytes()).hexdigest() == digest
    return [name for _, name in lines]


def test_files_of_each_format(generated: Path, tmp_path: Path, format: str) -> None:
    dest = tmp_path / "dest"
    seen: list[tuple[str, float, float]] = []
    result = pack(generated, dest, format, shard_bytes=SHARD, progress=lambda *told: seen.append(told))
    assert sorted(check_sums(dest)) == list(result.files)
    assert (result.images, result.continued) == (7, 0) and result.written >= (1 if format == "folder" else 3)
    assert result.bytes == sum((dest / name).stat().st_size for name in result.files)
    assert seen[-1] == ("pack", 7, 7)
    card = yaml.safe_load((dest / "README.md").read_text().split("---\n")[1])
    patterns = card["configs"][0]["data_files"][0]["path"]
    assert {name for name in result.files for pattern in patterns if Path(name).match(pattern)} == set(result.files)
    assert not [name for name in snapshot(dest) if name.endswith(".tmp") or LOCK in name]


def test_shards_have_about_the_requested_size(generated: Path, tmp_path: Path) -> None:
    result = pack(generated, tmp_path / "dest", "webdataset", shard_bytes=SHARD)
    sizes = [(tmp_path / "dest" / name).stat().st_size for name in result.files]
    assert len(sizes) >= 3 and max(sizes) <= SHARD + 10_240  # a tar file ends with a block of zeros
    one = pack(generated, tmp_path / "one", "webdataset", shard_bytes=1)
    assert len(one.files) == 7  # a scene is never split


# webdataset leaves its shards open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_reads_the_shards(generated: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset: pip install 'dgkit[dev]'")
    result = pack(generated, tmp_path / "dest", "webdataset", shard_bytes=SHARD)
    shards = [str(tmp_path / "dest" / name) for name in result.files]
    scenes = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(scenes) == 7 and len({scene["__key__"] for scene in scenes}) == 7
    for index, scene in enumerate(scenes):
        assert np.array_equal(scene["image.png"], make_image(index))
        assert np.array_equal(scene["label.png"][..., 0], make_job(index).label)
        assert scene["json"]["id"] == make_job(index).id


@pytest.mark.parametrize("kind", FORMATS)
def test_datasets_loads_every_format(generated: Path, tmp_path: Path, kind: str) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'dgkit[dev]'")
    pack(generated, tmp_path / "dest", kind, shard_bytes=SHARD)
    scenes = datasets.load_dataset(str(tmp_path / "dest"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(scenes) == 7
    image, label = ("image.png", "label.png") if kind == "webdataset" else ("image", "label")
    for index, scene in enumerate(scenes):
        job = make_job(index)
        assert np.array_equal(np.asarray(scene[image]), make_image(index))
        assert np.array_equal(np.asarray(scene[label]), job.label)
        found = scene["json"] if kind == "webdataset" else scene
        assert (found["id"], found["style"], found["seed"]) == (job.id, job.style, job.seed)


def test_the_same_scenes_give_the_same_bytes(generated: Path, tmp_path: Path, format: str) -> None:
    for name in ("a", "b"):
        pack(generated, tmp_path / name, format, shard_bytes=SHARD)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_a_second_call_writes_nothing(generated: Path, tmp_path: Path, format: str) -> None:
    first = pack(generated, tmp_path / "dest", format, shard_bytes=SHARD)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    again = pack(generated, tmp_path / "dest", format, shard_bytes=SHARD)
    assert (again.written, again.continued, again.files) == (0, first.written, first.files)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}


def cut_sums(dest: Path) -> None:
    data = (dest / SUMS).read_bytes()
    (dest / SUMS).write_bytes(data[: len(data) // 2])


def damage(dest: Path) -> None:
    name = (dest / SUMS).read_text().splitlines()[-1].split("  ")[1]
    path = dest / name
    path.unlink()  # a hard link: writing into it would change the generated folder as well
    path.write_bytes(b"something else")


def lose(dest: Path) -> None:
    name = (dest / SUMS).read_text().splitlines()[0].split("  ")[1]
    (dest / name).unlink()
    (dest / f".{Path(name).name}.99999999.tmp").write_bytes(b"left by a killed run")


def enlarge(dest: Path) -> None:
    """A file of holes, which takes minutes to hash."""
    path = dest / (dest / SUMS).read_text().splitlines()[-1].split("  ")[1]
    path.unlink()
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize("harm", [cut_sums, damage, lose, enlarge])
def test_missing_and_damaged_files_are_written_again(
    generated: Path, tmp_path: Path, format: str, harm: Callable[[Path], None]
) -> None:
    dest = tmp_path / "dest"
    pack(generated, dest, format, shard_bytes=SHARD)
    whole = snapshot(dest)
    harm(dest)
    assert pack(generated, dest, format, shard_bytes=SHARD).written >= 1
    assert snapshot(dest) == whole


def test_a_pipe_in_the_place_of_the_checksums_is_an_error(generated: Path, tmp_path: Path) -> None:
    pack(generated, tmp_path / "dest", "webdataset", shard_bytes=SHARD)
    (tmp_path / "dest" / SUMS).unlink()
    os.mkfifo(tmp_path / "dest" / SUMS)
    with pytest.raises(OutputError, match=f"cannot write .*{SUMS}: it is a pipe"):
        pack(generated, tmp_path / "dest", "webdataset", shard_bytes=SHARD)


@pytest.mark.parametrize("operation", range(0, 12, 2))
def test_packing_resumes_after_an_error_at_any_rename(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    pack(generated, tmp_path / "whole", "webdataset", shard_bytes=SHARD)
    real, left = os.replace, [operation]

    def failing(source: str, target: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        try:
            pack(generated, tmp_path / "dest", "webdataset", shard_bytes=SHARD)
        except OutputError as error:
            assert "the disk is full" in error.message
    pack(generated, tmp_path / "dest", "webdataset", shard_bytes=SHARD)
    assert snapshot(tmp_path / "dest") == snapshot(tmp_path / "whole")


def killed(out: Path, dest: Path, kind: str, operation: int) -> None:
    """Packing, killed at its file operation number ``operation``: either side of a rename, a link, or an fsync."""
    left = [operation]

    def dying(function: Callable[..., object]) -> Callable[..., None]:
        def wrapper(*args: object) -> None:
            for step in (lambda: None, lambda: function(*args)):
                step()
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapper

    for name in ("replace", "link", "fsync"):
        setattr(os, name, dying(getattr(os, name)))
    pack(out, dest, kind, shard_bytes=SHARD)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("kind", ["webdataset", "folder"])
def test_packing_resumes_after_a_kill(generated: Path, tmp_path: Path, kind: str) -> None:
    processes = multiprocessing.get_context("spawn")
    for operation in (1, 8):  # the second run gets further, since finished files need no operation
        process = processes.Process(target=killed, args=(generated, tmp_path / "dest", kind, operation))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    pack(generated, tmp_path / "dest", kind, shard_bytes=SHARD)
    pack(generated, tmp_path / "whole", kind, shard_bytes=SHARD)
    assert snapshot(tmp_path / "dest") == snapshot(tmp_path / "whole")


def test_other_settings_or_files_are_refused(generated: Path, tmp_path: Path) -> None:
    pack(generated, tmp_path / "dest", "webdataset", shard_bytes=SHARD)
    with pytest.raises(OutputError, match=r"shard_bytes differ"):
        pack(generated, tmp_path / "dest", "webdataset", shard_bytes=2 * SHARD)
    with pytest.raises(OutputError, match=r"format"):
        pack(generated, tmp_path / "dest", "folder")
    with pytest.raises(OutputError, match="holds other files"):
        pack(generated, generated, "webdataset")
    with pytest.raises(UsageError, match="unknown format 'zip'; known formats: folder, webdataset, parquet"):
        pack(generated, tmp_path / "zip", "zip")


def test_a_second_run_is_refused_while_one_is_packing(generated: Path, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    with sole_writer(tmp_path / "dest"), pytest.raises(OutputError, match="another run is writing to"):
        pack(generated, tmp_path / "dest", "webdataset")


@pytest.mark.parametrize("harm", ["remove", "change"])
def test_a_damaged_scene_is_not_packed(tmp_path: Path, harm: str) -> None:
    out = make_generated(tmp_path / "out", 3)
    path = next((out / "images").glob("000001*"))
    path.unlink()
    if harm == "change":
        shutil.copy(next((out / "images").glob("000002*")), path)
    with pytest.raises(InputError, match="000001") as caught:
        pack(out, tmp_path / "dest", "webdataset")
    assert "regenerates damaged scenes" in caught.value.hint


def test_an_unfinished_folder_needs_partial(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 5, written=2)
    with pytest.raises(InputError, match="2 of 5 scenes"):
        pack(out, tmp_path / "dest", "folder")
    assert pack(out, tmp_path / "dest", "folder", partial=True).images == 2


def test_filtered_labels_replace_the_labels(tmp_path: Path, format: str) -> None:
    from dgkit.generation.filter_folder import filter_folder

    out = make_generated(tmp_path / "out", 4)
    with pytest.raises(InputError, match="no complete filtered labels"):
        pack(out, tmp_path / "dest", format, filtered=True)
    filter_folder(out, boundary=2)
    path = out / "labels_filtered" / "manifest.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))  # as if the first scene had been dropped
    result = pack(out, tmp_path / "dest", format, filtered=True)
    assert result.images == 3
    expected = {p.name: p.read_bytes() for p in (out / "labels_filtered").glob("*.png") if "000000" not in p.name}
    assert len(expected) == 3 and all(data != (out / "labels" / name).read_bytes() for name, data in expected.items())
    assert set(packed_labels(tmp_path / "dest", format)) == set(expected.values())


def packed_labels(dest: Path, kind: str) -> list[bytes]:
    if kind == "folder":
        return [path.read_bytes() for path in (dest / "train" / "labels").iterdir()]
    if kind == "webdataset":
        with tarfile.open(dest / "train-000000.tar") as shard:
            members = [member for member in shard.getmembers() if member.name.endswith("label.png")]
            return [shard.extractfile(member).read() for member in members]
    from pyarrow import parquet

    return [row["bytes"] for row in parquet.read_table(dest / "data")["label"].to_pylist()]


@pytest.mark.parametrize("name", ["exp:night", "s3:x", "http:"])
def test_names_with_colons(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, name: str
) -> None:
    """pyarrow takes a relative path with a colon for a URL."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(generated, f"out:{name}")
    result = pack(f"out:{name}", name, format, shard_bytes=SHARD)
    assert snapshot(tmp_path / name) == snapshot(pack(generated, tmp_path / "plain", format, shard_bytes=SHARD).dest)
    assert sorted(check_sums(tmp_path / name)) == list(result.files)


@pytest.mark.parametrize("target", ["absolute", "relative", "folder", "chain"])
def test_an_image_folder_of_symbolic_links_holds_its_own_files(generated: Path, tmp_path: Path, target: str) -> None:
    """The packed folder is complete without the files that the links name, also if an older version packed it."""
    out, store, dest = tmp_path / "out", tmp_path / "store", tmp_path / "dest"
    shutil.copytree(generated, out)
    for kind in ("images", "labels"):
        shutil.move(out / kind, store / kind)
        if target == "folder":
            (out / kind).symlink_to(store / kind)
            continue
        (out / kind).mkdir()
        for path in (store / kind).iterdir():
            named = Path("..", "..", "store", kind, path.name) if target == "relative" else path
            if target == "chain":
                named = tmp_path / f"{kind}-{path.name}"
                named.symlink_to(path)
            (out / kind / path.name).symlink_to(named)
    contents = snapshot(generated)
    result = pack(out, dest, "folder")
    linked = dest / result.files[0]
    linked.unlink()
    linked.symlink_to(tmp_path / "elsewhere.png")
    pack(out, dest, "folder")
    shutil.rmtree(store)
    for name in check_sums(dest):
        path = dest / name
        assert path.is_file() and not path.is_symlink()
        assert path.read_bytes() == contents[name.removeprefix("train/")]
    assert not [name for name in snapshot(dest) if name.endswith(".tmp")]


def test_an_image_folder_of_hard_links_takes_no_space(generated: Path, tmp_path: Path) -> None:
    pack(generated, tmp_path / "dest", "folder")
    image = next((tmp_path / "dest" / "train" / "images").iterdir())
    twin = generated / "images" / image.name
    try:
        os.link(twin, tmp_path / "probe")
    except OSError:
        pytest.skip("this file system has no hard links")
    assert image.samefile(twin)


def test_folder_lists_its_scenes(generated: Path, tmp_path: Path) -> None:
    pack(generated, tmp_path / "dest", "folder")
    lines = [json.loads(line) for line in (tmp_path / "dest/train/metadata.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [make_job(index).id for index in range(7)]
    assert all(
        (tmp_path / "dest/train" / line[key]).is_file() for line in lines for key in ("file_name", "label_file_name")
    )


def test_a_missing_library_is_named(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, extra: str) -> None:
        raise MissingDependency(f"the Python package '{name}' is not installed", f"pip install 'dgkit[{extra}]'")

    monkeypatch.setattr(module, "require", absent)
    with pytest.raises(MissingDependency) as caught:
        pack(generated, tmp_path / "dest", "parquet")
    assert "outputs" in caught.value.hint and not (tmp_path / "dest").exists()
