"""Building the engines of a model: what is there, what is missing and why, what was built, how long it took."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from dgkit.engines.onnx_export import graph_key
from dgkit.engines.runner import DTYPES, Runner
from dgkit.engines.sidecar import EngineSideCar, read_sidecar
from dgkit.engines.store import Engine
from dgkit.errors import EngineError

State = Literal["ready", "built", "missing", "failed", "none needed"]


@dataclass(frozen=True)
class EngineStatus:
    """One network. ``reason`` says why it is missing, was built or failed; empty where it was ready.

    ``engines`` are the files of the store behind it, ``size`` their bytes, ``seconds`` what building them took now.
    ``error`` is the largest of any output against PyTorch when it was made (relative L2; None: not known), of what
    ``error_of`` says: the ``engine``, or the ``graph`` that it was made from.
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
        return sum(engine.sidecar.size for engine in self.engines)


def inspect(name: str, engine: str, runner: Runner) -> EngineStatus:
    """What is there of the engines that ``runner`` needs; nothing is built.

    Raises MissingDependency and UsageError where the backend cannot run here at all.
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
    """Build what ``runner`` needs, as far as its ``rebuild`` asks for it.

    A build that fails is an outcome with the reason. Raises MissingDependency, OutputError and UsageError.
    """
    before = inspect(name, engine, runner)
    if runner.rebuild == "never" or (before.state != "missing" and runner.rebuild == "auto"):
        return before
    facts, started = (name, engine, runner.dtype_name, str(runner.device)), time.perf_counter()
    try:
        found = tuple(runner.prepare())
    except EngineError as error:
        return EngineStatus(*facts, "failed", error.message, error.hint, time.perf_counter() - started)
    reason = before.reason or "asked for anew"
    state: State = "built" if found else "none needed"
    seconds = time.perf_counter() - started
    return EngineStatus(*facts, state, reason if found else "", "", seconds, found, **_error(found, runner))


def first_problem(outcomes: Iterable[EngineStatus]) -> EngineError | None:
    """The error to end with: of the first network that failed, or is missing."""
    for outcome in outcomes:
        if outcome.state in ("failed", "missing"):
            return EngineError(outcome.reason, outcome.hint)
    return None


def verdict(rebuild: str, outcome: EngineStatus) -> str:
    """What a build under ``rebuild`` would do with what :func:`look` found."""
    if outcome.state == "none needed":
        return "nothing to build"
    if rebuild == "never":
        return "would be refused" if outcome.state == "missing" else "would be used"
    return "would be built" if outcome.state == "missing" or rebuild == "always" else "would be used"


def _error(engines: tuple[Engine, ...], runner: Runner) -> dict[str, Any]:
    """As noted when an engine was made, else in the side-car of its graph."""
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
