"""TensorRT-RTX builds engines without a GPU, so everything except running them is tested."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines import trt, trt_build, trt_library
from dgkit.engines.onnx_export import example_inputs, export_engine, graph_key
from dgkit.engines.runner import BuildOptions, Network
from dgkit.engines.spec import NETWORKS
from dgkit.engines.store import Engine, EngineStore
from dgkit.engines.torch_runner import TorchRunner
from dgkit.engines.trt import TrtRunner
from dgkit.engines.trt_build import ENGINE, choose_profile, engine_key, obtain_engine, profiles
from dgkit.engines.trt_library import TrtLibrary, load_library
from dgkit.engines.trt_plan import read_kernels
from dgkit.errors import EngineError, MissingDependency, UsageError
from tests.models import random_networks

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'dgkit[cpu]'")

CPU = torch.device("cpu")
QUICK = [("condition", "fp32"), ("condition", "bf16"), ("vae_encoder", "fp16")]
CASES = [
    pytest.param(name, dtype, marks=() if (name, dtype) in QUICK else pytest.mark.slow)
    for name in NETWORKS
    for dtype in ("fp32", "fp16", "bf16")
]


@pytest.fixture(autouse=True)
def _rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trt_library.VARIABLE, "rtx")


@pytest.fixture()
def network(folder: ModelFolder) -> Network:
    return model_networks(folder)["condition"]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_builds_without_a_gpu_and_once(
    folder: ModelFolder, name: str, dtype: str, logged: pytest.LogCaptureFixture
) -> None:
    network = model_networks(folder)[name]
    runner = TrtRunner(network, dtype=dtype)
    (engine,) = runner.prepare()
    assert engine.file(ENGINE).stat().st_size > 10_000
    assert engine.key == engine_key(load_library(), network, dtype, CPU, BuildOptions())
    assert (engine.key.backend, engine.key.device) == ("rtx", {"kind": "any"})
    assert engine.key.versions["onnx"] == graph_key(network, dtype).backend_version
    check_precision(network, engine, dtype)
    check_profiles(network, engine)
    assert len([text for text in logged.messages if engine.name in text]) == 1
    before = len(logged.messages)
    assert runner.prepare() == [engine] and len(logged.messages) == before
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match=r"needs an NVIDIA GPU to run engines; .* no CUDA device") as caught:
            runner.__enter__()
        assert caught.value.hint == "use --engine torch, openvino or ort"
        assert "\n" not in caught.value.message


def check_precision(network: Network, engine: Engine, dtype: str) -> None:
    """The network definition and the compiled engine have the number formats that the graph promises."""
    types: dict[str, dict[str, int]] = dict(engine.sidecar.notes["types"])  # type: ignore[arg-type]
    layers = engine.sidecar.notes["layers"]
    assert layers == sum(sum(counts.values()) for counts in types.values()) > 10
    norms = [part for part in network.load().modules() if isinstance(part, nn.GroupNorm | nn.LayerNorm)]
    assert types.pop("normalization", {}) == ({"fp32": len(norms)} if norms else {})
    for kind in ("convolution", "matrix_multiply", "softmax", "activation", "resize"):
        assert types.get(kind, {dtype: 1}).keys() == {dtype}, kind
    assert {kind for counts in types.values() for kind in counts} <= {dtype, "fp32", "int32", "int64", "bool"}
    kernels = read_kernels(engine.file(ENGINE))
    products = [kernel for kernel in kernels if kernel.kind in ("corrltn", "fully_connected", "runtime_fusion")]
    print(f"{network.spec.name} {dtype}: {layers} layers, {len(kernels)} kernels, {len(products)} convolve or multiply")
    assert products and all(dtype in kernel.reads for kernel in products if kernel.reads)
    written = {kind for kernel in kernels for kind in kernel.writes}
    assert dtype in written and written <= {dtype, "int32", "int64", *(["fp32"] if norms else [])}


def check_profiles(network: Network, engine: Engine) -> None:
    """Each profile has the documented sizes of each input, and fits the calls that it is for."""
    found: list[dict[str, list[list[int]]]] = engine.sidecar.notes["profiles"]  # type: ignore[assignment]
    known = profiles(network, BuildOptions().batch)
    assert len(found) == len(known) == (2 if network.spec.name.startswith("vae_") else 1)
    for index, profile in enumerate(known):
        for place in range(3):
            sizes = {**network.sizes, **{symbol: values[place] for symbol, values in profile.items()}}
            for spec in network.spec.inputs:
                assert found[index][spec.name][place] == [sizes[symbol] for symbol in spec.shape]


def test_profiles(folder: ModelFolder) -> None:
    networks, batch = random_networks("sd15"), (1, 8, 64)
    for name in ("text_encoder", "condition", "denoiser"):
        assert profiles(networks[name], batch) == ({"batch": batch},)
    own, other = profiles(networks["vae_decoder"], batch)
    assert own["batch"] == (1, 8, 16) and own["height"] == (64, 64, 64) and own["image_width"] == (512, 512, 512)
    assert other["batch"] == (1, 1, 1) and other["height"] == (32, 64, 128) and other["width"] == (32, 64, 256)
    assert other["image_height"] == (256, 512, 1024) and other["image_width"] == (256, 512, 2048)
    small = model_networks(folder)["vae_decoder"]
    assert profiles(small, batch)[0]["batch"] == batch
    key = engine_key(load_library(), small, "fp16", CPU, BuildOptions(batch=(2, 4, 4)))
    assert key.shapes["batch"] == "2,4,4" and key.shapes["height"] == "4,8,16" and key.shapes["latent_channels"] == 4


@pytest.mark.parametrize(
    ("height", "width", "batch", "expected"),
    [
        (64, 64, 1, (0, 1)),
        (64, 64, 16, (0, 1)),
        (64, 64, 17, (0, 2)),
        (64, 128, 1, (1, 1)),
        (64, 128, 3, (1, 3)),
        (64, 512, 1, None),
        (31, 64, 1, None),
    ],
)
def test_profile_of_a_call(height: int, width: int, batch: int, expected: tuple[int, int] | None) -> None:
    network = random_networks("sd15")["vae_decoder"]
    known = profiles(network, (1, 8, 64))
    sizes = {"batch": batch, "latent_channels": 4, "height": height, "width": width}
    assert choose_profile(network, known, sizes) == expected


class Rows:
    """A session that runs PyTorch and records its calls."""

    def __init__(self, network: Network) -> None:
        self.runner, self.calls = TorchRunner(network), list[tuple[int, int]]()
        self.runner.__enter__()

    def run(self, profile: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self.calls.append((profile, next(iter(tensors.values())).shape[0]))
        return self.runner(**tensors)

    def close(self) -> None:
        self.runner.__exit__(None, None, None)


def test_large_batches_run_in_parts(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(network)
    monkeypatch.setattr(trt, "Session", lambda *_, **__: rows)
    monkeypatch.setattr(trt, "on_gpu", lambda device: True)
    inputs = example_inputs(network, batch=7)
    with TorchRunner(network) as runner:
        expected = runner(**inputs)["condition"]
    with TrtRunner(network, options=BuildOptions(batch=(2, 2, 3))) as runner:
        found = runner(**inputs)["condition"]
        assert rows.calls == [(0, 3), (0, 2), (0, 2)] and torch.allclose(found, expected, atol=1e-6)
        words = "got batch 1; the engine supports batch 2 to 3"
        with pytest.raises(EngineError, match=words):
            runner(**example_inputs(network, batch=1))
        with pytest.raises(EngineError, match="got batch 2"):  # height and width of this network are fixed
            runner(label=torch.zeros(2, 20, 32, 32))


def test_an_engine_that_does_not_fit_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    with pytest.raises(EngineError, match="there is no rtx engine in fp16 for the condition") as caught:
        TrtRunner(network, dtype="fp16", rebuild="never").prepare()
    for words in ("dgkit build-engines", "--engine trt", "--dtype fp16", "--batch 1,8,64"):
        assert words in caught.value.hint
    (engine,) = TrtRunner(network, dtype="fp16").prepare()

    def refused(words: str, options: BuildOptions | None = None) -> None:
        with pytest.raises(EngineError, match=words):
            TrtRunner(network, dtype="fp16", rebuild="never", options=options).prepare()

    refused(r"differs in shapes\.batch: expected 1,8,32, found 1,8,64", BuildOptions(batch=(1, 8, 32)))
    refused(r"differs in flags\.optimisation_level: expected 1, found absent", BuildOptions(optimisation_level=1))
    with monkeypatch.context() as patch:
        patch.setattr(trt_build, "backend_version", lambda backend: "99.0")
        refused(r"differs in backend_version: expected 99\.0, found ")
    path = engine.file(ENGINE)
    content = path.read_bytes()
    for damaged, words in (
        (content[:-1], rf"size of {ENGINE}: expected {len(content)}, found {len(content) - 1}"),
        (content[:99] + bytes([content[99] ^ 1]) + content[100:], f"sha256 of {ENGINE}: expected"),
    ):
        path.write_bytes(damaged)
        refused(words)
    path.write_bytes(content)
    (path.parent / "foreign.engine").write_bytes(b"x")
    refused(r"file foreign\.engine: expected absent, found present")
    (again,) = TrtRunner(network, dtype="fp16").prepare()
    assert again.folder == engine.folder
    assert TrtRunner(network, dtype="fp16", rebuild="never").prepare() == [again]


def configuration(network: Network, options: BuildOptions, device: torch.device = CPU) -> Any:
    """Return the builder configuration for an empty network definition with the inputs of ``network``."""
    library = load_library()
    builder = library.module.Builder(library.logger)
    definition = builder.create_network(1 << int(library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    for spec in network.spec.inputs:
        definition.add_input(spec.name, library.module.float32, (-1, *(network.sizes[s] for s in spec.shape[1:])))
    with library.reporting("no configuration"):
        return trt_build.config_loader(library, network, device, options)(builder, definition)


def test_build_options_reach_the_builder(network: Network) -> None:
    trt = load_library().module
    flags = trt.BuilderFlag
    plain = configuration(network, BuildOptions())
    assert plain.num_optimization_profiles == 1 and plain.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert not plain.get_flag(flags.TF32) and plain.get_flag(flags.REQUIRE_USER_ALLOCATION)
    assert not plain.get_flag(flags.REFIT) and not plain.get_flag(flags.STRIP_PLAN)
    config = configuration(network, BuildOptions(optimisation_level=2, workspace_gib=0.5, strip_weights=True))
    assert config.builder_optimization_level == 2
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 2**29
    assert config.get_flag(flags.STRIP_PLAN) and config.get_flag(flags.REFIT_IDENTICAL)
    config = configuration(network, BuildOptions(refit=True))
    assert config.get_flag(flags.REFIT) and not config.get_flag(flags.STRIP_PLAN)


@pytest.mark.parametrize(
    ("capability", "portable"), [((8, 0), True), ((8, 9), True), ((12, 1), True), ((7, 5), False), ((9, 0), False)]
)
def test_other_gpus_get_engines_of_their_own(
    network: Network, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], portable: bool
) -> None:
    monkeypatch.setattr(trt_library, "on_gpu", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(trt_build, "device_facts", lambda device: {"kind": device})
    library, card = load_library(), torch.device("cuda", 0)
    key = engine_key(library, network, "fp16", card, BuildOptions())
    assert key.device == {"kind": "any" if portable else "cuda:0"}
    config = configuration(network, BuildOptions(), card)
    assert config.num_compute_capabilities == (0 if portable else 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the error is about")
@pytest.mark.parametrize("options", [BuildOptions(strip_weights=True), BuildOptions(refit=True)])
def test_weights_that_can_be_replaced_need_a_gpu(network: Network, options: BuildOptions) -> None:
    with pytest.raises(EngineError, match="needs a GPU to build engines whose weights can be replaced"):
        TrtRunner(network, options=options).prepare()


def test_tensorrt_builds_only_on_a_gpu(network: Network) -> None:
    library = TrtLibrary("trt", load_library().module)
    with pytest.raises(EngineError, match="the device is cpu"):
        obtain_engine(library, network, "fp32", CPU, BuildOptions())


def test_choice_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_library().is_rtx
    monkeypatch.setenv(trt_library.VARIABLE, "cuda")
    with pytest.raises(UsageError, match="allowed: tensorrt, rtx"):
        load_library()
    asked: list[str] = []

    def absent(package: str, extra: str) -> Any:
        asked.append(package)
        raise MissingDependency(f"the Python package '{package}' is not installed", extra)

    monkeypatch.setattr(trt_library, "require", absent)
    trt_library._load.cache_clear()
    try:
        monkeypatch.setenv(trt_library.VARIABLE, "tensorrt")
        with pytest.raises(MissingDependency, match="'tensorrt' is not installed"):
            load_library()
        monkeypatch.delenv(trt_library.VARIABLE)
        with pytest.raises(MissingDependency, match="neither can be imported") as caught:
            load_library()
        assert asked == ["tensorrt", "tensorrt", "tensorrt_rtx"] and "[rtx]" in caught.value.hint
    finally:
        trt_library._load.cache_clear()


def build(network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch, notify: Callable[[str], None]) -> None:
    """A build in a separate store that reports every step."""
    monkeypatch.setenv("DGKIT_CACHE", str(folder))
    monkeypatch.setattr(trt_library, "INTERVAL", 0.0)
    TrtRunner(network, notify=notify).prepare()


def test_progress(network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    build(network, tmp_path, monkeypatch, said.append)
    steps = [text for text in said if text.startswith("building condition: ")]
    assert len(steps) > 20 and any("Optimizing graph, step 1 of " in text for text in steps)


def test_an_interrupted_build_leaves_nothing(network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        if "step" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(network, tmp_path, monkeypatch, interrupt)
    left = [path.name for path in EngineStore().root.iterdir() if not path.name.startswith(".")]
    assert all(name.startswith("condition-onnx-") for name in left) and len(left) == 1


def test_a_graph_that_cannot_be_parsed(network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Garbage:
        def file(self, name: str) -> Path:
            (tmp_path / name).write_bytes(b"no graph")
            return tmp_path / name

    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt_build, "typed_graph", lambda *_, **__: Garbage())
    with pytest.raises(EngineError, match=r"TensorRT cannot parse the condition: \S+") as caught:
        TrtRunner(network).prepare()
    assert "\n" not in caught.value.message and not list(EngineStore().root.glob("condition*"))


def test_a_damaged_timing_cache_is_reported_and_ignored(
    network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timings, said = tmp_path / "timings.cache", list[str]()
    timings.write_bytes(b"not a timing cache")
    monkeypatch.setattr(trt_build, "_timings", lambda library, device: timings)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    (engine,) = TrtRunner(network, dtype="fp16", notify=said.append).prepare()
    (line,) = [text for text in said if str(timings) in text]
    assert line.startswith("the timing cache ") and line.endswith("; kernels are timed again") and "\n" not in line
    assert engine.file(ENGINE).stat().st_size > 10_000 and timings.read_bytes() != b"not a timing cache"


def test_type_stubs_are_not_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package tensorrt-stubs installs a folder ``tensorrt``, which Python imports as an empty package."""
    monkeypatch.setenv(trt_library.VARIABLE, "tensorrt")
    monkeypatch.setattr(trt_library, "require", lambda package, extra: SimpleNamespace())
    trt_library._load.cache_clear()
    try:
        with pytest.raises(MissingDependency, match="'tensorrt' has type stubs only") as caught:
            load_library()
        assert "[gpu]" in caught.value.hint
    finally:
        trt_library._load.cache_clear()


