"""The cost of the presets, measured with a counting denoiser, and the effect of their settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dgkit.diffusion.fusion import large_components
from dgkit.diffusion.model_folder import ModelDefaults, ModelInfo
from dgkit.diffusion.noise import seeded_noise
from dgkit.diffusion.passes import Run
from dgkit.diffusion.presets import PRESETS, Preset, find_preset
from dgkit.diffusion.sampler import SceneRequest, SceneResult, sample
from dgkit.diffusion.sampling_plan import SamplingPlan
from dgkit.errors import UsageError
from tests.diffusion.fakes import CHANNELS, FACTOR, FEATURES, LENGTH, SCHEDULER, TILE, WIDTH, Recorder

SIZE = TILE * FACTOR
LEADS = (
    "second_start=0.5", "solver=dpm++2m", "guidance_low=0.5", "guidance_high=0.9", "stride=1.0", "windows=cover",
    "weights=smooth", "bridge=latent", "guidance_scale=1", "fuse_noise=fixed", "solver=unipc", "solver=euler",
    "solver=lcm", "solver=tcd", "solver=tcd,eta=1,fuse_noise=fixed", "spacing=trailing",
)  # fmt: skip


def street(seed: int = 0, height: int = SIZE, width: int = SIZE) -> SceneRequest:
    """Sky above road, with a car and a pole at random places between them."""
    rng = np.random.default_rng(seed)
    label = np.full((height, width), 10, np.uint8)
    label[height // 2 :] = 0
    y, x = height // 2 - 8, int(rng.integers(0, width - 16))
    label[y : y + 16, x : x + 16] = 13
    label[height // 4 : height // 2, int(rng.integers(0, width))] = 5
    return SceneRequest(label, "road pole sky car", seed)


def run(
    requests: list[SceneRequest], preset: Preset, batch: int = 8, guidance: float | None = None
) -> list[SceneResult]:
    with Recorder().pipeline(guidance=guidance) as pipeline:
        return sample(pipeline, requests, preset, batch=batch)


def info(guidance: float | None = None) -> ModelInfo:
    defaults = ModelDefaults(guidance_scale=guidance)
    return ModelInfo("fake", TILE, FACTOR, CHANNELS, LENGTH, WIDTH, FEATURES, 0.5, SCHEDULER, defaults)


def distance(a: SceneResult, b: SceneResult) -> int:
    return int(np.abs(a.image.astype(int) - b.image).max())


@pytest.mark.parametrize("name", [*PRESETS, *(f"exact:steps=6,{lead}" for lead in LEADS)])
@pytest.mark.parametrize(("guidance", "batch"), [(None, 8), (1.0, 3)])
def test_the_predicted_cost_equals_the_denoiser_samples(name: str, guidance: float | None, batch: int) -> None:
    recorder, preset = Recorder(), replace(find_preset(name), large_area=100_000)
    requests = [street(0), street(1), street(2, 80, 144)]
    told: list[tuple[int, int]] = []
    with recorder.pipeline(guidance=guidance) as pipeline:
        sample(pipeline, requests, preset, batch=batch, progress=lambda done, total: told.append((done, total)))
    plan = SamplingPlan(preset, info(guidance))
    expected = sum(plan.cost(request.label).total for request in requests)
    assert sum(size * count for size, count in recorder.batches["denoiser"].items()) == expected
    assert told[-1] == (expected, expected)
    assert max(recorder.batches["denoiser"]) <= batch


def test_the_published_schedule_costs_as_much_as_the_published_code() -> None:
    label = np.zeros((SIZE, SIZE), np.uint8)
    assert SamplingPlan(PRESETS["official"], info()).cost(label).total == 2 * (20 + 20 * 25)
    assert SamplingPlan(PRESETS["exact"], info()).cost(label).total == 1040
    assert SamplingPlan(find_preset("official:stride=0.125"), info()).cost(label).total == 3280


@pytest.mark.parametrize(("name", "times"), [("fast", 10), ("turbo", 40)])
def test_fast_presets_cost_far_less_whatever_the_label(name: str, times: int) -> None:
    """No block touches one with the same id, so nothing keeps the first pass."""
    ids = np.arange(8)[:, None] % 2 * 2 + np.arange(8) % 2
    label = ids.repeat(SIZE // 8, 0).repeat(SIZE // 8, 1).astype(np.uint8)
    for guidance in (None, 7.5):
        plan = SamplingPlan(PRESETS[name], info(guidance))
        assert not plan.redraw(label).keep.any()
        assert times * plan.cost(label).total <= 1040


@pytest.mark.parametrize("name", ["fast", "turbo", "lcm4", "hyper8", *(f"exact:steps=6,{lead}" for lead in LEADS)])
def test_batch_and_order_change_nothing_but_rounding(name: str) -> None:
    preset, requests = replace(find_preset(name), large_area=100_000), [street(i) for i in range(5)]
    expected = run(requests, preset)
    assert distance(expected[0], expected[1]) > 20
    for batch in (1, 16):
        assert max(distance(a, b) for a, b in zip(run(requests, preset, batch), expected, strict=True)) <= 1
    assert max(distance(a, b) for a, b in zip(run(requests[::-1], preset)[::-1], expected, strict=True)) <= 1
    assert distance(run([requests[3]], preset)[0], expected[3]) <= 1
    assert all(np.array_equal(a.image, b.image) for a, b in zip(run(requests, preset), expected, strict=True))


@pytest.mark.parametrize("name", ["exact:steps=2", "fast"])
def test_larger_calls_on_a_gpu_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and larger calls, few batch sizes, noise from several threads."""
    preset, requests = replace(find_preset(name), large_area=100_000), [street(i) for i in range(7)]
    expected = run(requests, preset, batch=16)
    monkeypatch.setattr(Run, "on_gpu", True)
    recorder = Recorder()
    with recorder.pipeline() as pipeline:
        found = sample(pipeline, requests, preset, batch=16)
    assert max(distance(a, b) for a, b in zip(found, expected, strict=True)) <= 1
    assert max(recorder.batches["vae_decoder"]) == 7 and max(recorder.batches["condition"]) > 4
    if name == "fast":
        assert set(recorder.batches["denoiser"]) <= {4, 8, 12, 16}


