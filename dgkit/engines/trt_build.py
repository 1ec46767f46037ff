"""Engines for TensorRT and TensorRT-RTX: their key, their optimisation profiles, and the build from a typed graph.

The network is strongly typed: its precision comes from the graph alone (:mod:`dgkit.engines.typed`). TF32 is off, so
that fp32 means fp32.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dgkit.engines.machine import backend_version, device_facts
from dgkit.engines.onnx_export import MODEL, dynamic_symbols, export_engine, graph_key
from dgkit.engines.runner import BuildOptions, Network
from dgkit.engines.sidecar import EngineKey, Scalar
from dgkit.engines.spec import TensorSpec
from dgkit.engines.store import Engine, EngineStore, Policy
from dgkit.engines.trt_library import TrtLibrary, is_portable, make_monitor, on_gpu
from dgkit.errors import EngineError
from dgkit.files import atomic_write
from dgkit.progress import Notify
from dgkit.resources import peak_memory

ENGINE = "model.engine"
# Pixels per call of the VAE. Its widest tensors have 256 channels at full resolution, which is half of the 2**31 values
# that a TensorRT tensor may hold.
VAE_PIXELS = 1 << 22
Profile = Mapping[str, tuple[int, int, int]]
"""Minimum, optimum and maximum of each symbol whose size may change."""


def profiles(network: Network, batch: tuple[int, int, int]) -> tuple[Profile, ...]:
    """Return the optimisation profiles of an engine.

    The VAE networks have a second profile for single images of other sizes: half to twice the height and half to four
    times the width of the model's own. The batch of the first profile is limited to :data:`VAE_PIXELS` per call.
    """
    sizes = network.sizes
    if "height" not in dynamic_symbols(network.spec):
        return ({"batch": batch},)
    fit = max(1, VAE_PIXELS // (sizes["image_height"] * sizes["image_width"]))
    own = {"batch": (min(batch[0], fit), min(batch[1], fit), min(batch[2], fit))}
    single = {"batch": (1, 1, 1)}
    for symbol, most in (("height", 2), ("width", 4)):
        cells, pixels = sizes[symbol], sizes[f"image_{symbol}"]
        own[symbol], own[f"image_{symbol}"] = (cells,) * 3, (pixels,) * 3
        few = max(1, cells // 2)
        single[symbol] = (few, cells, most * cells)
        single[f"image_{symbol}"] = (few * pixels // cells, pixels, most * pixels)
    return own, single


def choose_profile(network: Network, known: Sequence[Profile], sizes: Mapping[str, int]) -> tuple[int, int] | None:
    """Return the profile for inputs of these ``sizes`` by symbol, as (index, number of parts); None if none fits.

    The profile is the one with the fewest parts, which have about equal batch.
    """
    found = []
    for index, profile in enumerate(known):
        ranges = {symbol: profile.get(symbol, (network.sizes[symbol],) * 3) for symbol in sizes}
        least, _, most = ranges.pop("batch")
        parts = -(-sizes["batch"] // most)
        fits = all(low <= sizes[symbol] <= high for symbol, (low, _, high) in ranges.items())
        if fits and sizes["batch"] // parts >= least:
            found.append((parts, index))
    return (min(found)[1], min(found)[0]) if found else None


def describe_profile(profile: Profile, names: Sequence[str]) -> str:
    """Return the ranges of the symbols ``names`` as text for messages."""
    ranges = ((name, profile[name]) for name in names)
    return ", ".join(f"{name} {low}" if low == high else f"{name} {low} to {high}" for name, (low, _, high) in ranges)


def engine_key(
    library: TrtLibrary, network: Network, dtype: str, device: torch.device, options: BuildOptions
) -> EngineKey:
    """Return the key of the engine of ``network``; a TensorRT-RTX engine may be for any device, see
    :func:`~dgkit.engines.trt_library.is_portable`.
    """
    graph = graph_key(network, dtype)
    first, *others = profiles(network, options.batch)
    ranges = {**first, **(others[0] if others else {}), "batch": first["batch"]}
    shapes = {s: ",".join(map(str, ranges[s])) if s in ranges else size for s, size in graph.shapes.items()}
    flags: dict[str, Scalar] = {
        name: value
        for name in ("optimisation_level", "workspace_gib", "strip_weights", "refit")
        if (value := getattr(options, name)) not in (None, False)
    }
    portable = library.is_rtx and is_portable(device)
    return EngineKey(
        network=graph.network,
        weights=graph.weights,
        dtype=dtype,
        shapes=shapes,
        graph=graph.graph,
        backend=library.backend,
        backend_version=backend_version(library.backend),
        versions={**graph.versions, "onnx": graph.backend_version},
        device=device_facts("any" if portable else str(device)),
        flags=flags,
    )


def obtain_engine(
    library: TrtLibrary,
    network: Network,
    dtype: str,
    device: torch.device,
    options: BuildOptions,
    *,
    rebuild: Policy = "auto",
    notify: Notify | None = None,
) -> Engine:
    """Return the engine of ``network`` for ``device``; see :meth:`EngineStore.obtain` for ``rebuild`` and ``notify``.

    Raises EngineError if the library fails or a build needs a GPU that is missing: TensorRT always needs one,
    TensorRT-RTX for engines whose weights can be replaced.
    """
    key = engine_key(library, network, dtype, device, options)

    def build(folder: Path) -> dict[str, Any]:
        check_device(library, device, options)
        graph = export_engine(network, "auto", notify, dtype=dtype)
        with torch.cuda.device(device) if on_gpu(device) else contextlib.nullcontext():
            return build_engine(library, graph.file(MODEL), folder / ENGINE, network, device, options, notify)

    return EngineStore().obtain(key, build, rebuild=rebuild, model=network.model, notify=notify)


def check_device(library: TrtLibrary, device: torch.device, options: BuildOptions) -> None:
    """Raise EngineError if the library needs a GPU to build an engine with ``options`` and ``device`` is none."""
    if on_gpu(device):
        return
    if not library.is_rtx:
        raise EngineError(
            f"TensorRT builds an engine on the GPU that will run it; the device is {device}",
            "use --device cuda on a machine with an NVIDIA GPU, or DGKIT_TRT=rtx",
        )
    if options.strip_weights or options.refit:
        raise EngineError(
            f"TensorRT-RTX needs a GPU to build engines whose weights can be replaced; the device is {device}",
            "build without strip_weights and refit",
        )


def build_engine(
    library: TrtLibrary,
    graph: Path,
    target: Path,
    network: Network,
    device: torch.device,
    options: BuildOptions,
    notify: Notify | None,
) -> dict[str, Any]:
    """Build the engine file ``target`` from ``graph`` and return notes for the side-car."""
    name, trt = network.spec.name, library.module
    library.reason()  # clears earlier messages
    builder = trt.Builder(library.logger)
    flag = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # TensorRT 11 ignores it: it knows no other kind
    definition = builder.create_network(1 << flag)
    parser = trt.OnnxParser(definition, library.logger)
    if not parser.parse_from_file(str(graph)):
        raise EngineError(
            f"TensorRT cannot parse the {name}: {_parser_errors(parser) or library.reason()}", "use --engine torch"
        )
    config = _configure(library, builder, device, options)
    monitor = config.progress_monitor = make_monitor(library, notify, name)
    for profile in profiles(network, options.batch):
        shape = builder.create_optimization_profile()
        for spec in network.spec.inputs:
            shape.set_shape(spec.name, *(_shape(spec, network, profile, index) for index in range(3)))
        config.add_optimization_profile(shape)
    timings = _load_timings(library, config, device)
    plan = builder.build_serialized_network(definition, config)
    if monitor.cancelled:
        raise KeyboardInterrupt
    if plan is None:
        raise EngineError(f"TensorRT cannot build the {name}: {library.reason()}", "use --engine torch")
    target.write_bytes(memoryview(plan))
    if timings is not None:
        atomic_write(timings, bytes(config.get_timing_cache().serialize()))
    peak = (peak_memory() or 0) / 2**30
    return {"layers": definition.num_layers, "peak_gib": round(peak, 2)}


def _configure(library: TrtLibrary, builder: Any, device: torch.device, options: BuildOptions) -> Any:
    trt, config = library.module, builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    if options.optimisation_level is not None:
        config.builder_optimization_level = options.optimisation_level
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    elif options.strip_weights:  # the engine is optimised for the weights it was built from, and takes no others
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if library.is_rtx:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # required for CUDA graphs
        if not is_portable(device):
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    return config


def _load_timings(library: TrtLibrary, config: Any, device: torch.device) -> Path | None:
    """Give the builder the timing cache of earlier builds on this GPU; return the path of the cache.

    TensorRT-RTX does not time kernels, and would need a GPU for a timing cache.
    """
    if library.is_rtx:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    version = backend_version(library.backend)
    path = EngineStore().root / f".timings-{library.backend}-{version}-{major}.{minor}.cache"
    known = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return path


def _shape(spec: TensorSpec, network: Network, profile: Profile, index: int) -> tuple[int, ...]:
    return tuple(profile[s][index] if s in profile else network.sizes[s] for s in spec.shape)


def _parser_errors(parser: Any) -> str:
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"node {error.node_name() or error.node()}: {error.desc()}" for error in found[:2])
