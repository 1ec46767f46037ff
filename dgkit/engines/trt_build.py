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
from dgkit.engines.onnx_export import MODEL, dynamic_symbols
from dgkit.engines.qdq_graph import typed_graph, typed_graph_key
from dgkit.engines.runner import BuildOptions, Network
from dgkit.engines.sidecar import EngineKey, EngineSideCar, Scalar
from dgkit.engines.spec import TensorSpec
from dgkit.engines.store import Engine, EngineStore, Policy
from dgkit.engines.timing_caches import cache_name
from dgkit.engines.trt_library import DTYPE_NAMES, TrtLibrary, is_portable, make_monitor, on_gpu, polygraphy, trt
from dgkit.engines.trt_refit import check_weights, engine_to_refit, graph_of, refit_engine
from dgkit.engines.trt_targets import capabilities, check_card, check_targets, flag_of, for_this_card
from dgkit.errors import EngineError
from dgkit.progress import Notify
from dgkit.resources import peak_memory

ENGINE = "model.engine"
COMPATIBLE = ("hardware_compatible", "version_compatible")  # options of TensorRT that TensorRT-RTX lacks
_KEY_OPTIONS = ("optimisation_level", "workspace_gib", "strip_weights", "refit", "weight_streaming", *COMPATIBLE)
# Pixels per call of the VAE. Its widest tensors have 256 channels at full resolution, which is half of the 2**31 values
# that a TensorRT tensor may hold.
VAE_PIXELS = 1 << 22
Profile = Mapping[str, tuple[int, int, int]]
"""Minimum, optimum and maximum of each symbol whose size may change."""


