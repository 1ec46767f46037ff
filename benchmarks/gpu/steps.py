"""The steps of check.py: their commands, their order, and why one cannot run on a machine."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LIMIT = "DGKIT_GPU_CHECK_SECONDS"  # environment variable with the time limit of a step
DGKIT = (sys.executable, "-m", "dgkit")
NETWORKS = {"text_encoder": "fp32", "condition": "", "denoiser": "", "vae_encoder": "fp32", "vae_decoder": ""}
MEASURE = (sys.executable, str(Path(__file__).with_name("measure.py")))
BUILD = (*DGKIT, "build-engines")
CHECK = (*DGKIT, "engines", "check", "torch")
TESTS = Path(__file__).resolve().parents[2] / "tests"
# Only the files with such tests, since collecting all tests takes longer than running these. Warnings are ignored: the
# machine may have other versions of packages than those that dgkit is developed with. Two threads suffice: references
# of the tests run on the CPU and are so small that more threads would mostly wait, especially during a build.
PYTEST = (
    *(
        "env",
        "OMP_NUM_THREADS=2",
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-v",
        "--durations=8",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
    ),
    *sorted(str(path) for path in TESTS.rglob("test_*.py") if "pytest.mark.gpu" in path.read_text(encoding="utf-8")),
)
NO_CUDA = "needs a CUDA device, and this machine has none"
NO_CARD = "needs the CUDA device, which a dry run does not use"
CARD = "name,driver_version,memory.total,memory.used,pstate,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"

QUERY = ("nvidia-smi", f"--query-gpu={CARD}", "--format=csv")


@dataclass(frozen=True)
class Step:
    """One process. ``seconds`` is its expected time; ``after`` names the steps whose files it uses.

    ``lacks`` says why it cannot run on this machine. ``background``: it runs concurrently with the following steps,
    until one needs it. ``rows`` is the CSV file that the command writes.
    """

    name: str
    command: Sequence[str | Path]
    seconds: float
    lacks: str = ""
    background: bool = False
    after: tuple[str, ...] = ()
    rows: Path | None = None


@dataclass(frozen=True)
class Machine:
    """The findings of ``dgkit doctor`` that the steps depend on."""

    cuda: bool
    tensorrt: bool
    tensorrt_rtx: bool
    onnxruntime: str
    """Its version and providers, or why it cannot be used."""

    @classmethod
    def read(cls, doctor: dict[str, Any]) -> "Machine":
        """Return the machine described by doctor's JSON; empty JSON (doctor failed) gives one with all libraries."""
        if not doctor:
            return cls(True, True, True, "CUDA")
        details = {item["package"]: item["detail"] for item in doctor["libraries"]}
        installed = [details[name] != "not installed" for name in ("tensorrt", "tensorrt-rtx")]
        cuda = any(item["usable"] and item["name"].startswith("cuda") for item in doctor["devices"])
        return cls(cuda, installed[0], installed[1], details["onnxruntime"])


@dataclass(frozen=True)
class Size:
    """Sizes of the steps.

    ``name`` is the value of ``--size`` of measure.py. Engines are compared in dtype ``fast``, ONNX Runtime in dtype
    ``ort``, at ``batches`` of the denoiser; ``images`` are further options for whole images; ``seconds`` limits the
    timed calls of a configuration. ``patience`` multiplies the expected time of each step. ``minutes`` is the time
    limit of all steps.
    """

    name: str
    device: str
    model: str
    small: tuple[str, ...]
    fast: str
    ort: str
    batches: str
    images: tuple[str, ...]
    seconds: float
    patience: float = 1.0
    minutes: float = 9.5


# The networks of Stable Diffusion 1.5 on a GPU; the smallest ones in a dry run, so that it takes minutes.
FULL = Size("full", "cuda", "sd15", (), "fp16", "fp16", "1,2,8,32,64", ("--batches", "64"), 2.0)
DRY = Size(
    "dry", "cpu", "tiny", ("--random", "tiny"), "bf16", "fp32", "1,2", ("--batches", "2", "--steps", "1"), 0.2, 6.0
)


