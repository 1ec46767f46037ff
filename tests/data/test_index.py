"""The class index: exact counts from any number of processes, and a cache that is checked."""

import os
from pathlib import Path

import numpy as np
import pytest

import dgkit.data.index as index_module
from dgkit.data.datasets import labels_folder, open_dataset
from dgkit.data.index import ClassIndex, build_index, default_cache
from dgkit.data.labelmap import read_label
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import DgkitError, LabelError, OutputError, UsageError
from tests.data.trees import end_process, write_ids


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(5)
    for i in range(5):
        ids = rng.choice(np.array([*range(19), 255], np.uint8), (8 + i, 12))
        write_ids(tmp_path / "maps" / f"{i}.png", ids)
    return labels_folder(tmp_path / "maps")


def same(one: ClassIndex, two: ClassIndex) -> bool:
    arrays = np.array_equal(one.counts, two.counts) and np.array_equal(one.sizes, two.sizes)
    return arrays and one.digests == two.digests and one.digest == two.digest


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """The samples that are really read from now on."""
    seen: list[Sample] = []
    real = index_module._count
    monkeypatch.setattr(index_module, "_count", lambda s, scale: (seen.append(s), real(s, scale))[1])
    return seen


def test_counts_every_pixel_but_ignore(dataset: Dataset) -> None:
    index = build_index(dataset)
    for i, sample in enumerate(dataset.samples):
        label = read_label(sample.label)
        assert index.counts[i].tolist() == [(label == c).sum() for c in range(19)]
        assert index.sizes[i].tolist() == list(label.shape)
        assert np.array_equal(index.read(i), label)
    assert index.counts.dtype == np.int64 and index.sizes.dtype == np.int32
    assert not index.counts.flags.writeable and not index.sizes.flags.writeable


def test_maps_are_resized_before_they_are_counted(dataset: Dataset) -> None:
    index = build_index(dataset, scale=0.5)
    assert index.sizes.tolist() == [[4, 6], [4, 6], [5, 6], [6, 6], [6, 6]]
    for i in range(5):
        assert index.counts[i].tolist() == [(index.read(i) == c).sum() for c in range(19)]
    assert build_index(dataset, scale=0.01).sizes.tolist() == [[1, 1]] * 5


def test_processes_count_the_same_in_the_same_order(dataset: Dataset) -> None:
    assert same(build_index(dataset, workers=2), build_index(dataset))


def test_progress_runs_from_what_is_known_to_all(dataset: Dataset, tmp_path: Path) -> None:
    cache, calls = tmp_path / "cache.npz", []
    for _ in range(2):
        build_index(dataset, cache=cache, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(6)] + [(5, 5)]


def test_the_cache_saves_reading_and_changes_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "deep" / "cache.npz"
    first = build_index(dataset, cache=cache)
    seen = counted(monkeypatch)
    assert same(build_index(dataset, cache=cache), first)
    assert seen == []
    assert [p.name for p in cache.parent.iterdir()] == ["cache.npz"]


def test_a_changed_map_is_counted_again(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache.npz"
    before = build_index(dataset, cache=cache)
    changed = dataset.samples[2].label
    write_ids(changed, np.full((10, 12), 7))
    seen = counted(monkeypatch)
    after = build_index(dataset, cache=cache)
    assert [s.label for s in seen] == [changed]
    assert after.counts[2, 7] == 120 and after.digest != before.digest
    os.utime(changed, ns=(1, 1))
    build_index(dataset, cache=cache)
    assert [s.label for s in seen] == [changed, changed]


def test_another_scale_or_encoding_is_counted_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.npz"
    write_ids(tmp_path / "one" / "a.png", np.array([[0, 8]]))
    one = labels_folder(tmp_path / "one")
    build_index(one, cache=cache)
    seen = counted(monkeypatch)
    assert build_index(one, scale=2, cache=cache).counts.sum() == 8
    assert build_index(labels_folder(tmp_path / "one", "camvid"), cache=cache).counts[0, [10, 13]].tolist() == [1, 1]
    assert len(seen) == 2


@pytest.mark.parametrize("damage", ["empty", "half", "text", "flipped", "folder_of_old_version"])
def test_a_damaged_cache_is_rebuilt(dataset: Dataset, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache.npz"
    good = build_index(dataset, cache=cache)
    whole = cache.read_bytes()
    middle = len(whole) // 2
    cache.write_bytes(
        {
            "empty": b"",
            "half": whole[:middle],
            "text": b"no archive",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "folder_of_old_version": b"PK\x05\x06" + bytes(18),
        }[damage]
    )
    assert same(build_index(dataset, cache=cache), good)
    assert same(build_index(dataset, cache=cache), good)


def test_a_cache_that_cannot_be_written(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        build_index(dataset, cache=tmp_path / "file" / "cache.npz")
    assert "--cache" in caught.value.hint


def test_the_default_cache_is_one_file_per_set(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "own"))
    path = default_cache(dataset)
    assert path is not None and path.parent == tmp_path / "own" / "index"
    assert len({default_cache(dataset), default_cache(dataset, 0.5)}) == 2
    monkeypatch.setenv("DGKIT_CACHE", str(dataset.samples[0].label))  # a file: no folder can be made in it
    assert default_cache(dataset) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_maps_that_cannot_be_read_are_all_found(dataset: Dataset, workers: int) -> None:
    for i in (1, 3):
        dataset.samples[i].label.write_bytes(b"")
    with pytest.raises(LabelError) as caught:
        build_index(dataset, workers=workers)
    message = caught.value.message
    assert (
        "1.png: the file is empty" in message and "2 of 5 label maps cannot be used" in message and "3.png" in message
    )
    assert caught.value.hint and "\n" not in message


def test_the_digest_depends_on_the_label_maps(dataset: Dataset, tmp_path: Path) -> None:
    write_ids(tmp_path / "one" / "a.png", np.array([[0, 1]]))
    digests = set()
    for name in ("Road", "Car"):
        config = tmp_path / f"{name}.json"
        config.write_text(f'{{"labels": [{{"readable": "{name}"}}, {{"readable": "Bird"}}]}}')
        one = labels_folder(tmp_path / "one", f"mapillary_b@{config}")
        digests |= {build_index(one).digest, build_index(one, scale=2).digest}
    assert len(digests) == 4
    assert build_index(dataset).digest == build_index(dataset).digest


def test_a_reading_process_that_dies(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_count_task", end_process)
    with pytest.raises(DgkitError, match="ended unexpectedly") as caught:
        build_index(dataset, workers=2)
    assert "--workers 0" in caught.value.hint


def test_settings_out_of_range(dataset: Dataset) -> None:
    for arguments in ({"scale": 0.0}, {"scale": float("nan")}, {"scale": 17.0}, {"workers": -1}):
        with pytest.raises(UsageError):
            build_index(dataset, **arguments)  # type: ignore[arg-type]


def test_real_maps_through_processes(shared_folder: Path) -> None:
    dataset = labels_folder(shared_folder / "data" / "gta_labels")
    index = build_index(dataset)
    assert index.sizes.tolist() == [[1052, 1914]] * 3
    assert index.counts[0, 6] == 5942 and index.counts[1, 13] == 46680 and index.counts[2, 15] == 6195
    camvid = open_dataset("camvid", shared_folder / "data" / "camvid", "val")
    small = Dataset(camvid.name, camvid.root, camvid.split, camvid.samples[:8])
    assert same(build_index(small, workers=2), build_index(small))