def test_the_library_cannot_change_after_polygraphy_has_loaded_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trt_library.polygraphy("backend.trt")
    monkeypatch.setattr(trt_library, "load_library", lambda: TrtLibrary("trt", None))
    with pytest.raises(UsageError, match="DGKIT_TRT has changed since its first use"):
        trt_library.polygraphy("backend.trt")


def test_polygraphy_is_silent_and_its_absence_names_the_extra(
    network: Network, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    TrtRunner(network).prepare()
    assert capfd.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "polygraphy.config", None)
    with pytest.raises(MissingDependency, match=r"'polygraphy\.config' is not installed") as caught:
        TrtRunner(network, rebuild="always").prepare()
    assert "[rtx]" in caught.value.hint


@pytest.mark.slow
def test_sd15_denoiser_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Needs 20 GB of memory and 8 GB of disk."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as cache:  # 5 GB, which pytest would keep
        monkeypatch.setenv("DGKIT_CACHE", cache)
        build_sd15_denoiser()


def build_sd15_denoiser() -> None:
    network = random_networks("sd15")["denoiser"]
    graph = export_engine(network, dtype="fp16")
    print(f"graph: {graph.sidecar.seconds} s, {graph.sidecar.size / 2**30:.2f} GiB, {graph.sidecar.notes}")
    (engine,) = TrtRunner(network, dtype="fp16").prepare()
    print(f"engine: {engine.sidecar.seconds} s, {engine.sidecar.size / 2**30:.2f} GiB, {engine.sidecar.notes}")
    assert engine.sidecar.size > 2 * 2**30
