"""The engines of a model before and after a build: which exist, which are missing and why, which were built."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dgkit.engines.onnx_export import graph_key
from dgkit.engines.runner import DTYPES, Runner
from dgkit.engines.sidecar import EngineSideCar, read_sidecar
from dgkit.engines.store import REBUILD_REQUESTED, Engine
from dgkit.errors import EngineError
from dgkit.progress import Progress, ignore

# Seconds in which one core builds the engines of the embedded model; for other models the proportions count.
BUILD_SECONDS = {"denoiser": 16.0, "vae_decoder": 6.0, "vae_encoder": 4.0, "text_encoder": 3.0, "condition": 2.0}
Helper = Callable[[Sequence[str]], contextlib.AbstractContextManager[bool]]
"""Starts a process that builds the engines of these networks, in this order; yields whether it did."""
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


def build_all(
    runners: Mapping[str, Runner],
    progress: Progress = ignore,
    *,
    release: Callable[[], None] | None = None,
    helper: Helper | None = None,
    keep_going: bool = True,
) -> list[EngineStatus]:
    """Build the engines that the runners need, by name of their network, and return the status of each.

    Everything that can be missing on this machine is checked before the first build. ``progress`` reports the stage
    "engines". ``release`` is called after each build. ``helper`` builds some of the engines in a second process where a
    build keeps one core busy. A failed build is a status with the reason, and the last one unless ``keep_going``.

    Raises MissingDependency, OutputError, UsageError, and EngineError if this machine cannot build for a backend.
    """
    found = {name: inspect(name, runner.engine, runner) for name, runner in runners.items()}
    todo = [name for name, runner in runners.items() if is_due(found[name], runner)]
    for name in todo:
        runners[name].check_build()
    todo.sort(key=lambda name: -BUILD_SECONDS.get(name, 0.0))  # the longest first, so that the helper ends in time
    shared = len(todo) > 1 and all(runners[name].one_core_builds for name in todo)
    with helper(todo[:0:-1]) if helper and shared else contextlib.nullcontext(False) as is_helped:
        clock = _BuildClock(todo, 2 if is_helped else 1)
        for number, name in enumerate(todo):
            if not (is_helped and inspect(name, found[name].engine, runners[name]).state == "ready"):
                progress("engines", number, len(todo), clock.note(runners[name].title, name))
            found[name] = build(name, found[name].engine, runners[name], found[name])
            if release:
                release()
            clock.finish(name)
            if found[name].state == "failed" and not keep_going:
                break
        else:
            if todo:
                progress("engines", len(todo), len(todo), f"{clock.seconds():.0f} s")
    return list(found.values())


class _BuildClock:
    """The time that builds need: that of a table at first, later as the finished builds took here."""

    def __init__(self, names: Sequence[str], processes: int) -> None:
        self._left = {name: BUILD_SECONDS.get(name, 1.0) for name in names}
        self._started, self._done, self._speed = time.perf_counter(), 0.0, float(processes)

    def seconds(self) -> float:
        """Return the seconds since the first build began."""
        return time.perf_counter() - self._started

    def finish(self, name: str) -> None:
        """Note that the engine of a network is built."""
        self._done += self._left.pop(name)
        self._speed = self._done / max(self.seconds(), 1e-3)

    def note(self, title: str, name: str) -> str:
        """Return ``OpenVINO denoiser, about 40 s left``."""
        left = sum(self._left.values()) / self._speed
        rounded = f"{max(5, 5 * round(left / 5))} s" if left < 120 else f"{round(left / 60)} min"
        return f"{title} {name}, about {rounded} left"


def is_due(status: EngineStatus, runner: Runner) -> bool:
    """Return whether preparing ``runner`` builds an engine, given the result of :func:`inspect`."""
    if runner.rebuild == "never" or status.state == "none needed":
        return False
    return status.state == "missing" or runner.rebuild == "always"


def build(name: str, engine: str, runner: Runner, before: EngineStatus | None = None) -> EngineStatus:
    """Build the engines that ``runner`` needs, as its ``rebuild`` policy says, and return their status.

    ``before``: the result of :func:`inspect`, if it is known. A failed build is a status with the reason. Raises
    MissingDependency, OutputError and UsageError.
    """
    before = before or inspect(name, engine, runner)
    if not is_due(before, runner):
        return before
    facts, started = (name, engine, runner.dtype_name, str(runner.device)), time.perf_counter()
    try:
        found = tuple(runner.prepare())
    except EngineError as error:
        return EngineStatus(*facts, "failed", error.message, error.hint, time.perf_counter() - started)
    reason = before.reason or REBUILD_REQUESTED
    state: State = "built" if found else "none needed"
    seconds = sum(engine.sidecar.seconds for engine in found)  # another process may have built it
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
