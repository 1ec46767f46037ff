"""Settings that are left to dgkit: preset, engine, number format, batch and workers, by model, machine and count."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dgkit.engines.engine_choice import (
    FLOP_PER_WEIGHT,
    Work,
    installed,
    measured_engines,
    multiplies_bf16,
    usual_dtype,
    worthwhile,
)
from dgkit.errors import DgkitError, EngineError, MissingDependency, ModelError, UsageError
from dgkit.generation.blocks import total_images
from dgkit.generation.generate_config import DEFAULT_BATCH, DEFAULT_PRESET, GenerateConfig
from dgkit.generation.jobs import Job, JobPlan, make_job
from dgkit.generation.run_speed import speed_records
from dgkit.generation.settings import EIGHT_BITS, chosen_preset
from dgkit.optional import install_command
from dgkit.progress import Notify, Progress
from dgkit.resources import available_memory, usable_cores
from dgkit.texts import count_of

if TYPE_CHECKING:
    from dgkit.diffusion.model_folder import ModelInfo, ModelSource
    from dgkit.diffusion.pipeline import Pipeline

MANY_CORES = 8  # from this number on, processes that share the cores may be faster than one
MANY_IMAGES = 500  # from this number on, a run may spend seconds on measuring the best number of workers
PROBED = 4  # labels whose evaluations are counted
PUBLISHED = "official"
_GIB = 2**30
_EXTRAS = {"openvino": "cpu", "ort": "cpu", "trt": "gpu"}


@dataclass(frozen=True)
class BatchMemory:
    """The largest batches that were measured to pay for models of about ``weights`` weights.

    ``fixed`` bytes and ``sample`` bytes per sample in flight are the memory of a run on a CPU.
    """

    weights: float
    fixed: float
    sample: float
    on_cpu: int
    on_gpu: int


# Of the embedded model and of Stable Diffusion 1.5: gpu_presets_h100.csv and bench_sd15.csv in benchmarks/results.
BATCHES = (BatchMemory(1e7, 1 * _GIB, 0.05 * _GIB, 8, 64), BatchMemory(1.2e9, 6 * _GIB, 0.5 * _GIB, 8, 32))


def settle(
    config: GenerateConfig,
    model: "ModelSource",
    plan: JobPlan,
    load: "Callable[[GenerateConfig], Pipeline]",
    progress: Progress,
    notify: Notify | None,
) -> "tuple[GenerateConfig, Pipeline]":
    """Return the settings with engine, dtype, batch and workers, and the pipeline that ``load`` returns for them.

    ``notify`` gets a line about what was not stated.
    """
    given, config = config, with_engine(config, model, plan)
    pipeline = load(config)
    on_gpu = pipeline.device.type == "cuda"
    need = _gpu_need(config, model) if on_gpu else None
    config = with_batch(config, lambda: model.weight_count("unet", "controlnet"), need)
    config = with_workers(config, pipeline, progress, notify)
    notes = (engine_note(given, config, pipeline.device.type), slow_dtype_note(config, pipeline.device.type))
    for note in notes:
        if note is not None and notify is not None:
            notify(note)
    return config, pipeline


def with_preset(config: GenerateConfig, info: "ModelInfo") -> GenerateConfig:
    """Return the settings with a preset: the stated one, else what the model recommends, else ``fast``.

    Raises ModelError if the model recommends one that does not exist.
    """
    if config.preset is not None:
        return config
    from dgkit.diffusion.presets import find_preset

    preset = info.defaults.preset or DEFAULT_PRESET
    try:
        find_preset(preset)
    except UsageError as error:
        raise ModelError(f"dgkit.json of the model {info.name}: {error.message}", "pass --preset fast") from error
    return config.model_copy(update={"preset": preset})


def adapter_note(config: GenerateConfig, info: "ModelInfo") -> str | None:
    """Return a warning if the preset is made for a LoRA, and the model has none."""
    adapter = chosen_preset(config).adapter
    if adapter is None or config.lora or info.defaults.loras:
        return None
    return f"preset {config.preset} is made for a prior with a few-step LoRA: add --lora {adapter}"


def for_single_scenes(config: GenerateConfig, info: "ModelInfo") -> GenerateConfig:
    """Return the settings with preset, engine and dtype for scenes made one at a time, for which nothing is built."""
    config = with_preset(config, info)
    if config.engine_recipe is not None:
        return config
    engine, dtype, _ = _stated(config)
    return config.model_copy(update={"engine": "torch" if engine == "auto" else engine, "dtype": dtype})


def _stated(config: GenerateConfig) -> tuple[str, str, str]:
    """Return the engine, auto if it is still to be chosen, with the dtype and the device that suit it."""
    from dgkit.engines.engine_recipe import resolve_device

    engine = EIGHT_BITS.get(config.dtype, "auto") if config.engine == "auto" else config.engine
    device = resolve_device(config.device, "torch" if engine == "auto" else engine)
    return engine, usual_dtype(device, engine) if config.dtype == "auto" else config.dtype, device


def with_engine(config: GenerateConfig, model: "ModelSource", plan: JobPlan) -> GenerateConfig:
    """Return the settings with engine and dtype.

    A stated value stays. The engine is one whose engines are all in the store, else the one with which the run ends
    first, builds included, as :mod:`~dgkit.engines.engine_choice` estimates. Parts of a run that other machines share
    (``shard``, ``ray``) use torch, which does not depend on what a machine has built.
    """
    if config.engine_recipe is not None or "auto" not in (config.engine, config.dtype):
        return config
    engine, dtype, device = _stated(config)
    if engine == "auto" and (config.shard or config.ray):
        engine = "torch"
    elif engine == "auto":
        engine = _built_engine(config, model, device, dtype) or _worthwhile_engine(config, model, plan, device, dtype)
    return config.model_copy(update={"engine": engine, "dtype": dtype})


def _built_engine(config: GenerateConfig, model: "ModelSource", device: str, dtype: str) -> str | None:
    """Return the fastest engine whose files for all networks are in the store and valid; None if there is none."""
    from dgkit.engines.store import EngineStore

    root = EngineStore().root
    for engine in ("trt",) if device.startswith("cuda") else ("openvino", "compile"):
        present = any(any(root.glob(f"denoiser-{name}-{dtype}-*")) for name in (engine, *(["rtx"] * (engine == "trt"))))
        if present and installed(engine, build=False) and is_built(config, model, engine, device, dtype):
            return engine
    return None


def needs_modules(config: GenerateConfig) -> bool:
    """Return whether the run will load the networks as modules: to run them, or to build engines, of which none exist.

    An estimate, for work that can be done ahead.
    """
    from dgkit.engines.store import EngineStore

    return config.engine == "torch" or not any(EngineStore().root.glob("denoiser-*"))


def is_built(config: GenerateConfig, model: "ModelSource", engine: str, device: str, dtype: str) -> bool:
    """Return whether the store has valid engines for all networks of a model."""
    from dgkit.diffusion.loading import model_networks
    from dgkit.engines.build_plan import first_problem, inspect
    from dgkit.engines.engine_recipe import EngineRecipe

    recipe = EngineRecipe.model_validate({"engine": engine, "dtype": dtype, "device": device})
    try:
        runners = recipe.runners(model_networks(model), "never")
        return first_problem(inspect(name, engine, runner) for name, runner in runners.items()) is None
    except DgkitError:  # the library does not load, or does not support this machine
        return False


def _worthwhile_engine(config: GenerateConfig, model: "ModelSource", plan: JobPlan, device: str, dtype: str) -> str:
    parameters = model.weight_count("unet", "controlnet")
    rows = measured_engines(device, dtype, parameters)
    images, builds = speed_records(config, device)
    engines = [row.engine for row in rows]
    work = Work(
        images=total_images(config),
        tflop=evaluations(config, model.info, plan) * FLOP_PER_WEIGHT * parameters * model.info.tile**2 / 1e12,
        cores=len(usable_cores()),
        memory_gib=available_memory() / _GIB,
        seconds=images.read_all(engines, dtype),
        build_seconds=builds.read_all(engines, dtype),
    )
    return worthwhile(work, rows, installed)


def evaluations(config: GenerateConfig, info: "ModelInfo", plan: JobPlan, preset: str | None = None) -> float:
    """Return the mean number of denoiser evaluations of the first images with the preset of the run, or another."""
    from dgkit.diffusion.presets import find_preset
    from dgkit.diffusion.sampling_plan import SamplingPlan

    chosen = chosen_preset(config) if preset is None else find_preset(preset)
    jobs = [make_job(plan, number) for number in range(min(PROBED, config.count))]

    def cost(job: Job) -> int:
        scale = chosen.guidance_scale if job.guidance_scale is None else job.guidance_scale
        return SamplingPlan(replace(chosen, guidance_scale=scale), info).cost(job.label).total

    return sum(map(cost, jobs)) / len(jobs)


def with_batch(
    config: GenerateConfig, weights: Callable[[], int], need: Callable[[int], int] | None = None
) -> GenerateConfig:
    """Return the settings with a batch: the largest power of two that fits in memory and was measured to pay.

    ``need`` returns the bytes of GPU memory of a run with a batch; None for a run on the CPU. Blocks of a shard depend
    on the batch, so there it is the same on every machine.
    """
    if config.batch != "auto":
        return config
    if config.shard or config.ray:
        return config.model_copy(update={"batch": DEFAULT_BATCH})
    count = weights()
    row = min(BATCHES, key=lambda row: max(count, row.weights) / min(count, row.weights))
    batch, free = (row.on_gpu, _free_gpu_memory()) if need else (row.on_cpu, available_memory())
    while batch > 2 and (need(batch) if need else row.fixed + row.sample * batch) > 0.8 * free:
        batch //= 2
    return config.model_copy(update={"batch": batch})


def _gpu_need(config: GenerateConfig, model: "ModelSource") -> Callable[[int], int]:
    """Return a function that estimates the bytes of GPU memory of a run by its batch."""
    from dgkit.diffusion.model_memory import model_needs
    from dgkit.engines.memory_estimate import together

    dtype = "fp16" if config.dtype == "auto" else config.dtype
    return lambda batch: together(model_needs(model, dtype, batch, config.engine))


def _free_gpu_memory() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0])


def with_workers(
    config: GenerateConfig, pipeline: "Pipeline", progress: Progress, notify: Notify | None
) -> GenerateConfig:
    """Return the settings with a number of workers: 0, this process, unless there are several GPUs or many cores.

    With many cores the best number is measured for a long run. A Ray cluster chooses itself.
    """
    if config.workers != "auto" or config.ray is not None:
        return config
    from dgkit.generation.worker_setup import best_worker_count

    workers = 0
    if pipeline.device.type == "cuda":
        found = best_worker_count(config, pipeline)
        workers = found if found > 1 else 0
    elif len(usable_cores()) >= MANY_CORES and total_images(config) >= MANY_IMAGES:
        pipeline.build_engines(progress)  # here, where it is reported, and once for all workers
        workers = best_worker_count(config, pipeline, notify)
    return config.model_copy(update={"workers": workers})


def preset_note(config: GenerateConfig, info: "ModelInfo", plan: JobPlan, embedded: bool) -> str:
    """Return the line about a preset that was not stated: its cost, and how to get the published schedule."""
    own, published = (evaluations(config, info, plan, preset) for preset in (None, PUBLISHED))
    line = (
        f"preset {config.preset}: {own:.0f} denoiser evaluations per image; "
        f"--preset {PUBLISHED} is the published schedule ({published:.0f})"
    )
    if embedded or info.defaults.preset is not None:
        return line
    return f"{line}; not measured with real Stable Diffusion weights, for which --preset exact is the careful choice"


def engine_note(given: GenerateConfig, config: GenerateConfig, device: str) -> str | None:
    """Return the line about engine, dtype, batch and workers that were not stated in ``given``; None if all were."""
    automatic = [name for name in ("engine", "dtype", "batch", "workers") if getattr(given, name) == "auto"]
    if not automatic or (config.ray is not None and automatic == ["workers"]):
        return None
    parts = [f"engine {config.engine}", str(config.dtype), f"batch {config.batch}"]
    if config.workers not in (0, "auto"):
        parts.append(f"{config.workers} workers")
    where = "GPU" if device == "cuda" else "CPU"
    usual = {"engine": "torch", "dtype": "fp32", "batch": 8, "workers": 0}
    differing = {name: usual[name] for name in automatic if getattr(config, name) != usual[name]}
    others = {name: differing[name] for name in ("engine", "dtype") if name in differing} or differing
    override = "".join(f" --{name} {value}" for name, value in others.items())
    override = f";{override} to override" if override else ""
    shared = " on all machines of the run" if config.shard or config.ray else ""
    images = count_of(config.count, "image")
    return f"{', '.join(parts)} (chosen for {images} on this {where}){override}{shared}"


def require_engine(config: GenerateConfig, path: object) -> None:
    """Raise an error that says what to do if the engine that the folder ``path`` was made with cannot run here."""
    if config.engine_recipe is not None or config.engine not in _EXTRAS:
        return
    elsewhere = f"finish it on such a machine, or start another: dgkit generate NEW --recipe {path}/config.yaml"
    hint = f"{elsewhere} --engine auto --dtype auto"
    if not installed(config.engine, build=False):
        raise MissingDependency(
            f"{path} was made with engine {config.engine}, which is not installed here",
            f"{install_command(_EXTRAS[config.engine])}; or {hint}",
        )
    if config.engine == "openvino" and config.dtype == "bf16":
        from dgkit.engines.openvino_runner import has_bf16

        if not has_bf16():
            raise EngineError(f"{path} was made in bf16, which OpenVINO does not support on this CPU", hint)


def slow_dtype_note(config: GenerateConfig, device: str) -> str | None:
    """Return a line if the CPU has no instructions for the number format of the settings."""
    native = {"fp32", *EIGHT_BITS, *(["bf16"] if multiplies_bf16() else [])}
    if device != "cpu" or config.engine_recipe is not None or config.dtype in native:
        return None
    return f"{config.dtype} is slow on this CPU, which has no instructions for it"
