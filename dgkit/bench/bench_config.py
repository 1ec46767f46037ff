"""Settings of ``dgkit bench``, and the one configuration that a worker process is given."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from dgkit.config import Config

# What can be measured, and the network of dgkit.engines.spec behind it where it is a single one.
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
OFFICIAL = "official"  # stands in the column of engines for the published schedule, run as published
OFFICIAL_SUBJECTS = ("denoiser", *IMAGE_SUBJECTS)  # what the published schedule has a figure for
CEILING = "ceiling"  # stands in the column of subjects for what the device can do at most
CEILINGS = ("matmul", "conv3x3", "copy")

Kind = Literal["environment", "build", "reference", "measure", "official", "ceiling"]


class BenchConfig(Config):
    """One run of ``dgkit bench``: every subject on every engine in every dtype at every batch."""

    subjects: tuple[str, ...] = Field(("denoiser",), min_length=1, description="what to measure")
    engines: tuple[str, ...] = Field(("torch",), min_length=1, description="engines")
    dtypes: tuple[str, ...] = Field(("fp32",), min_length=1, description="number formats")
    batches: tuple[int, ...] = Field((2,), min_length=1, description="samples of a call")
    model: str | None = Field(None, description="model folder, hub id or random:NAME; None: the embedded model")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto: cuda where there is one")
    against: Literal["official"] | None = Field(None, description="the published schedule, on the same weights")

    preset: str = Field("exact", description="sampler preset")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps of each pass; None: of the preset")
    count: int = Field(1, ge=1, le=1024, description="images of one sampler call")

    segmenter: Path | None = Field(None, description="what eval evaluates")
    on: str | None = Field(None, description="data set of eval, as NAME=DIR")
    protocol: str = Field("dginstyle", description="protocol of eval")

    repeats: int = Field(50, ge=3, le=100_000, description="timed calls at most")
    seconds: float = Field(20.0, gt=0, description="bound on all timed calls together; at least 3 are made")
    official_seconds: float = Field(600.0, ge=0, description="above, the published schedule is extrapolated")
    together: bool = Field(False, description="all batches of an engine and dtype in one process, rising")
    timeout: float = Field(3600.0, gt=0, description="bound on each process [s]")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; None: as torch chooses")
    rebuild: Literal["never", "auto", "always"] = Field("auto", description="what to do where an engine is missing")
    cuda_graph: bool = Field(True, description="CUDA graphs where the engine offers them")
    ceilings: bool = Field(True, description="measure matmul, convolution and copy in the same run")
    ceiling_edge: int | None = Field(None, ge=8, le=65536, description="edge of the square matrices; None: by device")

    parity: bool = Field(True, description="compare outputs with those of torch in fp32, and count operations")
    references: Path | None = Field(None, description="folder that keeps the outputs of torch in fp32 for other runs")
    csv: Path | None = Field(None, description="CSV file that rows are added to")
    plot: Path | None = Field(None, description="SVG file")
    note: str = Field("", description="remark that is kept in every row")


class Task(Config):
    """What one worker process does: one configuration of one run, as JSON on its standard input.

    Several configurations where there are several ``batches``, and all :data:`CEILINGS` of a dtype.
    """

    kind: Kind
    subject: str = ""
    """A network of :data:`dgkit.engines.spec.NETWORKS`, ``sampler``, ``generate`` or ``eval``."""
    engine: str = "torch"
    dtype: str = "fp32"
    batches: tuple[int, ...] = (1,)
    """Samples of a call; one process takes several of them one after the other."""
    largest: int = 1
    """The largest batch of the run."""
    model: str | None = None
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
    """Folder of the outputs of torch in fp32: written by ``reference`` where they are not there, read by the others."""