# Does it work? Networks and images of the embedded model on TensorRT; in a dry run those of a tiny one on a CPU.
QUICK = Size("quick", "cuda", "", (), "fp16", "fp16", "", (), 0.0, minutes=3)
QUICK_DRY = Size("quick-dry", "cpu", "", ("--random", "tiny"), "fp32", "fp32", "", (), 0.0, 6.0, minutes=18)
SIZES = {"quick": (QUICK, QUICK_DRY), "speed": (FULL, DRY)}


class QuickPlan:
    """The steps of the short check: each network is built, run and compared with PyTorch; then ten images."""

    def __init__(self, size: Size, machine: Machine, work: Path, parts: str | None = None) -> None:
        del parts  # for the other plan
        self.size, self.work, self.engine = size, work, "trt" if size.device == "cuda" else "ort"
        self.cuda = NO_CUDA if size.device == "cuda" and not machine.cuda else ""
        needed = {"trt": "tensorrt or tensorrt-rtx", "ort": "onnxruntime"}[self.engine]
        present = machine.tensorrt or machine.tensorrt_rtx if self.engine == "trt" else "CPU" in machine.onnxruntime
        self.lacks = self.cuda or ("" if present else f"needs {needed}")

    def steps(self) -> list[Step]:
        """Return all steps after ``doctor``. A failed network does not stop the others."""
        scenes = self.work / "scenes"
        model = ("--model", f"random:{self.size.small[1]}") if self.size.small else ()
        images = (*DGKIT, "generate", scenes, "--count", "10", "--style-mix", "uniform", "--engine", self.engine,
                  "--dtype", self.size.fast, "--device", self.size.device, *model)  # fmt: skip
        no_card = NO_CARD if self.size.device == "cpu" else self.cuda
        found = [
            Step("card", QUERY, 5, no_card),
            *(self._network(name, dtype or self.size.fast) for name, dtype in NETWORKS.items()),
            Step("images", images, 40, self.lacks),
            Step("verify", [*DGKIT, "verify", scenes], 10, self.lacks, after=("images",)),
        ]
        return [replace(step, seconds=step.seconds * self.size.patience) for step in found]

    def _network(self, name: str, dtype: str) -> Step:
        """Return the step that builds a network, runs it, and compares each output with PyTorch in fp32."""
        command = [*CHECK, f"{self.engine}:{dtype}", "--networks", name, "--device", self.size.device, *self.size.small]
        return Step(f"net_{name}", command, 25, self.lacks)


