"""What a preset comes to on a model: schedules, windows, what is drawn again, and the evaluations that it costs."""

from dataclasses import dataclass

import numpy as np

from dgkit.diffusion.cover import cover_windows, covered
from dgkit.diffusion.fusion import downscale, large_components
from dgkit.diffusion.model_folder import ModelInfo
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.schedule import Schedule, make_schedule
from dgkit.diffusion.tiles import Windows, make_windows


@dataclass(frozen=True)
class Cost:
    """Evaluations of the denoiser for one image, by pass: a window in one guidance half and step is one sample."""

    first: int
    second: int

    @property
    def total(self) -> int:
        return self.first + self.second


@dataclass(frozen=True)
class Redraw:
    """The second pass of one label: cells bool [r*H/f, r*W/f] that ``keep`` the first, and ``windows`` on the rest."""

    keep: np.ndarray
    windows: Windows


class SamplingPlan:
    """``preset`` on a model: ``scale`` of the guidance, and the schedules ``first`` and ``second`` of the passes.

    Raises what :func:`~dgkit.diffusion.schedule.make_schedule` raises.
    """

    def __init__(self, preset: Preset, info: ModelInfo) -> None:
        self.preset, self.info = preset, info
        self.first = make_schedule(info.scheduler, preset.steps, preset.solver)
        self.second = self.first.tail(preset.second_start)
        self.scale = preset.guidance(info.defaults.guidance_scale)

    @property
    def halves(self) -> int:
        """Samples of a window where it is guided."""
        return 1 if self.scale == 1.0 else 2

    def guided(self, schedule: Schedule, index: int) -> bool:
        """Whether both guidance halves are evaluated at a step."""
        noise = schedule.levels[index].noise
        return self.halves == 2 and self.preset.guidance_low <= noise <= self.preset.guidance_high

    def most(self, schedule: Schedule) -> int:
        """The most samples that a window takes in a step of a pass."""
        return 1 + any(self.guided(schedule, index) for index in range(len(schedule.timesteps)))

    def samples(self, schedule: Schedule) -> int:
        """Samples of one window in all steps of a pass."""
        return sum(1 + self.guided(schedule, index) for index in range(len(schedule.timesteps)))

    def windows(self, shape: tuple[int, ...], rescale: int) -> Windows:
        """The grid over a label of ``shape`` pixels enlarged ``rescale`` times."""
        factor, tile = self.info.vae_factor, self.info.tile
        stride = max(1, round(tile * self.preset.stride))
        smooth = self.preset.weights == "smooth"
        return make_windows(shape[0] * rescale // factor, shape[1] * rescale // factor, tile, stride, smooth)

    def redraw(self, label: np.ndarray) -> Redraw:
        """What the second pass does with ``label``, uint8 [H, W] of train ids."""
        grid = self.windows(label.shape, self.preset.rescale)
        keep = downscale(large_components(label, self.preset.large_area), grid.height, grid.width)
        if self.preset.windows == "grid":
            return Redraw(keep, grid)
        windows = cover_windows(~keep, self.info.tile, grid.smooth)
        return Redraw(keep | ~covered(windows), windows)

    def cost(self, label: np.ndarray, redraw: Redraw | None = None) -> Cost:
        """What one image of ``label`` costs; an image that is made again in fp32 costs it once more.

        ``redraw`` is what :meth:`redraw` says of the label, where that is known already.
        """
        first = len(self.windows(label.shape, 1)) * self.samples(self.first)
        if not self.preset.two_pass:
            return Cost(first, 0)
        return Cost(first, len((redraw or self.redraw(label)).windows) * self.samples(self.second))
