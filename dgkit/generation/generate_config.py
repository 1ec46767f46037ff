"""Settings of ``dgkit generate``. A default is stated here and nowhere else."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dgkit.config import Config, Metavar, Repeated
from dgkit.errors import UsageError
from dgkit.generation.filter_config import MAX_BOUNDARY
from dgkit.resources import usable_cores
from dgkit.styles import parse_shares, parse_styles
from dgkit.taxonomy_setting import TaxonomyChoice
from dgkit.wording import TEMPLATE, check_negative, check_template, parse_class_words

DEFAULT_WORLD = 64  # scenes of the procedural city if no source of label maps is given
DEFAULT_PRESET = "fast"
DEFAULT_BATCH = 8
MAX_SHARDS = 100_000
MAX_WORKERS = 1024


def parse_size(value: Any) -> Any:
    """Return (height, width) of ``512``, ``"512"``, ``"384x768"`` (height x width) or ``[384, 768]``."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX]\s*(\d+)\s*)?", value)
        if match is None:
            raise ValueError("expected S or HEIGHTxWIDTH in pixels, such as 512 or 384x768")
        return int(match[1]), int(match[2] or match[1])
    return (value, value) if isinstance(value, int) else value


def _number_or_auto(least: int, most: int) -> BeforeValidator:
    """Return a validator of the number or ``"auto"`` that ``4``, ``"4"`` or ``"auto"`` stands for."""

    def parse(value: Any) -> Any:
        number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value
        if number != "auto" and not (type(number) is int and least <= number <= most):
            raise ValueError(f"expected a number from {least} to {most}, or auto")
        return number

    return BeforeValidator(parse)