def test_guidance_outside_its_interval_is_the_half_with_the_text() -> None:
    """An empty interval means no guidance; an interval with every level changes nothing."""
    requests = [street()]
    plain, steered = Preset("plain", steps=4, guidance_scale=1.0), Preset("steered", steps=4, guidance_scale=3.0)
    nowhere = replace(steered, guidance_low=0.0, guidance_high=0.0)
    assert distance(run(requests, plain)[0], run(requests, nowhere)[0]) == 0
    assert distance(run(requests, steered)[0], run(requests, nowhere)[0]) > 0
    some = replace(steered, guidance_low=0.5)
    plan = SamplingPlan(some, info())
    guided = [plan.guided(plan.first, index) for index in range(4)]
    assert guided == sorted(guided, reverse=True) and 0 < sum(guided) < 4
    assert plan.samples(plan.first) == 4 + sum(guided)


def test_a_second_pass_that_starts_late_stays_near_the_first() -> None:
    """Nothing keeps the first pass because of its label here, so the similarity comes from the start."""
    request = [street(3)]
    one = run(request, Preset("one", steps=10, two_pass=False))[0].image.astype(int)
    errors = []
    for share in (1.0, 0.5, 0.1):
        redrawn = run(request, Preset("late", steps=10, large_area=10**9, second_start=share))[0].image.astype(int)
        errors.append(float(np.abs(redrawn - one).mean()))
    assert errors[0] > errors[1] > errors[2]


def test_cover_changes_the_cells_that_do_not_keep_the_first_pass() -> None:
    request = street(4)
    plan = SamplingPlan(Preset("cover", windows="cover", large_area=100_000), info())
    redraw = plan.redraw(request.label)
    assert 0 < len(redraw.windows) < 4
    grid = SamplingPlan(Preset("grid", large_area=100_000), info()).redraw(request.label)
    assert np.array_equal(redraw.keep & grid.keep, grid.keep)
    small = ~large_components(request.label, 100_000)
    assert (redraw.keep & ~grid.keep).sum() <= 0.05 * small.sum()


def test_a_label_without_small_objects_needs_one_pass() -> None:
    request = SceneRequest(np.full((SIZE, SIZE), 2, np.uint8), "building", 7)
    for bridge in ("image", "latent"):
        cover = Preset("cover", steps=3, windows="cover", bridge=bridge)
        recorder = Recorder()
        with recorder.pipeline() as pipeline:
            result = sample(pipeline, [request], cover)[0]
        assert result.high_res is None and recorder.batches["denoiser"] == {2: 3}
        assert distance(result, run([request], Preset("one", steps=3, two_pass=False))[0]) == 0


def test_latent_bridge_needs_no_vae_between_the_passes() -> None:
    recorder = Recorder()
    with recorder.pipeline() as pipeline:
        sample(pipeline, [street(0), street(1)], Preset("latent", steps=2, bridge="latent"))
    assert "vae_encoder" not in recorder.batches and recorder.batches["vae_decoder"] == {1: 2}


