"""Which engine and number format are chosen for a machine and a number of images."""

import math
from types import SimpleNamespace

import pytest

from dgkit.diagnosis import Cpu
from dgkit.engines import engine_choice
from dgkit.engines.engine_choice import (
    EngineSpeed,
    Work,
    installed,
    measured_engines,
    seconds_per_image,
    usual_dtype,
    worthwhile,
)

EMBEDDED, SD15 = 10_260_000, 1_220_000_000
FAST = 0.137  # TFLOP of an image of the embedded model


def work(images: int, tflop: float = FAST, **changes: object) -> Work:
    return Work(**{"images": images, "tflop": tflop, "cores": 2, "memory_gib": 16.0, **changes})  # type: ignore[arg-type]


def choose(found: Work, parameters: float = EMBEDDED, dtype: str = "bf16", *, lacking: tuple[str, ...] = ()) -> str:
    return worthwhile(found, measured_engines("cpu", dtype, parameters), lambda engine: engine not in lacking)


@pytest.mark.parametrize(("images", "engine"), [(2, "torch"), (16, "torch"), (10_000, "openvino")])
def test_a_build_must_pay_within_the_run(images: int, engine: str) -> None:
    assert choose(work(images)) == engine
    assert choose(work(images), dtype="fp32") == engine


def test_a_large_model_pays_for_its_build_sooner_but_needs_memory() -> None:
    assert choose(work(2, 51), SD15) == "torch"
    assert choose(work(16, 51), SD15) == "openvino"
    assert choose(work(16, 51, memory_gib=8.0), SD15) == "torch"


def test_only_what_is_installed_is_chosen() -> None:
    assert choose(work(10_000), lacking=("openvino", "compile")) == "torch"
    assert choose(work(10_000), lacking=("openvino",)) == "compile"


def test_what_was_measured_here_counts_more_than_the_table() -> None:
    assert choose(work(10_000, seconds={"torch": 0.5, "openvino": 0.6, "compile": 0.6})) == "torch"
    assert choose(work(16, build_seconds={"openvino": 0.1})) == "openvino"
    torch, slow = (
        EngineSpeed("cpu", name, "bf16", EMBEDDED, seconds, 0, 0) for name, seconds in (("torch", 4), ("x", 8))
    )
    assert seconds_per_image(work(1, seconds={"torch": 3.0}), slow, torch) == 6.0
    assert seconds_per_image(work(1, cores=4), torch, torch) == pytest.approx(FAST * 4 / 2)


def test_nothing_is_built_where_nothing_was_measured() -> None:
    assert measured_engines("cuda:0", "fp16", SD15) == ()
    assert worthwhile(work(10**7), (), lambda engine: True) == "torch"


def test_every_row_can_be_compared_with_torch() -> None:
    for dtype in ("fp32", "bf16"):
        for parameters in (1e5, EMBEDDED, SD15, 1e11):
            rows = measured_engines("cpu", dtype, parameters)
            assert "torch" in {row.engine for row in rows} and len({row.engine for row in rows}) == len(rows)
            assert all(row.seconds_per_tflop > 0 and math.isfinite(row.build_seconds) for row in rows)


@pytest.mark.parametrize(
    ("features", "dtype"),
    [(("AVX2",), "fp32"), (("AVX2", "AVX512_BF16"), "bf16"), (("AMX_BF16",), "bf16"), ((), "fp32")],
)
def test_the_number_format_follows_the_instructions(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], dtype: str
) -> None:
    monkeypatch.setattr(engine_choice, "cpu", lambda: Cpu("x", 2, 2, features))
    assert usual_dtype("cpu") == usual_dtype("cpu", "openvino") == dtype
    assert usual_dtype("cuda:1") == usual_dtype("cuda", "trt") == "fp16"
    assert usual_dtype("cpu", "ort") == "fp32"


def test_an_engine_without_its_packages_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine_choice, "find_spec", lambda name: None if name == "onnx" else SimpleNamespace(origin=name)
    )
    assert installed("openvino", build=False) and not installed("openvino") and installed("torch")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert installed("compile", build=False) and not installed("compile")


def test_a_larger_model_needs_more_memory_to_build() -> None:
    """SDXL has three times the weights of Stable Diffusion 1.5."""
    plain, large = measured_engines("cpu", "bf16", SD15), measured_engines("cpu", "bf16", 3 * SD15)
    for row, grown in zip(plain, large, strict=True):
        assert grown.build_gib == pytest.approx(3 * row.build_gib, rel=0.01)
        assert grown.seconds_per_tflop == row.seconds_per_tflop