class Plan:
    """The steps for a machine; files go to ``work``. ``parts`` restricts the step ``measure``."""

    def __init__(self, size: Size, machine: Machine, work: Path, parts: str | None = None) -> None:
        self.size, self.machine, self.work, self.parts = size, machine, work, parts or ""
        self.on = ("--device", size.device)
        self.cuda = "" if machine.cuda else NO_CUDA
        self.here = self.cuda if size.device == "cuda" else ""
        if machine.cuda and size.device == "cpu":
            self.cuda = NO_CARD
        provider = "CUDA" if size.device == "cuda" else "CPU"
        self.ort = "" if provider in machine.onnxruntime else f"needs onnxruntime with its {provider} provider"
        self.trt = "" if machine.tensorrt or machine.tensorrt_rtx else "needs tensorrt or tensorrt-rtx"

    def steps(self) -> list[Step]:
        """Return all steps after ``doctor``, the most valuable first.

        PyTorch is measured while nothing else runs. Builds run later, concurrently with steps that time nothing.
        """
        compiled = (*BUILD, "--engine", "compile", "--dtype", self.size.fast, *self.on)
        large = ("--random", self.size.model, "--networks", "denoiser")
        no_trt = self.trt or self.cuda
        trial, build = self._tensorrt()
        steps = [
            Step("card", QUERY, 5, self.cuda),
            trial,
            self._measure("measure", 285, self.parts),
            build,
            Step("build_small", [*compiled, *self.size.small, *large[2:]], 165, self.here, background=True),
            Step("build_large", [*compiled, *large], 225, self.here, background=True),
            Step("tests_compile", [*PYTEST, "-k", "compile"], 155, self.cuda, background=True),
            Step("tests", [*PYTEST, "-k", "not compile"], 45, self.cuda),
            self._check("parity", 35, "torch"),
            self._denoiser("trt", 60, "trt", lacks=no_trt, after=("trt_build",)),
            self._measure("compile", 50, "compile", after=("build_large",)),
            self._measure("compile_small", 20, "compile_small", after=("build_small",)),
            self._images("generate_trt", 90, "trt", lacks=no_trt, after=("trt_trial",)),
            self._check("parity_trt", 40, "trt", lacks=no_trt, after=("trt_trial",)),
            self._denoiser("ort", 120, "ort", lacks=self.ort, dtypes=self.size.ort),
        ]
        return [replace(step, seconds=step.seconds * self.size.patience) for step in steps]

    def _tensorrt(self) -> tuple[Step, Step]:
        """Return a trial at the smallest size, which fails in seconds on an unsupported card, and a background build.

        TensorRT-RTX builds on the CPU. TensorRT times its kernels on the GPU, so only its graph is exported.
        """
        half, tiny = ("--networks", "denoiser", "--dtype", "fp16"), ("--random", "tiny")
        large = ("--random", self.size.model, *half)
        trial = self._bench("trt_trial", 30, "denoiser", "trt", *tiny, "--batches", "2", dtypes="fp16", lacks=self.trt)
        if self.cuda:
            trial = Step("trt_trial", [*BUILD, "--engine", "trt", *tiny, *half], 30, self.trt)
        build: Sequence[str | Path] = [*BUILD, "--engine", "trt", *large, *self.on]
        if self.machine.tensorrt:
            build = [*DGKIT, "export", self.work / "onnx", *large]
        after = ("trt_trial",)
        return trial, Step("trt_build", build, 120, self.trt or self.cuda, background=True, after=after)

    def _measure(self, name: str, seconds: float, parts: str = "", after: tuple[str, ...] = ()) -> Step:
        """Return a step that runs parts of measure.py, by default all that need no prebuilt engine."""
        rows = self.work / f"{name}.csv"
        files = ("--csv", rows, "--references", self.work / "references")
        command = [*MEASURE, "--size", self.size.name, *files, *(("--parts", parts) if parts else ())]
        return Step(name, command, seconds, self.here, after=after, rows=rows)

    def _check(self, name: str, seconds: float, engine: str, lacks: str = "", after: tuple[str, ...] = ()) -> Step:
        # The other networks always run in fp32, so there are no engines of them in this dtype.
        networks = () if engine == "torch" else ("--networks", "condition,denoiser,vae_decoder")
        command = [*CHECK, f"{engine}:{self.size.fast}", *networks, *self.on]
        return Step(name, command, seconds, lacks or self.here, after=after)

    def _denoiser(self, name: str, seconds: float, engine: str, **options: Any) -> Step:
        model = ("--random", self.size.model, "--batches", self.size.batches)
        return self._bench(name, seconds, "denoiser", engine, *model, **options)

    def _images(self, name: str, seconds: float, engine: str, **options: Any) -> Step:
        return self._bench(name, seconds, "generate", engine, *self.size.images, **options)

    def _bench(
        self, name: str, seconds: float, subject: str, engines: str, *more: str, lacks: str = "", dtypes: str = "",
        after: tuple[str, ...] = (),
    ) -> Step:  # fmt: skip
        """Return a step that runs ``dgkit bench`` with all batches in one process."""
        rows = self.work / f"{name}.csv"
        shared = ("--together", "--references", str(self.work / "references"), "--csv", str(rows))
        limits = ("--seconds", f"{self.size.seconds:g}", "--timeout", f"{120 * self.size.patience:g}")
        what = (subject, "--engines", engines, "--dtypes", dtypes or self.size.fast, *self.on)
        command = [*DGKIT, "bench", *what, *limits, *shared, "--no-ceilings", *more]
        return Step(name, command, seconds, lacks or self.here, after=after, rows=rows)