def test_an_image_that_is_not_finite_is_generated_again() -> None:
    def where(tensors: dict[str, Tensor]) -> Tensor:
        return tensors["condition"].mean(dim=(1, 2, 3)) > 0.4

    preset = replace(PRESETS["fast"], steps=3, large_area=100_000)
    bad = SceneRequest(np.where(street(5).label == 10, 18, street(5).label).astype(np.uint8), "bicycle", 9)
    requests = [street(1), bad, street(2)]
    with Recorder(where).pipeline(precise=Recorder().pipeline) as pipeline:
        results = sample(pipeline, requests, preset)
    assert results[1].retried
    assert max(distance(a, b) for a, b in zip(results, run(requests, preset), strict=True)) <= 1


def test_settings_in_the_name() -> None:
    preset = find_preset("exact:steps=12,solver=dpm++2m,second_start=0.5,guidance_scale=2,two_pass=true")
    assert preset == replace(
        PRESETS["exact"], name=preset.name, steps=12, solver="dpm++2m", second_start=0.5, guidance_scale=2.0
    )
    for wrong, message in (
        ("exact:step=3", "unknown setting 'step=3'"),
        ("exact:steps", "unknown setting 'steps'"),
        ("best:steps=3", "'best'"),
        ("exact:steps=1.5", "expected int"),
        ("exact:steps=many", "expected int"),
        ("exact:two_pass=3", "expected bool"),
        ("exact:bridge=3", "allowed: image, latent"),
        ("exact:name=x", "unknown setting"),
        ("exact:adapter=x", "unknown setting"),
        ("exact:solver=eular", "unknown solver 'eular'"),
        ("exact:spacing=3", "allowed: leading, trailing, linspace"),
        ("exact:", "unknown setting"),
    ):
        with pytest.raises(UsageError, match=message):
            find_preset(wrong)


@pytest.mark.parametrize(
    "settings",
    [{"second_start": 0.0}, {"second_start": 1.1}, {"guidance_low": 0.6, "guidance_high": 0.5}, {"guidance_low": -0.1},
     {"guidance_high": 1.5}, {"eta": 1.1}, {"spacing": "x"},
     {"windows": "x"}, {"weights": "x"}, {"bridge": "x"}, {"fuse_noise": "x"}],
)  # fmt: skip
def test_wrong_settings(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="'bad'"):
        Preset("bad", **settings)  # type: ignore[arg-type]


def test_noise_of_a_late_start_is_that_of_the_second_pass() -> None:
    purposes: list[str] = []

    def noise(seed: int, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
        purposes.append(purpose)
        return seeded_noise(seed, purpose, shape)

    with Recorder().pipeline() as pipeline:
        sample(pipeline, [street()], Preset("late", steps=4, second_start=0.5), noise=noise)
        assert purposes == ["pass1", "bridge", "pass2", "fuse/0", "fuse/1"]
        purposes.clear()
        sample(pipeline, [street()], Preset("fixed", steps=4, fuse_noise="fixed"), noise=noise)
        assert purposes == ["pass1", "bridge", "pass2"]


@pytest.mark.parametrize("solver", ["lcm", "tcd"])
def test_the_noise_of_a_step_is_that_of_the_whole_canvas(solver: str) -> None:
    """It depends on seed, pass and step alone, so the windows of a canvas share it."""
    drawn: list[tuple[str, tuple[int, ...]]] = []

    def noise(seed: int, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
        drawn.append((purpose, shape[2:]))
        return seeded_noise(seed, purpose, shape)

    with Recorder().pipeline() as pipeline:
        sample(pipeline, [street()], Preset("few", steps=3, solver=solver, fuse_noise="fixed"), noise=noise)
    low, high = (TILE, TILE), (2 * TILE, 2 * TILE)
    expected = [("pass1", low), ("pass1/0", low), ("pass1/1", low), ("bridge", high), ("pass2", high)]
    assert drawn == [*expected, ("pass2/0", high), ("pass2/1", high)]


def test_few_step_presets_are_made_for_a_lora() -> None:
    assert [name for name, preset in PRESETS.items() if preset.adapter] == ["lcm4", "hyper8"]
    assert PRESETS["hyper8"].spacing == "trailing" and PRESETS["hyper8"].guidance() == 1.0
    label = np.zeros((SIZE, SIZE), np.uint8)
    assert [SamplingPlan(PRESETS[name], info()).cost(label).first for name in ("lcm4", "hyper8")] == [4, 8]


def test_a_preset_of_a_megabyte_is_one_short_line() -> None:
    for name in ("x" * 10**6, "exact:" + "x" * 10**6, "exact:steps=" + "9" * 10**6, "exact:steps=0x_"):
        with pytest.raises(UsageError) as raised:
            find_preset(name)
        assert len(raised.value.message) < 1000
