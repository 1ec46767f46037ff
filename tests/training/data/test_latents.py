"""Cached latents equal the encoder's, survive a killed writer, and are never used for other data."""

import json
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from dgkit.data.datasets import labels_folder
from dgkit.errors import InputError, OutputError, UsageError
from dgkit.training.data import latents
from dgkit.training.data.feed import Feed, MixedFeed, PromptDropout
from dgkit.training.data.image_files import ImageFeed, ImageFiles, list_images
from dgkit.training.data.labelled import LabelledFeed
from dgkit.training.data.latents import LatentCache, digest_network, encode, with_cached_latents
from dgkit.training.data.rendered_scenes import SceneSet, render_scenes
from dgkit.training.data.scene_feed import SceneFeed

FACTOR = 4


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return _vae(0)


def _vae(seed: int) -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=(4, 4, 4),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=2,
            layers_per_block=1,
            norm_num_groups=1,
            mid_block_add_attention=False,
        ).eval()


@pytest.fixture
def images(tmp_path: Path) -> ImageFeed:
    """Five images of three sizes, one smaller than the crop, at two scales: ten whole images."""
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(24, 30), (24, 30), (33, 25), (10, 40), (24, 30)]):
        _save(tmp_path / "images" / f"{i}.png", rng.integers(0, 256, (height, width, 3), np.uint8))
    return ImageFeed(ImageFiles(list_images(tmp_path / "images"), 16, (0.75, 1.0)))


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _draws(feed: Feed, count: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    return [feed.draw(np.random.default_rng([2, i])).latents for i in range(count)]


def _equal(a: list, b: list) -> bool:
    return all(np.array_equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


def test_windows_are_those_of_the_encoded_picture(images, vae, tmp_path):
    cached = with_cached_latents(images, vae, tmp_path / "cache")
    cache = cached.files.latents
    assert (cache.factor, len(cache)) == (FACTOR, 10)
    for image in images.whole_images():
        whole = image.read()
        height, width = (side // FACTOR * FACTOR for side in whole.shape[:2])
        assert min(height, width) >= 16
        expected = encode(vae, whole[None, :height, :width])[0].astype(np.float32)
        mean, std = cache.window(image.key, 4, 0, 8)
        assert np.array_equal(mean, expected[0, :, 1:3, :2]) and np.array_equal(std, expected[1, :, 1:3, :2])
        assert (std > 0).all() and mean.dtype == np.float32


def test_pixels_and_latents_show_the_same_crop_on_the_grid(images, vae, tmp_path):
    cached = with_cached_latents(images, vae, tmp_path / "cache", pixels=True)
    whole_images = [(image.key, image.read()) for image in images.whole_images()]
    for i in range(10):
        example = cached.draw(np.random.default_rng(i))
        ((key, y, x),) = (
            (key, y, x)
            for key, whole in whole_images
            for y in range(0, whole.shape[0] - 15, FACTOR)
            for x in range(0, whole.shape[1] - 15, FACTOR)
            if np.array_equal(whole[y : y + 16, x : x + 16], example.image)
        )
        assert _equal([example.latents], [cached.files.latents.window(key, y, x, 16)])
    assert with_cached_latents(images, vae, tmp_path / "cache").draw(np.random.default_rng(0)).image is None


def test_labels_and_latents_share_a_grid(vae, tmp_path):
    rows, columns = np.mgrid[:24, :40]
    label = ((rows // FACTOR + columns // FACTOR) % 3).astype(np.uint8)
    for folder in ("labels", "images"):
        _save(tmp_path / folder / "a.png", label if folder == "labels" else label[..., None].repeat(3, 2) * 80)
    feed = LabelledFeed(labels_folder(tmp_path), 16)
    cached = with_cached_latents(PromptDropout(feed, 0.5), vae, tmp_path / "cache", pixels=True)
    for i in range(20):
        example = cached.draw(np.random.default_rng(i))
        cells = example.label.reshape(4, FACTOR, 4, FACTOR)
        assert (cells == cells[:, :1, :, :1]).all()
        assert np.array_equal(example.image[..., 0], example.label * 80)


def test_scenes_and_mixtures_are_cached_too(images, vae, tmp_path):
    scenes = SceneFeed([render_scenes(tmp_path / "scenes", SceneSet("source", 2, 0, 32), 0)], 16)
    cached = with_cached_latents(MixedFeed([images, scenes]), vae, tmp_path / "cache", batch=4)
    assert len(LatentCache(next((tmp_path / "cache").iterdir()))) == 12
    examples = [cached.draw(np.random.default_rng(i)) for i in range(10)]
    assert {e.label is None for e in examples} == {True, False}
    assert all(e.latents[0].shape == (2, 4, 4) for e in examples)


def test_a_second_call_reads_no_image_and_gives_the_same(images, vae, tmp_path, monkeypatch):
    first = _draws(with_cached_latents(images, vae, tmp_path / "cache"))
    monkeypatch.setattr(latents, "encode", lambda *_: pytest.fail("encoded again"))
    again = with_cached_latents(images, vae, tmp_path / "cache")
    assert _equal(first, _draws(again)) and _equal(first, _draws(pickle.loads(pickle.dumps(again))))


def test_an_interrupted_encoding_is_resumed(images, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "GROUP", 4)
    whole = _draws(with_cached_latents(images, vae, tmp_path / "whole"))

    def stop(done: int, total: int) -> None:
        assert total == 10
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_cached_latents(images, vae, tmp_path / "cache", progress=stop)
    seen: list[int] = []
    resumed = with_cached_latents(images, vae, tmp_path / "cache", progress=lambda done, _: seen.append(done))
    assert seen == [8, 10]
    assert _equal(whole, _draws(resumed))


@pytest.mark.parametrize("cut", ["index", "index line", "header", "moments", "longer", "damaged line", "all of index"])
def test_what_a_crash_leaves_behind_is_repaired(images, vae, tmp_path, monkeypatch, cut):
    monkeypatch.setattr(latents, "GROUP", 4)
    whole = _draws(with_cached_latents(images, vae, tmp_path))
    (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("latents-"))
    index, moments = folder / "index.jsonl", folder / "moments.f16"
    lines = index.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    if cut == "moments":
        moments.write_bytes(moments.read_bytes()[:-10])
    elif cut == "longer":
        moments.write_bytes(moments.read_bytes() + b"x" * 99)
        index.write_bytes(index.read_bytes() + b'[["half')
    elif cut == "damaged line":
        index.write_bytes(lines[0] + lines[1] + b"\0\0\0\n" + lines[3])
    else:
        keep = {"index": lines[:3], "index line": [*lines[:2], lines[2][:20]], "header": [lines[0][:5]]}.get(cut, [])
        index.write_bytes(b"".join(keep))
    assert _equal(whole, _draws(with_cached_latents(images, vae, tmp_path)))
    assert json.loads(index.read_bytes().splitlines()[0])["factor"] == FACTOR
    assert len(LatentCache(folder)) == 10


def test_other_weights_have_another_cache(images, vae, tmp_path):
    first = _draws(with_cached_latents(images, vae, tmp_path / "cache"))
    other = _draws(with_cached_latents(images, _vae(1), tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert not _equal(first, other)
    assert digest_network(vae) == digest_network(_vae(0)) != digest_network(_vae(1))


def test_the_digest_ignores_where_a_network_was_read_from(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    assert digest_network(AutoencoderKL.from_pretrained(tmp_path / "vae")) == digest_network(vae)


def test_a_changed_image_is_refused_until_it_is_encoded(images, vae, tmp_path):
    cached = with_cached_latents(images, vae, tmp_path / "cache")
    for path in images.files.paths:
        _save(path, np.zeros((24, 34, 3), np.uint8))
    with pytest.raises(InputError, match="no latents of"):
        _draws(cached, 1)
    again = with_cached_latents(images, vae, tmp_path / "cache")
    assert len(again.files.latents) == 20
    whole = encode(vae, np.zeros((1, 24, 32, 3), np.uint8))[0, 0].astype(np.float32)
    black = again.files.latents.window(again.whole_images()[1].key, 0, 0, 24)[0]
    assert np.array_equal(black, whole[:, :, :6])


def test_a_full_disk_keeps_what_is_encoded(images, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "GROUP", 4)
    syncs: list[int] = []

    def full(descriptor: int) -> None:
        syncs.append(descriptor)
        if len(syncs) > 3:  # header, moments, index; then the moments of the second group
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(latents.os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        with_cached_latents(images, vae, tmp_path / "cache")
    monkeypatch.undo()
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(LatentCache(folder)) == 4
    assert _equal(
        _draws(with_cached_latents(images, vae, tmp_path / "cache")),
        _draws(with_cached_latents(images, vae, tmp_path / "new")),
    )


def test_two_writers_encode_every_image_once(images, vae, tmp_path, monkeypatch):
    calls: list[int] = []

    def counted(*args):
        calls.append(1)
        return encode(*args)

    monkeypatch.setattr(latents, "encode", counted)
    threads = [threading.Thread(target=with_cached_latents, args=(images, vae, tmp_path / "cache")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 10


def test_latents_that_are_not_finite_are_named(images, tmp_path):
    broken = _vae(0)
    with torch.no_grad():
        broken.encoder.conv_in.weight[0] = float("nan")
    with pytest.raises(InputError, match=r"0\.png .* not finite"):
        with_cached_latents(images, broken, tmp_path / "cache")


def test_crops_of_partial_cells_and_uneven_batches_are_refused(images, vae, tmp_path):
    odd = ImageFeed(ImageFiles(images.files.paths, 18))
    with pytest.raises(UsageError, match="18 pixels"):
        with_cached_latents(odd, vae, tmp_path / "cache")
    with pytest.raises(UsageError, match="batch of 3"):
        with_cached_latents(images, vae, tmp_path / "cache", batch=3)
    with pytest.raises(InputError, match="is not a cache"):
        LatentCache(tmp_path)


def _cached(images: ImageFeed, vae: AutoencoderKL, folder: Path) -> tuple[Feed, Path]:
    feed = with_cached_latents(images, vae, folder)
    (cache,) = folder.glob("latents-*")
    return feed, cache


def test_a_flipped_bit_of_cached_latents_is_an_error(images: ImageFeed, vae: AutoencoderKL, tmp_path: Path) -> None:
    _, cache = _cached(images, vae, tmp_path / "cache")
    moments = bytearray((cache / "moments.f16").read_bytes())
    moments[::8] = bytes(value ^ 1 for value in moments[::8])
    (cache / "moments.f16").write_bytes(moments)
    feed = with_cached_latents(images, vae, tmp_path / "cache")
    with pytest.raises(InputError, match=r"the latents of .* are damaged") as caught:
        feed.draw(np.random.default_rng(0))
    assert f"delete {cache}" in caught.value.hint


def test_a_cache_without_digests_must_be_finite(images: ImageFeed, vae: AutoencoderKL, tmp_path: Path) -> None:
    _, cache = _cached(images, vae, tmp_path / "cache")
    header, *lines = (cache / "index.jsonl").read_text().splitlines()
    plain = [json.dumps([row[:3] for row in json.loads(line)]) for line in lines]
    (cache / "index.jsonl").write_text("\n".join([header, *plain]) + "\n")
    feed = with_cached_latents(images, vae, tmp_path / "cache")
    assert all(np.isfinite(mean).all() for mean, _ in _draws(feed))
    size = (cache / "moments.f16").stat().st_size
    np.full(size // 2, np.nan, np.float16).tofile(cache / "moments.f16")
    with pytest.raises(InputError, match="are damaged"):
        with_cached_latents(images, vae, tmp_path / "cache").draw(np.random.default_rng(0))


@pytest.mark.parametrize("shape", [[], [2], [1, 2, 6, 7], [2, 2, 0, 7]])
def test_an_index_of_wrong_shapes_is_an_error(
    images: ImageFeed, vae: AutoencoderKL, tmp_path: Path, shape: list[int]
) -> None:
    _, cache = _cached(images, vae, tmp_path / "cache")
    header, *lines = (cache / "index.jsonl").read_text().splitlines()
    rows = [[[key, shape, *rest] for key, _, *rest in json.loads(line)] for line in lines]
    (cache / "index.jsonl").write_text("\n".join([header, *map(json.dumps, rows)]) + "\n")
    with pytest.raises(InputError, match="are damaged"):
        with_cached_latents(images, vae, tmp_path / "cache").draw(np.random.default_rng(0))


@pytest.mark.parametrize("name", ["index.jsonl", "moments.f16"])
def test_a_pipe_in_the_place_of_a_file_is_an_error(
    images: ImageFeed, vae: AutoencoderKL, tmp_path: Path, name: str
) -> None:
    _, cache = _cached(images, vae, tmp_path / "cache")
    (cache / name).unlink()
    os.mkfifo(cache / name)
    with pytest.raises(OutputError, match=r"cannot write .*it is a pipe"):
        with_cached_latents(images, vae, tmp_path / "cache")
