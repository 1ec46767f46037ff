"""Subjects ``sampler``, both passes in memory, and ``generate``, the command with all its reading and writing."""

import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgkit.bench.bench_config import BenchTask
from dgkit.bench.command import run_dgkit
from dgkit.bench.image_work import ImageWork
from dgkit.bench.memory import DeviceMemory, peak_rss
from dgkit.bench.network_speed import build_options, builds_engines, describe_engines, exact, reference_path
from dgkit.bench.task_process import EXACT, attempt
from dgkit.bench.timing import LEAST, Times, clock_calls
from dgkit.data.manifest import Manifest
from dgkit.diffusion.loading import load_pipeline, open_model
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.presets import Preset, find_preset
from dgkit.diffusion.sampler import SceneRequest, SceneResult, sample
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.engines.runner import BuildOptions
from dgkit.engines.store import Policy
from dgkit.errors import EngineError
from dgkit.files import atomic_path

WORLD = 8  # scenes of the procedural city that generate cuts its labels from
HALVES = 2  # denoiser samples per window: with and without the text
_CLOCK_DRIFT = 1.0  # seconds; a larger difference means that the system clock was set


def build(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Build missing engines; yield the cells of :func:`dgkit.bench.network_speed.build` over all engines."""
    pipeline = _pipeline(task, task.rebuild)
    built = builds_engines(pipeline.runners)
    engines = [engine for runner in pipeline.runners.values() for engine in runner.prepare()]
    yield describe_engines(engines, built)


def reference(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Write the first image in eager PyTorch in fp32, with label, prompt and seed, to a file of ``task.references``."""
    plain = task.model_copy(update={"engine": "torch", "dtype": "fp32"})
    pipeline = _pipeline(plain, "auto")
    path = reference_path(task, pipeline.identity()["digest"])
    if path is None or path.is_file():
        yield {}
        return
    if task.subject == "generate":
        with tempfile.TemporaryDirectory(prefix="dgkit-bench-") as folder:
            out = Path(folder, "out")
            _run_command(plain, task.largest, out, 1, EXACT)
            first = made_records(out)[0]
            image, label = (np.asarray(Image.open(out / first[name])) for name in ("image", "label"))
        request = SceneRequest(label, first["prompt_used"], int(first["seed"]))
    else:
        (request,) = scenes(pipeline, 1)
        with pipeline, exact():
            image = sample(pipeline, [request], find_settings(task), batch=task.largest)[0].image
    _Reference(image, request).write(path)
    yield {}


def measure(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield cells of each batch on one engine in one dtype; the engines are built already.

    A batch that fails does not stop the others. With ``sampler`` only the first batch has ``load_s``.
    """
    pipeline = _pipeline(task, "never")
    path = reference_path(task, pipeline.identity()["digest"])
    if task.subject == "generate":
        for batch in task.batches:
            yield {"batch": batch, **attempt(_measure_command, task, batch, path)}
        return
    memory, started = DeviceMemory(pipeline.device), time.perf_counter()
    with pipeline:
        for number, batch in enumerate(task.batches):
            cells = attempt(_measure_sampler, task, batch, pipeline, memory, started, path)
            if number:
                cells.pop("load_s", None)
            yield {"batch": batch, **cells}


def scenes(pipeline: Pipeline, count: int) -> list[SceneRequest]:
    """Return requests with labels of 8 x 8 blocks of random classes; only their size affects the time."""

    def request(seed: int) -> SceneRequest:
        ids = np.random.default_rng(seed).integers(0, pipeline.info.taxonomy.size, (8, 8), dtype=np.uint8)
        places = np.arange(pipeline.size) * 8 // pipeline.size
        return SceneRequest(ids[np.ix_(places, places)], "road building sky car, in snowy weather.", seed)

    return [request(seed) for seed in range(count)]


def find_settings(task: BenchTask) -> Preset:
    """Return the preset of a task, with the steps of the task if it states any."""
    preset = find_preset(task.preset)
    return preset if task.steps is None else dataclasses.replace(preset, steps=task.steps)


def image_row(times: Times, images: int) -> dict[str, Any]:
    """Return the cells of calls that make ``images`` images each."""
    cells = times.row(images)
    return {**cells, "images": images, "images_per_hour": 3.6e6 / cells["ms_sample"]}


def image_rate(task: BenchTask, labels: Iterable[np.ndarray], milliseconds: float) -> dict[str, Any]:
    """Return the rate of networks that make an image of ``labels`` in ``milliseconds`` each; empty without parity."""
    if task.references is None:
        return {}
    return {
        "tflops": ImageWork(open_model(task.model, loras=task.lora), find_settings(task)).mean(labels)
        / milliseconds
        / 1e9
    }


def compare(path: Path | None, image: np.ndarray) -> dict[str, Any]:
    """Return the relative error and PSNR of an image, uint8 [H, W, 3], against the reference; empty without one."""
    if path is None or not path.is_file():
        return {}
    expected = _Reference.read(path).image.astype(np.float64)
    error, power = float(np.mean((image - expected) ** 2)), float(np.mean(expected**2))
    psnr = {"psnr": 10 * math.log10(255**2 / error)} if error else {}
    return {"parity": math.sqrt(error / max(power, 1e-30)), **psnr}


def reference_request(path: Path) -> SceneRequest:
    """Return the request that the image of a reference was made from."""
    return _Reference.read(path).request


def made_records(folder: Path) -> list[dict[str, Any]]:
    """Return the manifest of a generated folder in the order of its images."""
    return sorted(Manifest(folder / "manifest.jsonl").read(), key=lambda record: int(record["index"]))


@dataclasses.dataclass(frozen=True)
class _Reference:
    """An image uint8 [H, W, 3] and the request it was made from, kept in an .npz file."""

    image: np.ndarray
    request: SceneRequest

    def write(self, path: Path) -> None:
        label, prompt, seed = self.request.label, np.array(self.request.prompt), np.uint64(self.request.seed)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, image=self.image, label=label, prompt=prompt, seed=seed)

    @classmethod
    def read(cls, path: Path) -> "_Reference":
        with np.load(path) as file:
            return cls(file["image"], SceneRequest(file["label"], str(file["prompt"]), int(file["seed"])))


def _pipeline(task: BenchTask, rebuild: Policy) -> Pipeline:
    """Open the pipeline of a task; for the subject ``generate`` with the options that the command uses."""
    options = BuildOptions(cuda_graph=task.cuda_graph) if task.subject == "generate" else build_options(task)
    recipe = {"engine": task.engine, "device": task.device, "dtype": task.dtype, "options": options}
    return load_pipeline(task.model, loras=task.lora, recipe=EngineRecipe.model_validate(recipe), rebuild=rebuild)


def _measure_sampler(
    task: BenchTask, batch: int, pipeline: Pipeline, memory: DeviceMemory, started: float, path: Path | None
) -> dict[str, Any]:
    preset, requests = find_settings(task), scenes(pipeline, task.count)
    results: list[SceneResult] = []

    def call() -> None:
        results[:] = sample(pipeline, requests, preset, batch=batch)

    memory.forget()
    # Two steps call every network in every shape, which suffices as a warm-up.
    sample(pipeline, requests, dataclasses.replace(preset, steps=min(2, preset.steps)), batch=batch)
    load = time.perf_counter() - started
    before = _inside(pipeline)
    times = clock_calls(call, task.repeats, task.seconds)
    outside = 1 - (_inside(pipeline) - before) / (sum(times.milliseconds) / 1e3)
    if pipeline.device.type == "cuda":
        outside = _outside_waiting(pipeline, call)
    row = image_row(times, task.count)
    cells = {**row, "load_s": load, "outside": outside, "rss_mib": peak_rss()}
    cells |= image_rate(task, [request.label for request in requests], row["ms_sample"])
    retried = sum(result.retried for result in results)
    problem = {"error": f"{retried} of {task.count} images not finite, repeated in fp32"} if retried else {}
    return {**cells, **memory.row(), **compare(path, results[0].image), **problem}


def _outside_waiting(pipeline: Pipeline, call: Callable[[], None]) -> float:
    """Return the share of time outside the networks on a GPU, where each network call must be waited for."""
    runners = pipeline.runners.values()
    for runner in runners:
        runner.synchronize = True
    before = _inside(pipeline)
    total = clock_calls(call, 1, 0.0).median / 1e3
    for runner in runners:
        runner.synchronize = False
    return 1 - (_inside(pipeline) - before) / total


def _inside(pipeline: Pipeline) -> float:
    return sum(runner.timing.seconds for runner in pipeline.runners.values())


def _measure_command(task: BenchTask, batch: int, path: Path | None) -> dict[str, Any]:
    """Time blocks of images by their files: a block is written at once, and the first includes loading the model."""
    block = max(1, batch // HALVES)
    with tempfile.TemporaryDirectory(prefix="dgkit-bench-") as folder:
        out = Path(folder, "out")
        started, ticks = time.time(), time.monotonic()
        memory = _run_command(task, batch, out, block * (LEAST + 1))
        _refuse_jump(time.time() - started, time.monotonic() - ticks)
        records = made_records(out)
        done = [(out / record["image"]).stat().st_mtime for record in records]
        ends = [max(done[start : start + block]) for start in range(0, len(done), block)]
        image = np.asarray(Image.open(out / records[0]["image"]))
        labels = [np.asarray(Image.open(out / record["label"])) for record in records[block:]]
    times = Times(tuple(1e3 * (end - last) for last, end in itertools.pairwise(ends)))
    retried = sum(bool(record["retried"]) for record in records)
    problem = {"error": f"{retried} of {len(records)} images not finite, repeated in fp32"} if retried else {}
    load = ends[0] - started - times.median / 1e3
    row = image_row(times, block)
    row |= image_rate(task, labels, row["ms_sample"])
    return {**row, "load_s": load, **memory, **compare(path, image), **problem}


def _refuse_jump(seconds: float, true: float) -> None:
    """Raise EngineError if the system clock advanced by ``seconds`` while ``true`` seconds passed."""
    if abs(seconds - true) > _CLOCK_DRIFT:
        raise EngineError(
            f"the system clock was set by {seconds - true:+.0f} s during the run, so file times are unusable",
            "run the benchmark again",
        )


def _run_command(
    task: BenchTask, batch: int, out: Path, count: int, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run ``dgkit generate`` in its own process; return its peak memory. Raises EngineError if it fails."""
    options: dict[str, object] = {
        "--world": WORLD, "--count": count, "--engine": task.engine, "--dtype": task.dtype, "--device": task.device,
        "--preset": task.preset, "--batch": batch, "--workers": 0,
    }  # fmt: skip
    if task.model is not None:
        options["--model"] = task.model
    if task.steps is not None:
        options["--set"] = f"steps={task.steps}"
    words = [str(word) for pair in options.items() for word in pair]
    words += [word for lora in task.lora for word in ("--lora", lora)]
    words += [] if task.cuda_graph else ["--no-cuda-graph"]
    return run_dgkit(["generate", str(out), *words], task.device, variables).memory
