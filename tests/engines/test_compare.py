"""The comparison of two engines detects every kind of error."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.compare import TOLERANCES, Comparison, EngineSpec, check_network, compare_outputs
from dgkit.engines.runner import DTYPES, QUANTISED, Network
from dgkit.engines.trt_library import polygraphy
from dgkit.errors import UsageError

SIDES = ("torch:fp32", "ort:fp32")


def load(folder: ModelFolder, name: str) -> Network:
    folder.release()
    return model_networks(folder)[name]


def test_a_backend_agrees_with_itself_and_lower_precision_differs(folder: ModelFolder) -> None:
    """The order of the engines does not matter: one that rounds weights does not change those of the other."""
    fresh = partial(load, folder, "vae_encoder")
    same = check_network(Comparison(fresh, EngineSpec("torch"), EngineSpec("torch")))
    assert [(item.output, item.relative, item.absolute) for item in same] == [("mean", 0, 0), ("logvar", 0, 0)]
    lower = check_network(Comparison(fresh, EngineSpec("torch"), EngineSpec("torch", "bf16"), batch=3))
    assert all(0 < item.relative <= item.tolerance == TOLERANCES["bf16"] and item.passed for item in lower)
    swapped = check_network(Comparison(fresh, EngineSpec("torch", "bf16"), EngineSpec("torch"), batch=3))
    assert [item.absolute for item in swapped] == [item.absolute for item in lower]


def test_errors_and_tolerance() -> None:
    expected = {"image": torch.full((2, 8), 2.0)}
    found = {"image": expected["image"] * 1.01}
    (check,) = compare_outputs("vae_decoder", SIDES, expected, found, 1e-3)
    assert check.relative == pytest.approx(0.01, rel=1e-4) and check.absolute == pytest.approx(0.02, rel=1e-4)
    assert not check.passed
    assert compare_outputs("vae_decoder", SIDES, expected, found, 0.02)[0].passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_located(value: float) -> None:
    good, bad = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    bad[1, 0, 2] = bad[1, 2, 3] = value
    (check,) = compare_outputs("denoiser", SIDES, {"prediction": good}, {"prediction": bad}, 1.0)
    assert check.not_finite == f"ort:fp32: 2 of 24 values, the first {value} at [1, 0, 2]" and not check.passed
    (check,) = compare_outputs("denoiser", SIDES, {"prediction": bad}, {"prediction": bad}, 1.0)
    assert check.not_finite.count("2 of 24") == 2 and not check.passed


def test_sides() -> None:
    assert EngineSpec.parse("torch:bf16") == EngineSpec("torch", "bf16") and str(EngineSpec.parse("ort")) == "ort:fp32"
    assert set(TOLERANCES) == {*DTYPES, *QUANTISED}
    for text, words in (("nope", "unknown engine"), ("torch:fp4", "unknown dtype")):
        with pytest.raises(UsageError, match=words):
            EngineSpec.parse(text)


def test_batch_is_positive(folder: ModelFolder) -> None:
    with pytest.raises(UsageError, match="batch 0; allowed: 1 or more"):
        Comparison(partial(load, folder, "condition"), EngineSpec("torch"), EngineSpec("torch"), batch=0)


def test_polygraphy_gives_the_same_verdict() -> None:
    """A relative L2 error of E is a signal-to-noise ratio of -20 log10(E) dB, the tolerance in tensorrt.sh."""
    pytest.importorskip("polygraphy", reason="needs polygraphy: pip install 'dgkit[cpu]'")
    tools = polygraphy("comparator")
    expected = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    for size in (1e-4, 0.9e-2, 1.1e-2, 0.3):
        found = expected + noise * size * expected.norm() / noise.norm()
        for tolerance in (1e-3, 1e-2, 5e-2):
            (ours,) = compare_outputs("vae_decoder", SIDES, {"image": expected}, {"image": found}, tolerance)
            compare = tools.SnrCompareFunc(snr_threshold=-20 * math.log10(tolerance))
            results = [tools.IterationResult({"image": value.numpy()}) for value in (expected, found)]
            assert all(map(bool, compare(*results).values())) == ours.passed == (size < tolerance)
