"""What is left to dgkit is chosen by model, machine and count, said in two lines, and kept by the folder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dgkit
from dgkit.config import load_config
from dgkit.diagnosis import Cpu
from dgkit.diffusion.loading import open_model
from dgkit.engines import engine_choice
from dgkit.errors import EngineError, MissingDependency, ModelError
from dgkit.generation import defaults
from dgkit.generation.defaults import engine_note, require_engine, with_batch, with_engine, with_preset, with_workers
from dgkit.generation.generate_config import GenerateConfig
from dgkit.optional import install_command
from dgkit.progress import ignore
from tests.models import make_micro_model
from tests.scenes import snapshot

AUTOMATIC = {"steps": 1, "style_mix": "uniform"}
_GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Set the CPU's features, the packages that are not installed, and the weights that the model seems to have."""
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    find = engine_choice.find_spec

    def change(features: tuple[str, ...] = ("AVX512_BF16",), lacking: tuple[str, ...] = (), cores: int = 2) -> None:
        monkeypatch.setattr(engine_choice, "cpu", lambda: Cpu("x", cores, cores, features))
        present = lambda name: None if name in lacking else find("math")  # noqa: E731
        monkeypatch.setattr(engine_choice, "find_spec", present)
        monkeypatch.setattr(defaults, "usable_cores", lambda: list(range(cores)))
        monkeypatch.setattr(defaults, "available_memory", lambda: 16 * _GIB)
        monkeypatch.setattr(defaults, "evaluations", lambda *given: 52.0)

    change()
    return change


class Embedded:
    """The embedded model, reduced to its sizes."""

    def __init__(self) -> None:
        self.info = open_model().info

    def weight_count(self, *parts: str) -> int:
        return 10_260_000


def choose(**settings: Any) -> tuple[str, str]:
    config = GenerateConfig(model_digest="m", size=(256, 256), preset="fast", device="cpu", **settings)
    found = with_engine(config, Embedded(), None)  # type: ignore[arg-type]
    return found.engine, found.dtype


@pytest.mark.parametrize(
    ("count", "features", "lacking", "expected"),
    [
        (2, ("AVX512_BF16",), (), ("torch", "bf16")),
        (10_000, ("AVX512_BF16",), (), ("openvino", "bf16")),
        (2, ("AVX2",), (), ("torch", "fp32")),
        (10_000, ("AVX2",), (), ("openvino", "fp32")),
        (10_000, ("AVX2",), ("openvino",), ("torch", "fp32")),
        (10_000, ("AMX_BF16",), ("onnx",), ("compile", "bf16")),
    ],
)
def test_the_engine_follows_count_and_machine(
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    features: tuple[str, ...],
    lacking: tuple[str, ...],
    expected: tuple[str, str],
) -> None:
    monkeypatch.setenv("CXX", "true")  # any program that exists
    machine(features, lacking)
    assert choose(count=count) == expected


def test_what_is_stated_stays(machine: Callable[..., None]) -> None:
    assert choose(count=10_000, engine="torch") == ("torch", "bf16")
    assert choose(count=10_000, dtype="fp32") == ("openvino", "fp32")
    assert choose(count=2, engine="ort") == ("ort", "fp32")
    assert choose(count=2, dtype="int8") == ("openvino", "int8")
    assert choose(count=10_000, engine="compile", dtype="fp16") == ("compile", "fp16")
    assert choose(count=10_000, shard="1/4") == choose(count=10_000, ray="auto") == ("torch", "bf16")


