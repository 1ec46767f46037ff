"""The plan of a preset on a model: schedules, windows, the area of the second pass, and the cost in evaluations."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dgkit.diffusion.cover import cover_windows, covered
from dgkit.diffusion.fusion import downscale, large_components
from dgkit.diffusion.model_folder import ModelInfo
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.schedule import Schedule, make_schedule
from dgkit.diffusion.tiles import Windows, make_windows


class Cost(NamedTuple):
    """Denoiser samples of one image by pass; a window in one guidance half and step is one sample."""

    first: int
    second: int

    @property
    def total(self) -> int:
        """Samples of both passes."""
        return self.first + self.second


@dataclass(frozen=True)
class Redraw:
    """The second pass of one label: ``windows``, and bool [r*H/f, r*W/f] of the cells that ``keep`` the first pass."""

    keep: np.ndarray
    windows: Windows


class SamplingPlan:
    """A preset on a model: the guidance ``scale``, and the schedules ``first`` and ``second`` of the passes.

    Raises what :func:`~dgkit.diffusion.schedule.make_schedule` raises.
    """

    def __init__(self, preset: Preset, info: ModelInfo) -> None:
        self.preset, self.info = preset, info
        self.first = make_schedule(info.scheduler, preset.steps, preset.solver, spacing=preset.spacing, eta=preset.eta)
        self.second = self.first.tail(preset.second_start)
        self.scale = preset.guidance(info.defaults.guidance_scale)

    @property
    def halves(self) -> int:
        """Samples of a window in a step with guidance."""
        return 1 if self.scale == 1.0 else 2

    def guided(self, schedule: Schedule, index: int) -> bool:
        """Return whether both guidance halves are evaluated at a step."""
        noise = schedule.levels[index].noise
        return self.halves == 2 and self.preset.guidance_low <= noise <= self.preset.guidance_high

    def max_samples(self, schedule: Schedule) -> int:
        """Return the maximum number of samples of a window in a step of a pass."""
        return 1 + any(self.guided(schedule, index) for index in range(len(schedule.timesteps)))

    def samples(self, schedule: Schedule) -> int:
        """Return the number of samples of one window in all steps of a pass."""
        return sum(1 + self.guided(schedule, index) for index in range(len(schedule.timesteps)))

    def windows(self, shape: tuple[int, ...], rescale: int) -> Windows:
        """Return the grid of windows over a label of ``shape`` pixels, enlarged ``rescale`` times."""
        factor, tile = self.info.vae_factor, self.info.tile
        stride = max(1, round(tile * self.preset.stride))
        smooth = self.preset.weights == "smooth"
        return make_windows(shape[0] * rescale // factor, shape[1] * rescale // factor, tile, stride, smooth)

    def redraw(self, label: np.ndarray) -> Redraw:
        """Return the second pass of ``label``, uint8 [H, W] of train ids."""
        grid = self.windows(label.shape, self.preset.rescale)
        keep = downscale(
            large_components(label, self.preset.large_area, self.info.taxonomy.size), grid.height, grid.width
        )
        if self.preset.windows == "grid":
            return Redraw(keep, grid)
        windows = cover_windows(~keep, self.info.tile, grid.smooth)
        return Redraw(keep | ~covered(windows), windows)

    def cost(self, label: np.ndarray, redraw: Redraw | None = None) -> Cost:
        """Return the cost of one image of ``label``, without a retry in fp32.

        ``redraw`` is the result of :meth:`redraw` for the label, if already computed.
        """
        first = len(self.windows(label.shape, 1)) * self.samples(self.first)
        if not self.preset.two_pass:
            return Cost(first, 0)
        return Cost(first, len((redraw or self.redraw(label)).windows) * self.samples(self.second))
