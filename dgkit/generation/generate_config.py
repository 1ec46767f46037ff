"""Settings of ``dgkit generate``. A default is stated here and nowhere else."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dgkit.config import Config
from dgkit.data.filtering import MAX_BOUNDARY
from dgkit.errors import UsageError

DEFAULT_WORLD = 64  # scenes of the procedural city where no source of label maps is given
MAX_SHARDS = 100_000
MAX_WORKERS = 1024


def _parse_size(value: Any) -> Any:
    """``512``, ``"512"``, ``"384x768"`` (height x width) or ``[384, 768]``."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX]\s*(\d+)\s*)?", value)
        if match is None:
            raise ValueError("a size is S or HEIGHTxWIDTH in pixels, such as 512 or 384x768")
        return int(match[1]), int(match[2] or match[1])
    return (value, value) if isinstance(value, int) else value


def _parse_workers(value: Any) -> Any:
    """``4``, ``"4"`` or ``"auto"``."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number != "auto" and not (isinstance(number, int) and 0 <= number <= MAX_WORKERS):
        raise ValueError(f"workers are a number from 0 to {MAX_WORKERS}, or auto")
    return number


def _parse_shard(value: Any) -> Any:
    """``"2/4"`` or ``[2, 4]``: the second of four parts."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", value)
        value = (int(match[1]), int(match[2])) if match else None
    shard = tuple(value) if isinstance(value, tuple | list) and len(value) == 2 else (0, 0)
    if not all(isinstance(number, int) for number in shard) or not 1 <= shard[0] <= shard[1] <= MAX_SHARDS:
        raise ValueError(f"a shard is I/N with I from 1 to N and N at most {MAX_SHARDS}, such as 2/4")
    return shard


Pixels = Annotated[int, Field(ge=1, le=16384)]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_parse_size)]
Shard = Annotated[tuple[int, int], BeforeValidator(_parse_shard)]
Workers = Annotated[int | Literal["auto"], BeforeValidator(_parse_workers)]


class GenerateConfig(Config):
    """One run: which labels, which model, how many images, and how they are drawn."""

    labels: Path | None = Field(None, description="folder of label maps")
    dataset: str | None = Field(None, description="labelled data set as NAME=DIR, such as gta=data/gta")
    world: int | None = Field(
        None, ge=1, le=1_000_000, description="scenes of the procedural city; the source if no other is given"
    )
    encoding: str | None = Field(None, description="id system of the label maps; None: the one of the layout")
    split: str | None = Field(None, description="split of the data set; None: the one of the layout")
    count: int = Field(16, ge=1, le=10_000_000, description="images to have in the folder at the end")

    model: str | None = Field(None, description="diffusers model folder or hub id; None: the embedded city model")
    controlnet: str | None = Field(None, description="ControlNet folder or hub id; None: controlnet/ of the model")
    engine: str = Field("torch", description="runner of the networks: torch, compile, ort, openvino or trt")
    dtype: Literal["fp32", "bf16", "fp16", "int8"] = Field("fp32", description="number format inside the networks")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto: cuda where there is one")
    engine_recipe: Path | dict[str, Any] | None = Field(
        None,
        description="recipe of build-engines, or what it holds; states engine and dtype, and those of each network",
    )
    cuda_graph: bool = Field(True, description="on a GPU, replay the denoiser's kernels as a CUDA graph, where it can")
    rebuild: Literal["never", "auto", "always"] = Field(
        "auto", description="engines that are missing or stale: never: an error; auto: build them; always: build all"
    )

    preset: str = Field("exact", description="sampler preset")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps of each pass; None: of the preset")
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="classifier-free guidance; None: of the preset, then of the model"
    )
    style_mix: str | dict[str, float] = Field("code", description="name, YAML file, or weight of each style")
    size: Size | None = Field(None, description="height and width of the images [pixels]; None: the model's own")
    label_scale: float | None = Field(
        None, gt=0, le=16, description="factor on the label maps before cropping; None: the one the model was made for"
    )

    rare: bool = Field(True, description="rare class sampling of the crops; False: any pixel is as likely")
    min_pixels: int | None = Field(
        None, ge=0, description="a file is drawn for a class it has more pixels of; None: 3000 at 512x512, by area"
    )
    min_share: float = Field(0.01, ge=0, lt=1, description="share of the crop the drawn class must exceed")
    attempts: int = Field(10, ge=1, le=10_000, description="crops tried in one file for that share")
    temperature: float = Field(0.01, gt=0, description="temperature of the class probabilities")
    balance_classes: bool = Field(
        False, description="class probabilities follow the scenes made so far instead of the label maps"
    )
    balance_styles: bool = Field(False, description="each class, not only the run, has the styles in the mix's shares")

    judge: Path | None = Field(
        None, description="ONNX segmenter that scores each image as it is made and writes second labels"
    )
    min_agreement: float | None = Field(
        None, ge=0, le=1, description="share of the pixels the judge must call as labelled, else the image is redrawn"
    )
    redraws: int = Field(3, ge=0, le=100, description="times an image is redrawn at most, each with the next seed")
    boundary: int = Field(
        0, ge=0, le=MAX_BOUNDARY, description="band ignored in second labels beside other classes [pixels]"
    )
    duplicates: int | None = Field(
        None, ge=0, le=32, description="bits in which near-duplicates differ at most; second labels leave them out"
    )

    batch: int = Field(8, ge=1, le=4096, description="denoiser samples in one network call")
    workers: Workers = Field(
        0, description="processes that make images and read label maps; 0: this one alone; auto: by the machine"
    )
    ray: str | None = Field(
        None, description="Ray cluster whose actors make the images: an address, auto for a running one, or local"
    )
    shard: Shard | None = Field(
        None, description="I/N: the I-th of N parts of the images, numbered from 1; the settings state the whole run"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="everything random follows from it")

    source_digest: str | None = Field(
        None, description="digest of the label maps; written by the run, and where given the run insists on it"
    )
    model_digest: str | None = Field(
        None, description="digest of the weights; written by the run, and where given the run insists on it"
    )

    judge_digest: str | None = Field(
        None, description="digest of the judge; written by the run, and where given the run insists on it"
    )

    @property
    def readers(self) -> int:
        """Processes that read or draw the label maps."""
        return self.workers if isinstance(self.workers, int) else len(os.sched_getaffinity(0))

    @model_validator(mode="after")
    def _one_engine(self) -> "GenerateConfig":
        given = [name for name in ("engine", "dtype") if name in self.model_fields_set]
        if isinstance(self.engine_recipe, Path) and given:
            raise UsageError(
                f"--engine-recipe and --{given[0]} are given, allowed is one of the two",
                f"drop --{given[0]}, or change it in {self.engine_recipe}",
            )
        return self

    @model_validator(mode="after")
    def _judged(self) -> "GenerateConfig":
        if self.min_agreement is not None and self.judge is None:
            raise UsageError("--min-agreement needs a judge", "add --judge FILE.onnx")
        if self.balance_classes and not self.rare:
            raise UsageError("--balance-classes and --no-rare are given, allowed is one", "drop one of the two")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "GenerateConfig":
        given = [name for name in ("labels", "dataset", "world") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                f"{' and '.join(f'--{name}' for name in given)} are given, allowed is one source of label maps",
                f"keep --{given[0]} and drop the rest",
            )
        return self
