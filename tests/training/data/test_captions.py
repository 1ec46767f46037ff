"""Captions lose class words only, styles are found in prompts, text embeddings are cached and survive damage."""

import numpy as np
import pytest

from dgkit.prompts import STYLES, compose
from dgkit.training.data.captions import TextCache, drop_words, style_of


def test_dropping_words_keeps_frame_and_style_words():
    caption = "A city street scene with road building traffic light car, in snowy weather."
    thinned = [drop_words(caption, np.random.default_rng(i)) for i in range(30)]
    assert all(t.startswith("A city street scene with") and t.endswith(", in snowy weather .") for t in thinned)
    assert len({len(t.split()) for t in thinned}) > 3


@pytest.mark.parametrize("style", [*STYLES, "none"])
def test_the_style_of_a_prompt_is_found(style):
    assert style_of(compose("road night car", style)) == style


class _Encoder:
    """Embeds a caption as its length and records the captions."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def __call__(self, captions):
        self.encoded += captions
        return np.array([np.full((2, 3), len(text), np.float32) for text in captions])


def test_each_caption_is_encoded_once_and_kept(tmp_path):
    first, second = _Encoder(), _Encoder()
    cache = TextCache(tmp_path, "a" * 64, first)
    embeddings = cache(["car", "", "car", "road"])
    assert embeddings.shape == (4, 2, 3) and embeddings.dtype == np.float16
    assert embeddings[:, 0, 0].tolist() == [3, 0, 3, 4]
    assert first.encoded == ["car", "", "road"]
    assert np.array_equal(TextCache(tmp_path, "a" * 64, second)(["road", "car"]), embeddings[[3, 0]])
    assert second.encoded == []


def test_another_encoder_has_its_own_embeddings(tmp_path):
    TextCache(tmp_path, "a" * 64, _Encoder())(["car"])
    other = _Encoder()
    TextCache(tmp_path, "b" * 64, other)(["car"])
    assert other.encoded == ["car"]


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_a_damaged_file_is_encoded_again(tmp_path, keep):
    TextCache(tmp_path, "a" * 64, _Encoder())(["car"])
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:keep])
    encoder = _Encoder()
    assert TextCache(tmp_path, "a" * 64, encoder)(["car"])[0, 0, 0] == 3
    assert encoder.encoded == ["car"]
    assert np.load(path).shape == (2, 3)


def test_memory_is_bounded(tmp_path):
    encoder = _Encoder()
    cache = TextCache(tmp_path, "a" * 64, encoder, keep=2)
    for text in ("a", "b", "a", "c", "b"):
        cache([text])
    assert list(cache._recent) == ["c", "b"]
    assert encoder.encoded == ["a", "b", "c"]


def test_a_flipped_bit_and_values_that_are_not_finite_are_encoded_again_and_plain_files_accepted(tmp_path):
    encoder = _Encoder()
    (embedding,) = TextCache(tmp_path, "a" * 64, encoder)(["car"])
    (path,) = tmp_path.rglob("*.npy")
    whole = path.read_bytes()
    nan = embedding.copy()
    nan[0, 0] = np.nan
    np.save(tmp_path / "nan.npy", nan)
    for data in (whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:], (tmp_path / "nan.npy").read_bytes(), b""):
        path.write_bytes(data)
        assert np.array_equal(TextCache(tmp_path, "a" * 64, encoder)(["car"])[0], embedding)
        assert path.read_bytes() == whole
    assert encoder.encoded == ["car"] * 4
    path.write_bytes(whole[:-32])  # of an earlier version
    assert np.array_equal(TextCache(tmp_path, "a" * 64, encoder)(["car"])[0], embedding)
    assert encoder.encoded == ["car"] * 4
