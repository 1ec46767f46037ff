"""The configurations of a run and their order: what others are compared with comes first."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dgkit.bench.bench_config import (
    CEILING,
    CEILINGS,
    EVAL,
    IMAGE_SUBJECTS,
    NETWORK_SUBJECTS,
    OFFICIAL,
    OFFICIAL_SUBJECTS,
    SUBJECTS,
    BenchConfig,
    BenchTask,
)
from dgkit.bench.rows import BenchRow
from dgkit.errors import UsageError

_PLAIN = ("torch", "fp32")


def check(config: BenchConfig) -> None:
    """Raise UsageError for an unknown subject, engine, dtype or preset, and for options that cannot be combined."""
    from dgkit.diffusion.model_folder import RANDOM
    from dgkit.diffusion.presets import find_preset
    from dgkit.diffusion.random_model import RandomModel
    from dgkit.engines.runner import known_dtype, runner_class

    unknown = [subject for subject in config.subjects if subject not in SUBJECTS]
    if unknown:
        raise UsageError(f"unknown subject {unknown[0]!r}; known: {', '.join(SUBJECTS)}", "dgkit bench denoiser")
    if min(config.batches) < 1:
        raise UsageError(f"--batches {min(config.batches)}; allowed: 1 or more", "for example --batches 1,8")
    if EVAL in config.subjects and (config.segmenter is None or config.on is None):
        raise UsageError("eval needs a segmenter and a data set", "add --segmenter FILE --on NAME=DIR")
    if EVAL in config.subjects and config.rebuild != "auto":
        raise UsageError(f"eval always builds missing engines; --rebuild {config.rebuild} is not supported",
                         "leave out --rebuild")  # fmt: skip
    if config.model is not None and config.model.startswith(RANDOM):
        RandomModel(config.model.removeprefix(RANDOM))  # an unknown name fails before the first measurement
    for engine in config.engines:
        runner_class(engine)
    for dtype in config.dtypes:
        known_dtype(dtype)
        if not any(_offered((engine, dtype)) for engine in config.engines):
            able = "openvino" if dtype == "int8" else "trt"
            raise UsageError(f"no engine of {', '.join(config.engines)} computes in {dtype}; {able} does",
                             "add it to --engines")  # fmt: skip
    find_preset(config.preset)
    if config.against and not set(config.subjects) & set(OFFICIAL_SUBJECTS):
        raise UsageError(
            f"--against official does not apply to {', '.join(config.subjects)}; "
            f"it applies to {', '.join(OFFICIAL_SUBJECTS)}",
            "leave out --against",
        )
    if config.plot is not None and config.plot.suffix != ".svg":
        raise UsageError(f"--plot {config.plot} is not an .svg file", "use a name that ends in .svg")


def tasks(config: BenchConfig, device: str, references: Path) -> Iterator[BenchTask]:
    """Yield ceilings, then for each subject its reference, the published schedule and the configurations.

    Torch in fp32 is the first configuration. A task of kind ``build`` precedes the first task that needs the engine.
    """
    common = _common(config, device)
    if config.ceilings:
        for dtype in dict.fromkeys(config.dtypes):
            if _offered(("torch", dtype)):  # ceilings are measured in torch
                yield BenchTask(kind="ceiling", dtype=dtype, edge=config.ceiling_edge, **common)
    for name in dict.fromkeys(config.subjects):
        subject = NETWORK_SUBJECTS.get(name, name)
        shared = {**common, "subject": subject, "references": references}
        if config.parity:
            yield BenchTask(kind="reference", **shared)
        if config.against and name in OFFICIAL_SUBJECTS:
            yield BenchTask(kind="official", batches=(2,), **shared)
        pairs = itertools.product(dict.fromkeys(config.engines), dict.fromkeys(config.dtypes))
        for engine, dtype in sorted(filter(_offered, pairs), key=lambda pair: pair != _PLAIN):
            batches = tuple(sorted(set(config.batches)))
            if engine != "torch":
                yield BenchTask(kind="build", engine=engine, dtype=dtype, batches=batches, **shared)
            for part in (batches,) if config.together else ((batch,) for batch in batches):
                yield BenchTask(kind="measure", engine=engine, dtype=dtype, batches=part, **shared)


def _offered(pair: tuple[str, str]) -> bool:
    """Return whether to try an (engine, dtype): only quantised dtypes are limited to the engines that list them."""
    from dgkit.engines.runner import QUANTISED, runner_class

    engine, dtype = pair
    return dtype not in QUANTISED or dtype in runner_class(engine).dtypes


def base_rows(config: BenchConfig, task: BenchTask, environment: Mapping[str, Any]) -> list[BenchRow]:
    """Return the rows that a task will fill, with the cells that are known before it runs."""
    if task.kind == "ceiling":
        return [
            BenchRow(subject=CEILING, network=name, dtype=task.dtype, note=config.note, **environment)
            for name in CEILINGS
        ]
    if task.kind not in ("measure", "official"):
        return []
    return [_base_row(config, task, batch, environment) for batch in task.batches]


def _base_row(config: BenchConfig, task: BenchTask, batch: int, environment: Mapping[str, Any]) -> BenchRow:
    images, pictures = task.subject in IMAGE_SUBJECTS, task.subject == EVAL
    names = {network: subject for subject, network in NETWORK_SUBJECTS.items()}
    official = task.kind == "official"
    return BenchRow(
        subject=names.get(task.subject, task.subject),
        network="" if images or pictures else task.subject,
        engine=OFFICIAL if official else task.engine,
        dtype=task.dtype,
        batch=batch,
        model=str(task.segmenter) if pictures else " + ".join((task.model or "embedded", *task.lora)),
        preset=task.protocol if pictures else ("official" if official else task.preset) if images else "",
        steps=task.steps if images else None,
        note=config.note,
        **environment,
    )


def _common(config: BenchConfig, device: str) -> dict[str, Any]:
    return {
        "device": device,
        "largest": max(config.batches),
        **{
            key: getattr(config, key)
            for key in (
                "model", "lora", "preset", "steps", "count", "segmenter", "on", "protocol", "repeats", "seconds",
                "official_seconds", "threads", "rebuild", "cuda_graph",
            )
        },
    }  # fmt: skip
