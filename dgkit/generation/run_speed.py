"""Seconds per image and per build, as this machine measured them in earlier runs of ``generate``."""

from typing import TYPE_CHECKING

from dgkit.engines.speed_record import SpeedRecord
from dgkit.errors import DgkitError
from dgkit.generation.generate_config import GenerateConfig
from dgkit.resources import load_average, usable_cores

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline

FEWEST = 4  # images; the first call of a run takes longer than the others
BUSY = 1.25  # load average per core above which times say little about the machine


def speed_records(config: GenerateConfig, device: str) -> tuple[SpeedRecord, SpeedRecord]:
    """Return the records of seconds per image and of seconds of builds, for settings that state a model digest."""
    model = {"model": config.model_digest}
    image = {"preset": config.preset, "steps": config.steps, "guidance": config.guidance_scale, "size": config.size}
    return SpeedRecord(device, {**model, **image}), SpeedRecord(device, {**model, "what": "build"})


def record_run(config: GenerateConfig, pipeline: "Pipeline", images: int, seconds: float) -> None:
    """Keep what a run in this process measured: ``seconds`` for ``images`` without loading, and those of its builds.

    Nothing is kept if other programs took part of the machine.
    """
    alone = load_average() <= BUSY * len(usable_cores())
    if images < FEWEST or not alone or config.workers != 0 or config.ray or config.engine_recipe or config.judge:
        return
    per_image, builds = speed_records(config, str(pipeline.device))
    per_image.write(config.engine, config.dtype, seconds / images)
    try:
        engines = [engine for runner in pipeline.runners.values() for engine in runner.prepare()]
    except DgkitError:  # removed since they were opened
        return
    if engines:
        builds.write(config.engine, config.dtype, sum(engine.sidecar.seconds for engine in engines))
