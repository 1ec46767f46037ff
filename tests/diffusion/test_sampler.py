from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from dgkit.diffusion.noise import seeded_noise
from dgkit.diffusion.presets import PRESETS, Preset, find_preset
from dgkit.diffusion.sampler import SceneRequest, SceneResult, sample
from dgkit.errors import EngineError, LabelError, UsageError
from dgkit.styles import Style
from tests.diffusion.fakes import CHANNELS, FACTOR, TILE, Recorder

SIZE = TILE * FACTOR
QUICK = Preset("quick", steps=3, large_area=100_000)


def scene(seed: int = 0, height: int = SIZE, width: int = SIZE, prompt: str = "road sky") -> SceneRequest:
    ids = np.random.default_rng(seed).choice([0, 2, 10, 13, 255], (height // FACTOR, width // FACTOR))
    label = ids.repeat(FACTOR, 0).repeat(FACTOR, 1).astype(np.uint8)
    label[0, 0] = 255
    label.setflags(write=False)
    return SceneRequest(label, prompt, seed)


def run(requests: list[SceneRequest], preset: Preset | str = QUICK, batch: int = 8) -> list[SceneResult]:
    with Recorder().pipeline() as pipeline:
        return sample(pipeline, requests, preset, batch=batch)


def distance(a: SceneResult, b: SceneResult) -> int:
    return int(np.abs(a.image.astype(int) - b.image).max())


def test_image_layout() -> None:
    result = run([scene()])[0]
    assert result.image.shape == (SIZE, SIZE, 3) and result.image.dtype == np.uint8
    assert result.high_res is not None and result.high_res.shape == (2 * SIZE, 2 * SIZE, 3)
    assert len(np.unique(result.image)) > 20
    assert not result.retried and not result.prompt_shortened and result.prompt == "road sky"


def test_batch_and_order_change_nothing_but_rounding() -> None:
    requests = [scene(i) for i in range(5)]
    expected = run(requests)
    assert distance(expected[0], expected[1]) > 20
    for batch in (1, 3, 16):
        assert max(distance(a, b) for a, b in zip(run(requests, batch=batch), expected, strict=True)) <= 1
    assert max(distance(a, b) for a, b in zip(run(requests[::-1])[::-1], expected, strict=True)) <= 1
    assert distance(run([requests[3]])[0], expected[3]) <= 1


def test_presets_by_name_and_prompts_by_style() -> None:
    label = np.full((SIZE, SIZE), 2, np.uint8)
    request = SceneRequest(label, seed=3, style="snowy")
    assert request == SceneRequest(label, "A city street scene with building, in snowy weather.", 3)
    by_name, by_object = (run([request], preset)[0] for preset in ("one-pass:steps=2", Preset("p", 2, two_pass=False)))
    assert distance(by_name, by_object) == 0
    for fields in ({"style": "windy"}, {"style": "snowy", "prompt": "road"}):
        with pytest.raises(UsageError, match="style"):
            SceneRequest(label, **fields)
    with pytest.raises(UsageError, match="unknown preset 'quick'"):
        run([request], "quick")


def test_seed_decides_the_noise() -> None:
    first, again = scene(1), scene(1)
    assert distance(run([first])[0], run([again])[0]) == 0
    other = SceneRequest(first.label, first.prompt, 2)
    assert distance(run([first])[0], run([other])[0]) > 20


def test_batches_are_full_and_embeddings_computed_once() -> None:
    recorder = Recorder()
    requests = [scene(i, prompt=("road", "sky")[i % 2]) for i in range(4)]
    calls: list[tuple[int, int]] = []
    with recorder.pipeline() as pipeline:
        sample(pipeline, requests, QUICK, batch=8, progress=lambda done, total: calls.append((done, total)))
    windows = 25
    low, high = 4 * 2 * QUICK.steps, 4 * 2 * windows * QUICK.steps
    assert calls[-1] == (low + high, low + high)
    assert recorder.batches["denoiser"] == {8: QUICK.steps + 4 * 6 * QUICK.steps, 2: 4 * QUICK.steps}
    assert sum(size * count for size, count in recorder.batches["condition"].items()) == 4 * (1 + windows)
    assert recorder.prompts == 3  # two distinct prompts and the empty one


def test_images_share_batches_of_the_second_pass() -> None:
    recorder = Recorder()
    with recorder.pipeline() as pipeline:
        sample(pipeline, [scene(i) for i in range(4)], QUICK, batch=200)
    assert recorder.batches["denoiser"] == {8: QUICK.steps, 200: QUICK.steps}


def test_a_second_pass_has_at_most_one_partial_call_per_step() -> None:
    """With one image per call, two guidance halves of 25 windows would leave a fifth of a batch of 64 empty."""
    recorder = Recorder()
    with recorder.pipeline() as pipeline:
        sample(pipeline, [scene(i) for i in range(4)], QUICK, batch=64)
    assert recorder.batches["denoiser"] == {8: 2 * QUICK.steps, 64: 3 * QUICK.steps}


def test_a_guidance_scale_of_one_costs_half() -> None:
    recorder = Recorder()
    with recorder.pipeline(guidance=1.0) as pipeline:
        sample(pipeline, [scene()], QUICK, batch=8)
    assert sum(size * count for size, count in recorder.batches["denoiser"].items()) == 26 * QUICK.steps


def test_guidance_comes_from_preset_then_model() -> None:
    def image(preset: Preset, model: float | None) -> SceneResult:
        with Recorder().pipeline(guidance=model) as pipeline:
            return sample(pipeline, [scene()], preset)[0]

    stated = Preset("stated", steps=3, guidance_scale=3.0)
    assert distance(image(stated, None), image(Preset("open", steps=3), 3.0)) == 0
    assert distance(image(stated, 7.5), image(stated, None)) == 0
    assert distance(image(Preset("open", steps=3), None), image(Preset("x", steps=3, guidance_scale=7.5), None)) == 0
    assert distance(image(stated, None), image(Preset("open", steps=3), None)) > 0


@pytest.mark.parametrize(("height", "width"), [(SIZE, 2 * SIZE), (80, 144), (48, 32), (200, 104)])
def test_any_multiple_of_the_vae_factor(height: int, width: int) -> None:
    result = run([scene(height=height, width=width)])[0]
    assert result.image.shape == (height, width, 3)
    assert np.ptp(result.image[-FACTOR:, -FACTOR:]) > 0  # the last cells were sampled too


def test_sizes_may_be_mixed() -> None:
    requests = [scene(0), scene(1, height=48), scene(2), scene(3, height=48)]
    results = run(requests)
    assert [r.image.shape for r in results] == [(*r.label.shape, 3) for r in requests]
    assert distance(results[2], run([requests[2]])[0]) <= 1


def test_large_components_come_from_the_first_pass() -> None:
    """In a large component of the label the initial noise of the second pass has no effect."""
    label = np.full((SIZE, SIZE), 2, np.uint8)
    label[16:24, 40:48] = 13
    request = SceneRequest(label, "building car", 5)

    def other_second_pass(seed: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
        return seeded_noise(seed + (purpose == "pass2"), purpose, shape)

    preset = Preset("p", steps=3, large_area=SIZE * SIZE // 2 * 64)  # half of this label, scaled to 512 x 512
    with Recorder().pipeline() as pipeline:
        results = [sample(pipeline, [request], preset, noise=n)[0].high_res for n in (seeded_noise, other_second_pass)]
    assert results[0] is not None and results[1] is not None
    changed = (results[0] != results[1]).any(axis=2)
    small = np.zeros_like(changed)
    small[32:48, 80:96] = True
    assert changed[small].all() and not changed[~small].any()


def test_label_is_unchanged() -> None:
    request = scene()
    before = request.label.copy()
    run([request])
    assert np.array_equal(request.label, before)


def poison(seed_value: float) -> Recorder:
    """Make one of several images not finite: the one whose mean condition is ``seed_value``."""

    def where(tensors: dict[str, Tensor]) -> Tensor:
        return (tensors["condition"].mean(dim=(1, 2, 3)) - seed_value).abs() < 1e-6

    return Recorder(where)


def test_an_image_that_is_not_finite_is_retried_in_full_precision() -> None:
    bad = SceneRequest(np.full((SIZE, SIZE), 13, np.uint8), "car", 9)
    requests = [scene(1), bad, scene(2)]
    with poison(13 / 20).pipeline(precise=Recorder().pipeline) as pipeline:
        results = sample(pipeline, requests, QUICK)
    assert [result.retried for result in results] == [False, True, False]
    assert max(distance(a, b) for a, b in zip(results, run(requests), strict=True)) <= 1


def test_an_image_that_is_not_finite_in_full_precision_is_an_error() -> None:
    bad = SceneRequest(np.full((SIZE, SIZE), 13, np.uint8), "car", 9)
    with (
        poison(13 / 20).pipeline(precise=poison(13 / 20).pipeline) as pipeline,
        pytest.raises(EngineError, match="seed 9"),
    ):
        sample(pipeline, [bad], QUICK)


def test_long_prompt_keeps_its_style() -> None:
    result = run([scene(prompt="road traffic light car, in night weather.")])[0]
    assert result.prompt_shortened and result.prompt == "road, in night weather."


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_and_solvers(name: str, solver: str) -> None:
    from dataclasses import replace

    preset = replace(find_preset(name), steps=2, solver=solver)
    assert len(np.unique(run([scene()], preset)[0].image)) > 20


def test_official_needs_an_offset() -> None:
    with Recorder().pipeline() as pipeline:
        pipeline.info.scheduler["steps_offset"] = 0
        try:
            with pytest.raises(Exception, match="t - 1"):
                sample(pipeline, [scene()], Preset("o", steps=2, fuse_level="official", large_area=0))
        finally:
            pipeline.info.scheduler["steps_offset"] = 1


@pytest.mark.parametrize(
    ("label", "error"),
    [
        (np.zeros((SIZE, SIZE + 4), np.uint8), EngineError),
        (np.zeros((SIZE, SIZE), np.int64), UsageError),
        (np.zeros((SIZE, SIZE, 3), np.uint8), UsageError),
        (np.full((SIZE, SIZE), 33, np.uint8), LabelError),
    ],
)
def test_wrong_labels(label: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        run([SceneRequest(label, "road", 0)])


def test_wrong_settings() -> None:
    with pytest.raises(UsageError, match="batch 0"):
        run([scene()], batch=0)
    with pytest.raises(UsageError, match="official, exact"):
        find_preset("best")
    for settings in ({"fuse_level": "x"}, {"stride": 0.0}, {"stride": 1.5}, {"rescale": 0}, {"large_area": -1}):
        with pytest.raises(UsageError, match="'bad'"):
            Preset("bad", **settings)  # type: ignore[arg-type]


def test_latent_channels_of_fakes_agree() -> None:
    with Recorder().pipeline() as pipeline:
        assert pipeline.latent_channels == CHANNELS and pipeline.size == SIZE
        assert pipeline.decode(torch.zeros(1, CHANNELS, 2, 3)).shape == (1, 3, 16, 24)


def test_styles_of_a_batch_may_have_negative_prompts_and_guidance_of_their_own() -> None:
    """Each image of a mixed batch is the one that it would be alone, or with these settings for all."""
    plain = scene(1)
    own = [
        dataclasses.replace(scene(number), negative_prompt=negative, guidance_scale=scale)
        for number, (negative, scale) in enumerate(
            [("", None), ("night", None), ("fog road", 3.0), ("", 1.0), ("fog", 3.0)]
        )
    ]
    mixed = run([plain, *own])
    for request, result in zip([plain, *own], mixed, strict=True):
        assert distance(result, run([request])[0]) <= 1
    assert distance(mixed[2], run([dataclasses.replace(own[1], negative_prompt="")])[0]) > 1
    stated = Preset("stated", steps=3, large_area=100_000, guidance_scale=3.0)
    assert distance(mixed[3], run([dataclasses.replace(own[2], guidance_scale=None)], stated)[0]) <= 1


def test_an_image_at_guidance_one_costs_half_in_a_mixed_batch() -> None:
    recorder = Recorder()
    calls: list[tuple[float, float]] = []
    requests = [scene(), dataclasses.replace(scene(1), guidance_scale=1.0)]
    with recorder.pipeline() as pipeline:
        sample(pipeline, requests, QUICK, progress=lambda done, total: calls.append((done, total)))
    assert sum(size * count for size, count in recorder.batches["denoiser"].items()) == (2 + 1) * 26 * QUICK.steps
    assert calls[-1] == (78 * QUICK.steps, 78 * QUICK.steps)


def test_a_style_brings_its_words() -> None:
    dusk = Style("dusk", "at dusk", negative_prompt="daylight", guidance_scale=2)
    label = np.full((SIZE, SIZE), 2, np.uint8)
    request = SceneRequest(label, style=dusk)
    assert (request.prompt, request.names) == ("A city street scene with building, at dusk.", ("building",))
    assert (request.negative_prompt, request.guidance_scale) == ("daylight", 2)
    stated = SceneRequest(label, style=dusk, negative_prompt="rain", guidance_scale=4)
    assert (stated.negative_prompt, stated.guidance_scale) == ("rain", 4)
    with pytest.raises(UsageError, match="guidance scale nan; allowed: 0 to 100"):
        SceneRequest(label, "road", guidance_scale=float("nan"))
