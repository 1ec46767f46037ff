"""Choose the output of an ONNX segmenter that holds logits or class numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dgkit.errors import InputError
from dgkit.segmenters.segmenter_sidecar import SegmenterSideCar, sidecar_path

USUAL_NAMES = ("logits", "output", "out")  # decide between outputs of the same shape
READABLE = ("float32", "float16", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


@dataclass(frozen=True)
class OnnxOutput:
    """An output as the file declares it. ``shape``: None if its rank is free, with None for free sizes.

    ``dtype`` is the name of a NumPy type, or that of another type of ONNX.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str

    @property
    def is_map(self) -> bool:
        """Whether the output may hold a value or several for each pixel."""
        return self.shape is None or len(self.shape) in (3, 4)

    def __str__(self) -> str:
        sizes = "?" if self.shape is None else ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} {self.dtype} [{sizes}]"

    def is_logits(self, channels: int) -> bool:
        """Return whether the output is known to have one float for each class."""
        return self.dtype.startswith("float") and self.shape is not None and self.shape[1:2] == (channels,)

    def may_be_logits(self) -> bool:
        """Return whether the output holds floats, and its number of channels is free."""
        return self.dtype.startswith("float") and (self.shape is None or self.shape[1] is None) and not self.is_flat

    def is_numbers(self, channels: int) -> bool:
        """Return whether the output is one value for each pixel: [N,H,W] or [N,1,H,W]."""
        return self.is_flat and not (channels == 1 and self.is_logits(1))

    @property
    def is_flat(self) -> bool:
        """Whether there is one value for each pixel."""
        return self.shape is not None and (len(self.shape) == 3 or self.shape[1] == 1)


def list_maps(outputs: Sequence[OnnxOutput], sidecar: SegmenterSideCar) -> list[OnnxOutput]:
    """Return the outputs that may be the prediction: all maps but the one that the side-car names for features."""
    return [output for output in outputs if output.is_map and output.name != sidecar.features]


def choose_output(path: Path, outputs: Sequence[OnnxOutput], sidecar: SegmenterSideCar, channels: int) -> OnnxOutput:
    """Return the output with the logits of ``channels`` classes, or with class numbers.

    The side-car decides with ``output``; else the only map is taken, else the only one with logits of this number of
    classes, else the only one of integers. Of several such, the one with a usual name. Raises InputError if there is
    none or if several fit.
    """
    maps = list_maps(outputs, sidecar)
    if sidecar.output is not None:
        chosen = next((output for output in outputs if output.name == sidecar.output), None)
        if chosen is None or chosen not in maps:
            raise InputError(
                f"{sidecar_path(path)} names the output {sidecar.output!r}; {path.name} has the maps {_listed(maps)}",
                f"correct 'output' in {sidecar_path(path)}",
            )
    elif not maps:
        raise InputError(
            f"{path} has the outputs {', '.join(output.name for output in outputs)}; none is a map of logits or class "
            "numbers",
            "choose the ONNX file of a segmenter",
        )
    else:
        chosen = maps[0] if len(maps) == 1 else _best(path, maps, channels)
    if chosen.dtype not in READABLE:
        raise InputError(
            f"{path} gives {chosen.name!r} as {chosen.dtype}; allowed: {', '.join(READABLE)}",
            "export it with a float32 output",
        )
    return chosen


def _best(path: Path, maps: Sequence[OnnxOutput], channels: int) -> OnnxOutput:
    numbers = [output for output in maps if output.is_flat and "int" in output.dtype]
    candidates = (
        [output for output in maps if output.is_logits(channels)]
        or [output for output in maps if output.may_be_logits()]
        or numbers
    )
    if len(candidates) > 1:
        named = ([o for o in candidates if o.name.casefold() == name] for name in USUAL_NAMES)
        candidates = next((found for found in named if len(found) == 1), candidates)
    if len(candidates) == 1:
        return candidates[0]
    problem = "several" if candidates else "none"
    raise InputError(
        f"{path} has the outputs {_listed(maps)}; {problem} of them may be logits of {channels} classes",
        f"write 'output: NAME' into {sidecar_path(path)}",
    )


def _listed(outputs: Sequence[OnnxOutput]) -> str:
    return ", ".join(map(str, outputs)) or "none"