def test_an_engine_that_is_built_is_used_for_a_single_image(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache/engines/denoiser-openvino-bf16-0123456789abcdef").mkdir(parents=True)
    monkeypatch.setattr(defaults, "is_built", lambda config, model, *engine: engine == ("openvino", "cpu", "bf16"))
    assert choose(count=1) == ("openvino", "bf16")
    machine(lacking=("openvino",))
    assert choose(count=1) == ("torch", "bf16")


def test_the_preset_is_that_of_the_model(tmp_path: Path) -> None:
    info = open_model().info
    assert with_preset(GenerateConfig(), info).preset == "fast:guidance_low=0.93"
    silent = dataclasses.replace(info, defaults=info.defaults.model_copy(update={"preset": None}))
    assert with_preset(GenerateConfig(), silent).preset == "fast"
    other = dataclasses.replace(info, defaults=info.defaults.model_copy(update={"preset": "turbo"}))
    assert with_preset(GenerateConfig(), other).preset == "turbo"
    assert with_preset(GenerateConfig(preset="official"), other).preset == "official"
    wrong = dataclasses.replace(info, defaults=info.defaults.model_copy(update={"preset": "best"}))
    with pytest.raises(ModelError, match=r"dgkit\.json of the model city: unknown preset 'best'"):
        with_preset(GenerateConfig(), wrong)


@pytest.mark.parametrize(
    ("weights", "memory", "on_gpu", "batch"),
    [(1e7, 16, False, 8), (1e7, 1.4, False, 2), (1.2e9, 16, False, 8), (1.2e9, 8, False, 2), (1e7, 80, True, 64),
     (1.2e9, 80, True, 32), (1.2e9, 8, True, 8)],
)  # fmt: skip
def test_the_batch_fits_in_memory(
    monkeypatch: pytest.MonkeyPatch, weights: float, memory: float, on_gpu: bool, batch: int
) -> None:
    for name in ("_free_gpu_memory", "available_memory"):
        monkeypatch.setattr(defaults, name, lambda: int(memory * _GIB))
    need = (lambda samples: int(4 * _GIB + 0.2 * _GIB * samples)) if on_gpu else None
    assert with_batch(GenerateConfig(), lambda: int(weights), need).batch == batch
    assert with_batch(GenerateConfig(shard="1/2"), lambda: int(weights), need).batch == 8
    assert with_batch(GenerateConfig(batch=5), lambda: int(weights), need).batch == 5


def test_the_batch_on_a_gpu_follows_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model()
    need = defaults._gpu_need(GenerateConfig(engine="torch", dtype="fp16"), model)
    assert need(512) > need(64) >= need(8) > 0.5 * _GIB
    for free, expected in ((80 * _GIB, 64), (need(64) / 0.8 + 1, 64), (0, 2)):
        monkeypatch.setattr(defaults, "_free_gpu_memory", lambda free=free: int(free))
        assert with_batch(GenerateConfig(), lambda: 10_260_000, need).batch == expected


def test_workers_are_measured_for_long_runs_on_many_cores_only(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCpu:
        class device:  # noqa: N801
            type = "cpu"

        def build_engines(self, progress: object) -> None:
            built.append(True)

    built: list[bool] = []
    monkeypatch.setattr("dgkit.generation.worker_setup.best_worker_count", lambda *given: 4)

    def workers(count: int) -> object:
        return with_workers(GenerateConfig(count=count), OnCpu(), ignore, None).workers  # type: ignore[arg-type]

    assert workers(10_000) == 0
    machine(cores=16)
    assert (workers(16), workers(10_000)) == (0, 4) and len(built) == 1
    OnCpu.device.type = "cuda"
    assert workers(1) == 4


def test_one_line_says_what_was_chosen_and_how_to_override_it() -> None:
    resolved = GenerateConfig(count=10_000, engine="openvino", dtype="bf16", batch=8, workers=0)
    assert engine_note(GenerateConfig(), resolved, "cpu") == (
        "engine openvino, bf16, batch 8 (chosen for 10,000 images on this CPU); --engine torch --dtype fp32 to override"
    )
    given = GenerateConfig(engine="openvino", dtype="bf16", workers=0)
    for batch, end in ((2, "; --batch 8 to override"), (8, "on this CPU)")):
        line = engine_note(given, resolved.model_copy(update={"batch": batch}), "cpu")
        assert line is not None and line.endswith(end)
    assert engine_note(resolved, resolved, "cpu") is None
    shared = engine_note(GenerateConfig(shard="1/2"), resolved.model_copy(update={"shard": (1, 2)}), "cpu")
    assert shared is not None and shared.endswith("on all machines of the run")


@pytest.fixture
def made(
    machine: Callable[..., None], micro: Path, labels: Path, tmp_path: Path
) -> tuple[dgkit.GenerateResult, list[str]]:
    notes: list[str] = []
    settings: dict[str, Any] = {"labels": labels, "model": str(micro), "count": 2, "device": "cpu", **AUTOMATIC}
    return dgkit.generate(tmp_path / "out", notify=notes.append, **settings), notes


def test_a_folder_is_continued_on_another_machine_as_it_was_begun(
    made: tuple[dgkit.GenerateResult, list[str]], machine: Callable[..., None]
) -> None:
    result, notes = made
    said = [line for line in notes if line.startswith(("preset", "engine"))]
    assert said == [
        "preset fast: 52 denoiser evaluations per image; --preset official is the published schedule (52); "
        "not measured with real Stable Diffusion weights, for which --preset exact is the careful choice",
        "engine torch, bf16, batch 8 (chosen for 2 images on this CPU); --dtype fp32 to override",
    ]
    config = load_config(GenerateConfig, result.out / "config.yaml")
    chosen = (config.preset, config.engine, config.dtype, config.batch, config.workers)
    assert chosen == ("fast", "torch", "bf16", 8, 0)
    before = snapshot(result.out)
    machine(features=("AVX2",), lacking=("openvino",), cores=1)
    later: list[str] = []
    assert dgkit.generate(result.out, notify=later.append).continued == 2
    assert snapshot(result.out) == before
    assert [line for line in later if line.startswith(("preset", "engine", "bf16"))] == [
        "bf16 is slow on this CPU, which has no instructions for it"
    ]
    assert dgkit.generate(result.out, count=3).written == 1
    assert load_config(GenerateConfig, result.out / "config.yaml").dtype == "bf16"


def test_an_engine_that_is_missing_on_resume_is_explained(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GenerateConfig(engine="openvino", dtype="bf16")
    machine(lacking=("openvino",))
    with pytest.raises(MissingDependency, match="out was made with engine openvino, which is not installed") as caught:
        require_engine(config, "out")
    assert caught.value.hint.startswith(f"{install_command('cpu')}; or finish it on such a machine")
    assert "--recipe out/config.yaml --engine auto --dtype auto" in caught.value.hint
    machine()
    monkeypatch.setattr("dgkit.engines.openvino_runner.has_bf16", lambda: False)
    with pytest.raises(EngineError, match="bf16, which OpenVINO does not support on this CPU"):
        require_engine(config, "out")
    require_engine(GenerateConfig(engine="torch", dtype="bf16"), "out")


def test_the_note_ends_early_for_a_model_with_its_own_preset(tmp_path: Path, labels: Path) -> None:
    model = make_micro_model(tmp_path / "model", defaults={"preset": "one-pass"})
    notes: list[str] = []
    settings: dict[str, Any] = {"labels": labels, "model": str(model), "count": 1, "engine": "torch", "dtype": "fp32"}
    dgkit.generate(tmp_path / "out", notify=notes.append, batch=2, workers=0, **settings, **AUTOMATIC)
    assert [line for line in notes if "preset" in line] == [
        "preset one-pass: 2 denoiser evaluations per image; --preset official is the published schedule (1040)"
    ]
