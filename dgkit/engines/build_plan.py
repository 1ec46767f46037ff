"""The engines of a model before and after a build: which exist, which are missing and why, which were built."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from dgkit.engines.onnx_export import graph_key
from dgkit.engines.runner import DTYPES, Runner
from dgkit.engines.sidecar import EngineSideCar, read_sidecar
from dgkit.engines.store import REBUILD_REQUESTED, Engine
from dgkit.errors import EngineError

State = Literal["ready", "built", "missing", "failed", "none needed"]


@dataclass(frozen=True)
class EngineStatus:
    """The engines of one network.

    ``reason`` says why an engine is missing, was built or failed; empty if it was ready. ``engines`` are the entries of
    the store, ``seconds`` the duration of the build now. ``error`` is the largest relative L2 error of any output
    against PyTorch, recorded at build time (None: not known). ``error_of`` says what was measured: the ``engine``, or
    the ``graph`` that it was built from.
    """

    network: str
    engine: str
    dtype: str
    device: str
    state: State
    reason: str = ""
    hint: str = ""
    seconds: float = 0.0
    engines: tuple[Engine, ...] = ()
    error: float | None = None
    error_of: str = ""

    @property
    def size(self) -> int:
        """Bytes of all engine files."""
        return sum(engine.sidecar.size for engine in self.engines)


def inspect(name: str, engine: str, runner: Runner) -> EngineStatus:
    """Return the status of the engines that ``runner`` needs, without building any.

    Raises MissingDependency or UsageError if the backend cannot run on this machine at all.
    """
    facts = (name, engine, runner.dtype_name, str(runner.device))
    policy, runner.rebuild = runner.rebuild, "never"
    try:
        found = tuple(runner.prepare())
    except EngineError as error:
        return EngineStatus(*facts, "missing", error.message, error.hint)
    finally:
        runner.rebuild = policy
    return EngineStatus(*facts, "ready" if found else "none needed", engines=found, **_error(found, runner))


def build(name: str, engine: str, runner: Runner) -> EngineStatus:
    """Build the engines that ``runner`` needs, as its ``rebuild`` policy says, and return their status.

    A failed build is a status with the reason. Raises MissingDependency, OutputError and UsageError.
    """
    before = inspect(name, engine, runner)
    if runner.rebuild == "never" or (before.state != "missing" and runner.rebuild == "auto"):
        return before
    facts, started = (name, engine, runner.dtype_name, str(runner.device)), time.perf_counter()
    try:
        found = tuple(runner.prepare())
    except EngineError as error:
        return EngineStatus(*facts, "failed", error.message, error.hint, time.perf_counter() - started)
    reason = before.reason or REBUILD_REQUESTED
    state: State = "built" if found else "none needed"
    seconds = time.perf_counter() - started
    return EngineStatus(*facts, state, reason if found else "", "", seconds, found, **_error(found, runner))


def first_problem(found: Iterable[EngineStatus]) -> EngineError | None:
    """Return the error of the first network whose engine failed or is missing; None if there is none."""
    for status in found:
        if status.state in ("failed", "missing"):
            return EngineError(status.reason, status.hint)
    return None


def planned_action(rebuild: str, status: EngineStatus) -> str:
    """Return what a build with the policy ``rebuild`` would do, given the result of :func:`inspect`."""
    if status.state == "none needed":
        return "nothing to build"
    if rebuild == "never":
        return "would be refused" if status.state == "missing" else "would be used"
    return "would be built" if status.state == "missing" or rebuild == "always" else "would be used"


def _error(engines: tuple[Engine, ...], runner: Runner) -> dict[str, Any]:
    """Return the largest error in the side-cars of the engines, else in that of their graph, as status fields."""
    notes = [engine.sidecar.notes for engine in engines]
    found, of = [error for note in notes for error in _numbers(note.get("error"))], "engine"
    if engines and not found and runner.dtype_name in DTYPES:
        names = [str(note.get("graph", "")) for note in notes] + [graph_key(runner.network, runner.dtype_name).name]
        cars = [read_sidecar(engines[0].folder.parent / name) for name in names if name]
        found = [error for car in cars if isinstance(car, EngineSideCar) for error in _numbers(car.notes.get("error"))]
        of = "graph"
    return {"error": max(found), "error_of": of} if found else {}


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