def _parse_shard(value: Any) -> Any:
    """Return (2, 4) for ``"2/4"`` or ``[2, 4]``, the second of four parts."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", value)
        value = (int(match[1]), int(match[2])) if match else None
    shard = tuple(value) if isinstance(value, tuple | list) and len(value) == 2 else (0, 0)
    if not all(isinstance(number, int) for number in shard) or not 1 <= shard[0] <= shard[1] <= MAX_SHARDS:
        raise ValueError(f"expected I/N with 1 <= I <= N <= {MAX_SHARDS}, such as 2/4")
    return shard


def _current_mix(value: Any) -> Any:
    """Return the present name of a style mix, so that folders of earlier versions have the same settings, or shares."""
    from dgkit.data.style_mixes import EARLIER_NAMES  # not for --help, which needs no numpy

    if isinstance(value, Mapping):
        return parse_shares(value)
    return EARLIER_NAMES.get(value, value) if isinstance(value, str) else value


# Settings of the choice of crops and styles, which a table of jobs makes itself.
_SAMPLING = ("rare", "min_pixels", "min_share", "attempts", "temperature", "balance_classes", "balance_styles", "split")


Pixels = Annotated[int, Field(ge=1, le=16384)]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(parse_size)]
Shard = Annotated[tuple[int, int], BeforeValidator(_parse_shard)]
Workers = Annotated[int | Literal["auto"], _number_or_auto(0, MAX_WORKERS)]
Batch = Annotated[int | Literal["auto"], _number_or_auto(1, 4096)]


class GenerateConfig(Config):
    """One run: label maps, model, number of images, and how they are sampled."""

    labels: Annotated[Path | None, Metavar("DIR")] = Field(
        None, description="Folder of label maps, or a pattern such as 'b/**/*.png'"
    )
    dataset: Annotated[str | None, Metavar("NAME=DIR")] = Field(
        None, description="Labelled data set, such as gta=DIR or cityscapes=DIR"
    )
    jobs: Annotated[Path | None, Metavar("FILE.csv")] = Field(
        None, description="One image per row: label, prompt, style, seed"
    )
    arrays: int | None = Field(None, description="Number of label maps passed as arrays, in Python only")
    world: Annotated[int | None, Metavar("N")] = Field(
        None, ge=1, le=1_000_000, description="Scenes of the procedural city, the default source"
    )
    encoding: Annotated[str | None, Metavar("E")] = Field(
        None, description="Ids or colours of the maps, such as cityscapes_ids"
    )
    split: Annotated[str | None, Metavar("S")] = Field(
        None, description="Split of the data set: train, val, test or all"
    )
    taxonomy: Annotated[TaxonomyChoice, Metavar("T")] = Field(
        None, description="Required classes: camvid11 or FILE.yaml; default: the model's"
    )
    count: Annotated[int, Metavar("N")] = Field(16, ge=1, le=10_000_000, description="Total number of images in OUT")

    model: Annotated[str | None, Metavar("M")] = Field(
        None, description="Diffusers model folder or hub id; default: embedded model"
    )
    controlnet: Annotated[str | None, Metavar("C")] = Field(
        None, description="ControlNet folder or hub id; default: the model's own"
    )
    lora: Annotated[tuple[str, ...], Metavar("LORA[:SCALE]")] = Field(
        (), description="LoRA file or hub id to fuse into the prior; repeatable"
    )
    engine: Annotated[str, Metavar("ENGINE")] = Field(
        "auto", description="auto (by machine and count), torch, compile, ort, openvino or trt"
    )
    dtype: Annotated[Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8"], Metavar("D")] = Field(
        "auto", description="auto (the fastest here), fp32, bf16, fp16, int8 or fp8"
    )
    device: Annotated[str, Metavar("D")] = Field("auto", description="auto (CUDA if available), cpu, cuda or cuda:N")
    engine_recipe: Annotated[Path | dict[str, Any] | None, Metavar("FILE")] = Field(
        None, description="build-engines recipe; replaces --engine and --dtype"
    )
    cuda_graph: bool = Field(True, description="Replay the denoiser as a CUDA graph where possible")
    rebuild: Annotated[Literal["never", "auto", "always"], Metavar("POLICY")] = Field(
        "auto", description="Engine builds: never, auto (missing or stale) or always"
    )

    preset: Annotated[str | None, Metavar("P")] = Field(
        None, description="A name of dgkit list presets; default: the model's, else fast"
    )
    steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps per pass; default: the preset's")
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="Guidance scale; default: the preset's, else the model's"
    )
    spacing: Annotated[str | None, Metavar("S")] = Field(
        None, description="Timestep spacing: leading, trailing or linspace; default: the model's"
    )
    style_mix: Annotated[str | dict[str, Any], Metavar("MIX"), BeforeValidator(_current_mix)] = Field(
        "official", description="official (half without style), published, uniform, driving, one style, or YAML file"
    )
    styles: Annotated[
        dict[str, dict[str, Any]], Metavar("NAME=CLAUSE"), Repeated("style"), BeforeValidator(parse_styles)
    ] = Field({}, description="Style of your own, such as dusk='at dusk'; joins --style-mix; repeatable")
    prompt_template: Annotated[str, Metavar("TEXT"), BeforeValidator(check_template)] = Field(
        TEMPLATE, description="Wording of prompts, with {style} and {classes}"
    )
    class_words: Annotated[
        dict[str, str], Metavar("CLASS=WORDS"), Repeated("class-word"), BeforeValidator(parse_class_words)
    ] = Field({}, description="Other words for a class in prompts, or off; repeatable")
    class_limit: Annotated[int | None, Metavar("N")] = Field(
        None, ge=0, description="Classes that a prompt names at most, largest first; default: all"
    )
    negative_prompt: Annotated[str, Metavar("TEXT"), BeforeValidator(check_negative)] = Field(
        "", description="What images are guided away from; default: nothing"
    )
    size: Annotated[Size | None, Metavar("S")] = Field(
        None, description="Pixels: S or HEIGHTxWIDTH; default: the model's own"
    )
    label_scale: Annotated[float | None, Metavar("F")] = Field(
        None, gt=0, le=16, description="Scale factor of label maps; default: the model's own"
    )

    rare: bool = Field(True, description="Rare class sampling of crops; off: uniform")
    min_pixels: int | None = Field(
        None, ge=0, description="Pixels of a class a file must exceed; default: 3000 at 512x512"
    )
    min_share: float = Field(0.01, ge=0, lt=1, description="Share of the crop the sampled class must exceed")
    attempts: int = Field(10, ge=1, le=10_000, description="Crops tried per file to reach min_share")
    temperature: float = Field(0.01, gt=0, description="Temperature of the class probabilities")
    balance_classes: bool = Field(False, description="Sample classes that are rare in the scenes so far")
    balance_styles: bool = Field(False, description="Spread the styles evenly over the scenes of each class")

    judge: Annotated[Path | None, Metavar("ONNX")] = Field(
        None, description="Segmenter that scores each image and filters its labels"
    )
    min_agreement: Annotated[float | None, Metavar("SHARE")] = Field(
        None, ge=0, le=1, description="Redraw images whose label agreement is below this, 0 to 1"
    )
    redraws: Annotated[int, Metavar("N")] = Field(
        3, ge=0, le=100, description="Maximum number of redraws; the best image is kept"
    )
    boundary: Annotated[int, Metavar("PX")] = Field(
        0, ge=0, le=MAX_BOUNDARY, description="Ignored band along class boundaries in filtered labels, 0 to 8"
    )
    duplicates: Annotated[int | None, Metavar("BITS")] = Field(
        None, ge=0, le=32, description="Drop near-duplicates from filtered labels; see dgkit filter"
    )

    batch: Annotated[Batch, Metavar("B")] = Field(
        "auto", description="Denoiser samples per call; memory use grows with it"
    )
    workers: Annotated[Workers, Metavar("N")] = Field(
        "auto", description="Worker processes; 0: none; auto: by GPUs and cores"
    )
    ray: Annotated[str | None, Metavar("ADDRESS")] = Field(
        None, description="Run on a Ray cluster: ADDRESS, auto or local"
    )
    shard: Annotated[Shard | None, Metavar("I/N")] = Field(None, description="Make only part I of N, for dgkit merge")
    seed: Annotated[int, Metavar("S")] = Field(0, ge=0, lt=2**63, description="Random seed of the run")

    source_digest: str | None = Field(None, description="Digest of the label maps; if given, they must match it")
    model_digest: str | None = Field(None, description="Digest of the weights; if given, they must match it")

    lora_digest: str | None = Field(None, description="Digests of the LoRA files; if given, they must match them")
    jobs_digest: str | None = Field(None, description="Digest of the table of jobs; if given, it must match it")
    judge_digest: str | None = Field(None, description="Digest of the judge; if given, it must match it")

    @property
    def readers(self) -> int:
        """Number of processes that read or render the label maps; none unless workers are requested."""
        if isinstance(self.workers, int):
            return self.workers
        return len(usable_cores()) if "workers" in self.model_fields_set else 0

    @property
    def samples(self) -> int:
        """Denoiser samples per call; the usual number until a batch is chosen."""
        return self.batch if isinstance(self.batch, int) else DEFAULT_BATCH

    @property
    def shares(self) -> str | dict[str, Any]:
        """The style mix that ``styles`` join: the stated one, else none if there are own styles."""
        return {} if self.styles and "style_mix" not in self.model_fields_set else self.style_mix

    @model_validator(mode="after")
    def _one_engine(self) -> "GenerateConfig":
        given = [name for name in ("engine", "dtype") if name in self.model_fields_set]
        if isinstance(self.engine_recipe, Path) and given:
            raise UsageError(
                f"--engine-recipe and --{given[0]} cannot be combined",
                f"drop --{given[0]}, or set {given[0]} in {self.engine_recipe}",
            )
        return self

    @model_validator(mode="after")
    def _judged(self) -> "GenerateConfig":
        if self.min_agreement is not None and self.judge is None:
            raise UsageError("--min-agreement needs a judge", "add --judge FILE.onnx")
        if self.balance_classes and not self.rare:
            raise UsageError("--balance-classes and --no-rare cannot be combined", "drop one of the two")
        return self

    @model_validator(mode="after")
    def _exact_jobs(self) -> "GenerateConfig":
        defaults = {name: GenerateConfig.model_fields[name].default for name in _SAMPLING}
        changed = [name for name, default in defaults.items() if getattr(self, name) != default]
        if self.jobs is not None and changed:
            flag = changed[0].replace("_", "-")
            raise UsageError(
                f"--jobs and --{flag} cannot be combined: each row is one image, no class is sampled", f"drop --{flag}"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "GenerateConfig":
        sources = {
            "jobs": "--jobs",
            "labels": "--labels",
            "dataset": "--dataset",
            "arrays": "labels=[array, ...]",
            "world": "--world",
        }
        given = [text for name, text in sources.items() if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                f"{' and '.join(given)} cannot be combined: label maps have one source",
                f"keep {given[0]} and drop the rest",
            )
        return self
