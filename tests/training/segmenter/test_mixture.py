"""Source and generated samples: ratio, preprocessing, digests, labels."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import InputError
from dgkit.generation.filter_folder import filter_folder
from dgkit.training.segmenter.mixture import SourceAndGenerated, SourceCrops, find_generated
from tests.segmenters.onnx_files import palette_model


def dataset(micro: dict, seed: int = 0, **changes: object) -> SourceAndGenerated:
    return SourceAndGenerated({**micro["data"], **changes}, seed, 1000)


def label_of(sample: dict) -> np.ndarray:
    return sample["data_samples"].gt_sem_seg.data[0].numpy()


def test_samples_have_the_given_share_of_generated_images(micro):
    mixed = dataset(micro, share=0.3)
    origins = [mixed[index]["data_samples"].origin for index in range(200)]
    assert 40 <= origins.count("generated") <= 80  # 60 expected, 3 standard deviations are 20
    assert {mixed[i]["data_samples"].origin for i in range(5)} <= set(origins)
    assert all(dataset(micro, share=1.0)[i]["data_samples"].origin == "generated" for i in range(5))


def test_a_sample_is_a_function_of_seed_and_index(micro):
    one, two, other = dataset(micro), dataset(micro), dataset(micro, seed=1)
    before = np.random.get_state()[1].copy()
    for index in (7, 3, 7):
        assert (one[index]["inputs"] == two[index]["inputs"]).all()
    assert (np.random.get_state()[1] == before).all()
    assert any((one[i]["inputs"] != other[i]["inputs"]).any() for i in range(5))


def test_cached_images_give_the_same_samples(micro):
    read, held = dataset(micro), dataset(micro, cache=True)
    for _ in range(2):  # use must not change the cache
        for index in range(8):
            assert (read[index]["inputs"] == held[index]["inputs"]).all()
            assert (label_of(read[index]) == label_of(held[index])).all()


def test_style_crops_show_each_source_image_once_before_any_repeats(micro):
    mixed = dataset(micro, share=1.0)
    crops = SourceCrops(mixed, 4000, 8)
    assert len(crops) == 8
    shown = [crops[index]["data_samples"] for index in range(8)]
    assert {sample.origin for sample in shown} == {"source"}
    for half in (shown[:4], shown[4:]):
        assert sorted(Path(sample.img_path).stem for sample in half) == ["0", "1", "2", "3"]
    again, later = SourceCrops(mixed, 4000, 8), SourceCrops(mixed, 8000, 8)
    assert all((crops[index]["inputs"] == again[index]["inputs"]).all() for index in (5, 2))
    assert any((crops[index]["inputs"] != later[index]["inputs"]).any() for index in range(8))


def test_generated_images_are_augmented_but_not_cropped(micro, generated):
    mixed = dataset(micro, share=1.0)
    for index in range(6):
        sample = mixed[index]
        assert sample["inputs"].shape == (3, 64, 64)
        assert set(np.unique(label_of(sample))) == {18, 255}  # 19 is read as ignore
        assert (label_of(sample)[:2] == 255).all() and (label_of(sample)[2:] == 18).all()


def test_source_images_are_cropped(micro):
    sample = dataset(micro, share=0.0)[0]
    assert sample["inputs"].shape == (3, 64, 64) and label_of(sample).shape == (64, 64)
    assert set(np.unique(label_of(sample))) <= {0, 2, 5, 255}


def test_colour_augmentation_of_the_source_can_be_disabled(micro, source):
    sample = dataset(micro, share=0.0, colour=False)[0]
    seen = {tuple(pixel) for pixel in sample["inputs"].permute(1, 2, 0).reshape(-1, 3).tolist()}
    picture = np.asarray(Image.open(next((source / "images").glob("0.png"))))
    assert seen <= {tuple(pixel[::-1]) for pixel in picture.reshape(-1, 3).tolist()}  # mmsegmentation reads B, G, R


def test_rare_classes_are_oversampled(micro):
    rare = dataset(micro, share=0.0, rare_classes={"min_pixels": 50, "min_crop_ratio": 0.5, "temperature": 0.1})
    uniform = dataset(micro, share=0.0)
    with_rare, without = ([(label_of(d[i]) == 5).any() for i in range(30)] for d in (rare, uniform))
    assert sum(with_rare) > sum(without) + 5


def test_files_that_differ_from_the_manifest_are_refused(micro, generated):
    target = generated / "images" / "g1.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(target)
    with pytest.raises(InputError, match=r"1 generated files differ .* images/g1.png"):
        dataset(micro)
    assert len(find_generated(generated, verify=False)) == 3
    target.unlink()
    with pytest.raises(InputError, match="missing"):
        find_generated(generated, verify=False)


def test_a_folder_without_a_manifest_is_used_unchecked(generated):
    (generated / "manifest.jsonl").unlink()
    assert len(find_generated(generated)) == 3


def test_a_manifest_without_digests_is_refused(generated):
    (generated / "manifest.jsonl").write_text(json.dumps({"id": "g0", "image": "a", "label": "b"}) + "\n")
    with pytest.raises(InputError, match="image_sha256"):
        find_generated(generated)


def test_filtered_labels_replace_the_original_ones(micro: dict, generated: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete filtered labels") as caught:
        find_generated(generated, filtered=True)
    assert "dgkit filter" in caught.value.hint
    filter_folder(generated, segmenter=palette_model(tmp_path / "s.onnx", sharpness=30), threshold=0.5)
    samples = find_generated(generated, filtered=True)
    assert [sample.label.parent.name for sample in samples] == ["labels_filtered"] * 3
    sample = dataset(micro, share=1.0, filtered=True)[0]
    assert (
        label_of(sample) == 255
    ).all()  # with one colour, every pixel has the mean loss, which is above the threshold
    samples[1].label.write_bytes(samples[1].label.read_bytes() + b"x")
    with pytest.raises(InputError, match="1 generated files differ"):
        find_generated(generated, filtered=True)


def test_short_sides_of_source_images_are_drawn_between_two(micro):
    """Source images are 96x80; those of 40 to 160 pixels are half to twice as large."""
    drawn = dataset(micro, share=0.0, short_sides=[40, 160])
    factors = [drawn[index]["data_samples"].scale_factor for index in range(30)]
    assert all(min(factor) >= 0.49 and max(factor) <= 2.01 for factor in factors)
    assert len({round(factor[1], 3) for factor in factors}) > 8
    sample = drawn[0]
    assert max(sample["inputs"].shape[1:]) <= 64 and label_of(sample).shape == sample["inputs"].shape[1:]