def profiles(network: Network, batch: tuple[int, int, int]) -> tuple[Profile, ...]:
    """Return the optimisation profiles of an engine.

    The VAE networks have a second profile for single images of other sizes: half to twice the height and half to four
    times the width of the model's own, less for models of large images. The batch of the first profile is limited to
    :data:`VAE_PIXELS` per call.
    """
    sizes = network.sizes
    if "height" not in dynamic_symbols(network.spec):
        return ({"batch": batch},)
    area = sizes["image_height"] * sizes["image_width"]
    fit = max(1, VAE_PIXELS // area)
    widest = max(1, min(4, (2 * VAE_PIXELS - 1) // (2 * area)))  # of an image of twice the height
    own = {"batch": (min(batch[0], fit), min(batch[1], fit), min(batch[2], fit))}
    single = {"batch": (1, 1, 1)}
    for symbol, most in (("height", 2), ("width", widest)):
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
    graph = typed_graph_key(network, dtype)
    first, *others = profiles(network, options.batch)
    ranges = {**first, **(others[0] if others else {}), "batch": first["batch"]}
    shapes = {s: ",".join(map(str, ranges[s])) if s in ranges else size for s, size in graph.shapes.items()}
    flags: dict[str, Scalar] = {
        name: value for name in _KEY_OPTIONS if (value := getattr(options, name)) not in (None, False)
    }
    portable = library.is_rtx and (bool(options.targets) or is_portable(device))
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
        flags={**graph.flags, **flags, **flag_of(options.targets)},
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
    store = EngineStore()
    key = engine_key(library, network, dtype, device, options)
    if rebuild != "always":
        key = for_this_card(store, key, device)
    check_card(key, device)

    def build(folder: Path) -> dict[str, Any]:
        check_device(library, device, options)
        graph = typed_graph(network, dtype, "auto", notify)
        old = engine_to_refit(store, key) if options.refit and rebuild != "always" else None
        if old is not None:
            return {"graph": graph.name, **_refit(library, store, old, graph.file(MODEL), folder, device)}
        with torch.cuda.device(device) if on_gpu(device) else contextlib.nullcontext():
            notes = build_engine(library, graph.file(MODEL), folder / ENGINE, network, device, options, notify)
        return {"graph": graph.name, **notes}

    return store.obtain(key, build, rebuild=rebuild, model=network.model, notify=notify)


def _refit(
    library: TrtLibrary, store: EngineStore, old: EngineSideCar, graph: Path, folder: Path, device: torch.device
) -> dict[str, Any]:
    """Make the engine of ``graph`` from the engine of ``old`` with other weights; return notes for the side-car."""
    before = graph_of(store, old)
    if before is not None:
        check_weights(before, graph)
    refit_engine(library, store.folder(old.key) / ENGINE, graph, folder / ENGINE, device)
    return {"refitted_from": old.key.name}


def check_device(library: TrtLibrary, device: torch.device, options: BuildOptions) -> None:
    """Raise EngineError if the library needs a GPU to build an engine with ``options`` and ``device`` is none."""
    check_targets(library, options)
    chosen = [name for name in COMPATIBLE if getattr(options, name)]
    if library.is_rtx and chosen:
        raise EngineError(
            f"TensorRT-RTX has no option {', '.join(chosen)}: its engines run on the cards that they are built for",
            "use --for sm89,sm120, or set DGKIT_TRT=tensorrt",
        )
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
    """Build the engine file ``target`` from ``graph`` with Polygraphy and return notes for the side-car."""
    name, loaders = network.spec.name, polygraphy("backend.trt")
    with library.reporting(f"TensorRT cannot parse the {name}"):
        builder, definition, _ = loaders.network_from_onnx_path(str(graph), strongly_typed=True)
    monitor, timings = make_monitor(notify, name), _timings(library, device)
    settings = config_loader(library, network, device, options, monitor=monitor, timings=timings)
    library.messages.activations = None
    with library.reporting(f"TensorRT cannot build the {name}"):
        config = settings(builder, definition)
        if timings is not None and library.messages.errors and notify is not None:
            notify(f"the timing cache {timings} cannot be used ({library.reason()}); kernels are timed again")
        try:
            plan = loaders.engine_bytes_from_network(
                (builder, definition), config, save_timing_cache=None if timings is None else str(timings)
            )
        except Exception:
            if monitor.cancelled:
                raise KeyboardInterrupt from None
            raise
    target.write_bytes(memoryview(plan))
    notes = {"layers": definition.num_layers, "types": layer_types(definition)}
    activations, peak = library.messages.activations, (peak_memory() or 0) / 2**30
    memory: dict[str, float] = {} if activations is None else {"activations_mib": round(activations / 2**20, 1)}
    return {**notes, "profiles": shape_ranges(network, options.batch), **memory, "peak_gib": round(peak, 2)}


def config_loader(
    library: TrtLibrary,
    network: Network,
    device: torch.device,
    options: BuildOptions,
    *,
    monitor: Any = None,
    timings: Path | None = None,
) -> Any:
    """Return Polygraphy's loader of the builder configuration: ``loader(builder, definition)``.

    Each input has the range of sizes of :func:`profiles`. Raises what Polygraphy raises.
    """
    workspace = options.workspace_gib
    common = {
        "profiles": [_profile(shapes) for shapes in shape_ranges(network, options.batch)],
        "memory_pool_limits": workspace and {trt.MemoryPoolType.WORKSPACE: int(workspace * 2**30)},
        "builder_optimization_level": options.optimisation_level,
        "refittable": options.refit,
        "strip_plan": options.strip_weights,
        "progress_monitor": monitor,
        "load_timing_cache": timings and str(timings),
    }
    if library.is_rtx:
        where: dict[str, Any] = {"use_gpu": not is_portable(device)}
        if options.targets:
            where = {"compute_capabilities": capabilities(options)}
        loader = polygraphy("backend.tensorrt_rtx.config").CreateConfigRTX(**where, **common)
    else:
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS if options.hardware_compatible else None
        compatible = {"hardware_compatibility_level": level, "version_compatible": options.version_compatible}
        loader = polygraphy("backend.trt").CreateConfig(**common, **compatible)

    def add_flags(builder: Any, definition: Any, config: "trt.IBuilderConfig") -> None:
        config.clear_flag(trt.BuilderFlag.TF32)
        if options.weight_streaming:  # TensorRT-RTX allows no workspace of ours then, and so no CUDA graph
            config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
        if options.strip_weights and not options.refit:  # the engine takes no other weights than those of the build
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
        if library.is_rtx and not options.weight_streaming:
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # required for CUDA graphs

    return polygraphy("backend.trt").PostprocessConfig(loader, add_flags)


def layer_types(definition: "trt.INetworkDefinition") -> dict[str, dict[str, int]]:
    """Return the number of layers of a network definition by kind, then by the number format of their first output."""
    found: dict[str, dict[str, int]] = {}
    for layer in (definition.get_layer(index) for index in range(definition.num_layers)):
        counts = found.setdefault(layer.type.name.lower(), {})
        kind = layer.get_output_type(0).name.lower()
        kind = DTYPE_NAMES.get(kind, kind)
        counts[kind] = counts.get(kind, 0) + 1
    return {kind: dict(sorted(found[kind].items())) for kind in sorted(found)}


def shape_ranges(network: Network, batch: tuple[int, int, int]) -> list[dict[str, list[list[int]]]]:
    """Return minimum, optimum and maximum shape of each input in each optimisation profile of an engine."""
    return [
        {spec.name: [list(_shape(spec, network, profile, i)) for i in range(3)] for spec in network.spec.inputs}
        for profile in profiles(network, batch)
    ]


def _profile(ranges: Mapping[str, Sequence[Sequence[int]]]) -> Any:
    """Return the optimisation profile of Polygraphy with these minimum, optimum and maximum shapes."""
    found = polygraphy("backend.trt").Profile()
    for name, shapes in ranges.items():
        found.add(name, *(tuple(shape) for shape in shapes))
    return found


def _timings(library: TrtLibrary, device: torch.device) -> Path | None:
    """Return the file with the timings of kernels on this GPU. TensorRT-RTX, which does not time kernels, has none."""
    if library.is_rtx:
        return None
    capability = torch.cuda.get_device_capability(device)
    return EngineStore().root / f".{cache_name(library.backend, backend_version(library.backend), capability)}"


def _shape(spec: TensorSpec, network: Network, profile: Profile, index: int) -> tuple[int, ...]:
    return tuple(profile[s][index] if s in profile else network.sizes[s] for s in spec.shape)
