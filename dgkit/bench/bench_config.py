"""Settings of ``dgkit bench``, and those of a single task of a worker process."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dgkit.config import Config, Metavar

# Subjects that are one network, and its name in dgkit.engines.spec.
NETWORK_SUBJECTS = {
    "denoiser": "denoiser",
    "vae": "vae_decoder",
    "condition": "condition",
    "vae_encoder": "vae_encoder",
    "text_encoder": "text_encoder",
}
IMAGE_SUBJECTS = ("sampler", "generate")
EVAL = "eval"
SUBJECTS = (*NETWORK_SUBJECTS, *IMAGE_SUBJECTS, EVAL)
OFFICIAL = "official"  # value of the column engine: the published schedule, run as published
OFFICIAL_SUBJECTS = ("denoiser", *IMAGE_SUBJECTS)  # what can be compared with the published schedule
CEILING = "ceiling"  # value of the column subject: peak rates of the device
CEILINGS = ("matmul", "conv3x3", "copy")

Kind = Literal["environment", "build", "reference", "measure", "official", "ceiling"]


def _split(value: Any) -> Any:
    """Return the items of ``"torch,ort"``; anything else unchanged."""
    return value.split(",") if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class BenchConfig(Config):
    """Settings of one run: every subject on every engine in every dtype at every batch."""

    subjects: tuple[str, ...] = Field(("denoiser",), min_length=1, description="What to measure")
    engines: Annotated[Names, Metavar("E,E")] = Field(
        ("torch",), min_length=1, description="Backends: torch, compile, ort, openvino, trt; separated by commas"
    )
    dtypes: Annotated[Names, Metavar("D,D")] = Field(
        ("fp32",), min_length=1, description="Number formats: fp32, bf16, fp16, int8, fp8; separated by commas"
    )
    batches: Annotated[tuple[int, ...], BeforeValidator(_split), Metavar("B,B")] = Field(
        (2,), min_length=1, description="Samples per network call; separated by commas"
    )
    model: Annotated[str | None, Metavar("M")] = Field(
        None, description="Diffusers model folder or hub id; default: embedded model"
    )
    lora: Annotated[tuple[str, ...], Metavar("LORA[:SCALE]")] = Field(
        (), description="LoRA file or hub id to fuse into the prior; repeatable"
    )
    device: Annotated[str, Metavar("D")] = Field("auto", description="auto (CUDA if available), cpu, cuda or cuda:N")
    against: Annotated[Literal["official"] | None, Metavar("official")] = Field(
        None, description="Compare with the published schedule: official"
    )

    preset: Annotated[str, Metavar("P")] = Field("exact", description="Sampler preset of sampler and generate")
    steps: Annotated[int | None, Metavar("N")] = Field(
        None, ge=1, le=1000, description="Denoising steps per pass; default: the preset's"
    )
    count: Annotated[int, Metavar("N")] = Field(1, ge=1, le=1024, description="Images per sampler call")

    segmenter: Annotated[Path | None, Metavar("FILE")] = Field(None, description="Segmenter of eval, as for dgkit eval")
    on: Annotated[str | None, Metavar("NAME=DIR")] = Field(None, description="Labelled data set of eval")
    protocol: Annotated[str, Metavar("P")] = Field(
        "dginstyle", description="Protocol of eval: dginstyle, hrda, half or whole"
    )

    repeats: Annotated[int, Metavar("N")] = Field(50, ge=3, le=100_000, description="Maximum number of timed calls")
    seconds: Annotated[float, Metavar("S")] = Field(
        20.0, gt=0, description="Seconds for all timed calls; at least three are made"
    )
    official_seconds: Annotated[float, Metavar("S")] = Field(
        600.0, ge=0, description="Extrapolate published-schedule images slower than this, in seconds"
    )
    together: bool = Field(False, description="Run all batches in one process: faster, more memory")
    timeout: Annotated[float, Metavar("S")] = Field(3600.0, gt=0, description="Time limit of each process in seconds")
    threads: Annotated[int | None, Metavar("N")] = Field(
        None, ge=1, le=1024, description="CPU threads; default: torch's choice"
    )
    rebuild: Annotated[Literal["never", "auto", "always"], Metavar("POLICY")] = Field(
        "auto", description="Engine builds: never, auto (missing or stale) or always"
    )
    cuda_graph: bool = Field(True, description="Use CUDA graphs where the engine offers them")
    ceilings: bool = Field(True, description="Measure the device's limits: matmul, convolution, copy")
    ceiling_edge: int | None = Field(
        None, ge=8, le=65536, description="Edge of the square matrices of ceilings; default: by device"
    )

    parity: bool = Field(True, description="Compare with torch in fp32 and count operations")
    references: Annotated[Path | None, Metavar("DIR")] = Field(
        None, description="Folder that keeps fp32 outputs for other runs"
    )
    csv: Annotated[Path | None, Metavar("FILE")] = Field(None, description="CSV file to append the rows to")
    plot: Annotated[Path | None, Metavar("FILE")] = Field(None, description="SVG file for a bar chart")
    note: Annotated[str, Metavar("TEXT")] = Field("", description="Remark in every row of the CSV file")


class BenchTask(Config):
    """One task of a worker process: a configuration, as JSON on its standard input.

    Several configurations if there are several ``batches``; a task of kind ``ceiling`` measures all :data:`CEILINGS` of
    a dtype.
    """

    kind: Kind
    subject: str = ""
    """A network of :data:`dgkit.engines.spec.NETWORKS`, ``sampler``, ``generate`` or ``eval``."""
    engine: str = "torch"
    dtype: str = "fp32"
    batches: tuple[int, ...] = (1,)
    """Samples per call; measured one after the other in the same process."""
    largest: int = 1
    """Largest batch of the run."""
    model: str | None = None
    lora: tuple[str, ...] = ()
    device: str = "cpu"
    preset: str = "exact"
    steps: int | None = None
    count: int = 1
    segmenter: Path | None = None
    on: str | None = None
    protocol: str = "dginstyle"
    repeats: int = 50
    seconds: float = 20.0
    official_seconds: float = 600.0
    threads: int | None = None
    rebuild: Literal["never", "auto", "always"] = "auto"
    cuda_graph: bool = True
    edge: int | None = None
    references: Path | None = None
    """Folder of the outputs of torch in fp32, which ``reference`` writes and the other kinds read."""
