"""Rows of data become feeds: each kind, their weights, skipped samples, and refused settings."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.config import dump_config, load_config
from dgkit.data.generated import open_generated
from dgkit.data.layouts import LAYOUTS
from dgkit.errors import InputError, UsageError
from dgkit.training.data.data_rows import CITY, DataRow, FeedConfig, build_feed
from dgkit.training.data.feed import Example, Feed, MixedFeed, PromptDropout
from dgkit.training.data.image_files import CaptionedFeed, ImageFeed
from dgkit.training.data.labelled import LabelledFeed
from dgkit.training.data.scene_feed import SceneFeed
from tests.generated import make_generated

SIZE = 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs in labels/ and images/, one of them of another size, and a caption for two of the images."""
    for folder in ("labels", "images"):
        (tmp_path / folder).mkdir()
    for i, width in enumerate((30, 30, 31)):
        Image.fromarray(np.full((20, 30), i, np.uint8)).save(tmp_path / "labels" / f"{i}.png")
        Image.fromarray(np.full((20, width, 3), i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    lines = [json.dumps({"file_name": f"images/{i}.png", "text": f"picture {i}"}) for i in range(2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path


def _config(*rows: dict, **settings) -> FeedConfig:
    return load_config(FeedConfig, None, (), rows=list(rows), **settings)


def _draws(feed: Feed, count: int = 30) -> list[Example]:
    return [feed.draw(np.random.default_rng([4, i])) for i in range(count)]


def test_each_kind_of_row_becomes_its_feed(root, tmp_path):
    folder = str(root)
    kinds = {"labels": LabelledFeed, "images": ImageFeed, "captioned": CaptionedFeed}
    for dataset, kind in kinds.items():
        config = _config({"dataset": dataset, "root": folder, "rescale": [0.5, 1]}, skip_mismatched=True)
        feed = build_feed(config, SIZE, 0, tmp_path / "cache")
        assert type(feed) is kind
        assert all(example.image.shape == (SIZE, SIZE, 3) for example in _draws(feed))
    captions = {example.caption for example in _draws(build_feed(config, SIZE, 0))}
    assert captions == {"picture 0", "picture 1"}


def test_public_layouts_are_read_by_their_loader(root, tmp_path):
    for path in (root / "labels").iterdir():
        Image.fromarray(np.full((20, 30), 7, np.uint8)).save(path)  # road, as GTA5 writes it
    feed = build_feed(_config({"dataset": "gta", "root": str(root)}, skip_mismatched=True), SIZE, 0, tmp_path)
    assert isinstance(feed, LabelledFeed)
    assert {example.caption for example in _draws(feed)} == {"road"}


def test_skipped_pairs_are_reported(root):
    lines: list[str] = []
    build_feed(_config({"dataset": "labels", "root": str(root)}, skip_mismatched=True), SIZE, 0, notify=lines.append)
    assert lines == ["skipped 1 of 3 pairs of labels: image missing or of another size"]
    with pytest.raises(InputError, match=r"2\.png is 30x20 but .*2\.png is 31x20"):
        build_feed(_config({"dataset": "labels", "root": str(root)}), SIZE, 0)


def test_rows_are_weighted_by_their_images_by_default(root):
    images, captioned = {"dataset": "images", "root": f"{root}/images"}, {"dataset": "captioned", "root": str(root)}
    feed = build_feed(_config(images, captioned), SIZE, 0)
    assert isinstance(feed, MixedFeed)
    assert feed.shares.tolist() == [0.6, 0.4]
    weighted = build_feed(_config({**images, "weight": 1}, {**captioned, "weight": 9}), SIZE, 0)
    assert weighted.shares.tolist() == pytest.approx([0.1, 0.9])


def test_caption_dropout_comes_last(root):
    feed = build_feed(_config({"dataset": "captioned", "root": str(root)}, empty_prompt=0.5), SIZE, 0)
    assert isinstance(feed, PromptDropout)
    assert {example.caption for example in _draws(feed)} == {"", "picture 0", "picture 1"}


def test_the_city_is_rendered_once_from_the_seed(tmp_path):
    config = _config({"dataset": CITY, "role": "prior", "count": 2, "height": 32})
    seen: list[tuple[str, int, int]] = []
    first = build_feed(config, SIZE, 3, tmp_path, progress=lambda *report: seen.append(report))
    assert isinstance(first, SceneFeed) and seen == [("scenes of prior", 2, 2)]
    again = build_feed(config, SIZE, 3, tmp_path, progress=lambda *report: seen.append(report))
    assert len(seen) == 1
    other = build_feed(config, SIZE, 4, tmp_path)
    images = [np.stack([example.image for example in _draws(feed)]) for feed in (first, again, other)]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_settings_reach_the_labelled_feed(root):
    settings = {"sampling": "uniform", "captions": "none", "skip_mismatched": True}
    feed = build_feed(_config({"dataset": "labels", "root": str(root)}, **settings), SIZE, 0)
    assert {example.caption for example in _draws(feed)} == {""}
    assert not feed.rare_share
    rare = {"temperature": 2.0, "min_pixels": 5, "rare_share": 0.25, "skip_mismatched": True}
    feed = build_feed(_config({"dataset": "labels", "root": str(root)}, **rare), SIZE, 0)
    assert feed.rare_share == 0.25
    assert feed.probabilities[:2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"dataset": "kitti", "root": "."}, "'kitti', allowed: city, labels"),
        ({"dataset": "gta"}, "needs root"),
        ({"dataset": "images", "root": ".", "rescale": []}, "rescale"),
        ({"dataset": "images", "root": ".", "rescale": [0]}, "rescale"),
        ({"dataset": "images", "root": ".", "weight": -1}, "weight"),
        ({"dataset": "images", "path": "."}, "unknown key"),
    ],
)
def test_invalid_rows_are_refused_with_what_is_allowed(row, words):
    with pytest.raises(UsageError, match=words):
        _config(row)


def test_no_rows_are_refused():
    with pytest.raises(UsageError, match="rows"):
        _config()


def test_a_city_row_is_not_rescaled(tmp_path):
    with pytest.raises(UsageError, match="cannot be rescaled"):
        build_feed(_config({"dataset": CITY, "count": 1, "height": 32, "rescale": [0.5]}), SIZE, 0, tmp_path)


def test_a_configuration_survives_its_yaml(tmp_path):
    config = _config({"dataset": "gta", "root": "data/gta"}, {"dataset": CITY}, thin_prompt=0.5)
    (tmp_path / "feed.yaml").write_text(dump_config(config))
    assert load_config(FeedConfig, tmp_path / "feed.yaml") == config
    assert config.labelled and not _config({"dataset": "images", "root": "."}).labelled
    assert all(DataRow(dataset=name, root=Path(".")).labelled for name in LAYOUTS)


def test_rows_of_generated_images_have_the_prompts_that_they_were_made_with(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 3)
    prompts = {record["prompt"] for record in open_generated(out).records}
    settings = {"sampling": "uniform", "captions": "prompt"}
    config = FeedConfig.model_validate({"rows": [{"dataset": "dgkit", "root": out}], **settings})
    assert {example.caption for example in _draws(build_feed(config, 8, 0))} == prompts
    config = FeedConfig.model_validate({"rows": [{"dataset": "labels", "root": out}], **settings})
    with pytest.raises(UsageError, match="captions=prompt cannot be used with data set 'labels'"):
        build_feed(config, 8, 0)
