"""One trainer for every stage, on Hugging Face accelerate: one process, or several under ``accelerate launch``.

A training sample is a pure function of its index, and step s trains on the samples s*batch ... (s+1)*batch - 1 (see
stream.py). A checkpoint therefore needs no position in a data set, a resumed run repeats an uninterrupted one bit for
bit on the CPU, and the number of processes changes nothing but the order of sums.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from dgkit.errors import DgkitError
from dgkit.optional import require
from dgkit.progress import Progress
from dgkit.training.loop import checkpoint
from dgkit.training.loop.accelerators import build_accelerator
from dgkit.training.loop.graphs import GraphedGradients
from dgkit.training.loop.optimisation import Optimisation
from dgkit.training.loop.optimizers import build_optimizer, rate_at, set_rate
from dgkit.training.loop.record import Meter, Record
from dgkit.training.loop.stream import Sample, batches, micro_batch, samples_per_micro_step

accelerate: Any = require("accelerate", "train")

_NAMED_SOURCES = 8


class Task(Protocol):
    """What is trained, on what, and how well.

    A task may also have

    - ``identity``: mapping of names to JSON values (seed, data, weights of the loss) that must be the same on resume;
    - ``describe(index) -> str``: where sample ``index`` comes from, for messages;
    - ``place(device: torch.device) -> None``: called once before the first step, to move frozen modules that are not
      part of ``module``;
    - ``encode(batch) -> batch``: what frozen networks make of a stacked batch before ``loss`` sees it, without
      gradients. With ``cuda_graph``, ``loss`` itself may not wait for the device.
    """

    name: str
    """Of the stage, for progress and messages."""
    module: nn.Module
    """Its parameters that require gradients are trained, in float32. With several processes gradients are shared only
    of what runs inside ``forward``."""
    parameter_scale: tuple[str, float]
    """Substring of parameter names and a factor on their learning rate; ``("", 1.0)`` for none."""

    def sample(self, index: int) -> dict[str, Tensor]:
        """Sample ``index``: CPU tensors of equal shapes for every index, a pure function of ``index``."""

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss over the stacked samples ``batch``, a scalar; ``module`` is ``self.module``, wrapped."""

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """Figures and pictures (uint8 [H,W,3]) by name after ``step`` steps; may write to ``folder``.

        Called in the main process alone, without gradients; ``module`` is in evaluation mode and holds the moving
        average.
        """


def fit(task: Task, settings: Optimisation, folder: Path, *, progress: Progress | None = None) -> None:
    """Train ``task.module`` in place and leave the moving average of its weights in it (the weights, if it is off).

    Goes on from the newest checkpoint in ``folder/checkpoints``. Writes ``log.csv``, ``validation.csv``, pictures to
    ``validation`` and TensorBoard's files to ``logs``.

    Raises UsageError for settings that do not fit the machine or the checkpoint, ModelError for a damaged checkpoint,
    OutputError for a full disk, and DgkitError for a loss or gradient that is not finite.
    """
    with _run(task, settings, folder) as run:
        stream = batches(
            task.sample,
            settings,
            run.done,
            run.accelerator.process_index,
            run.accelerator.num_processes,
            pinned=run.accelerator.device.type == "cuda",
        )
        while run.done < settings.steps:
            run.advance(stream)
            if progress and run.record:
                progress(task.name, run.done, settings.steps, f"loss {run.meter.smoothed():.4f}")
        if run.average:
            run.average.copy_to(run.parameters)


class _Run:
    """The state of one training between two steps."""

    def __init__(self, task: Task, settings: Optimisation, folder: Path) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.accelerator = build_accelerator(settings)
        self.processes = self.accelerator.num_processes
        samples_per_micro_step(settings, self.processes)
        self.rate = rate_at(settings)
        task.module.train()
        optimizer = build_optimizer(task.module, settings, task.parameter_scale)
        self.parameters = list(checkpoint.trained(task.module).values())
        self.module, self.optimizer = self.accelerator.prepare(task.module, optimizer)
        self.gradients = GraphedGradients(self.losses, self.parameters) if self.can_graph() else self.losses
        self.average = EMAModel(self.parameters, decay=settings.ema, foreach=True) if settings.ema else None
        self.parts = checkpoint.Parts(self.accelerator, task.module, self.average)
        if place := getattr(task, "place", None):
            place(self.accelerator.device)
        self.done = 0
        self.meter = Meter()
        self.resume()
        self.record = Record(folder, self.done) if self.accelerator.is_main_process else None

    def resume(self) -> None:
        """Take over the newest checkpoint, if there is one."""
        if self.accelerator.is_main_process:
            checkpoint.remove_left_overs(self.checkpoints)
        self.accelerator.wait_for_everyone()
        found = checkpoint.complete(self.checkpoints)
        if not found:
            return
        state = checkpoint.read_state(found[-1])
        checkpoint.check_settings(found[-1], state, self.settled())
        checkpoint.load(found[-1], self.parts)
        # accelerate counts micro-steps; the count means nothing if accumulation has changed since.
        self.accelerator.step = 0
        self.done = state["step"]
        self.meter = Meter(state["meter"])
        if self.average:
            self.average.optimization_step = self.done

    def can_graph(self) -> bool:
        """Whether steps are replayed as a CUDA graph: gradients neither shared, nor summed up, nor scaled."""
        alone = self.processes == 1 and self.settings.accumulation == 1 and self.settings.precision != "fp16"
        return self.settings.cuda_graph and self.accelerator.device.type == "cuda" and alone

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def settled(self) -> dict[str, dict[str, Any]]:
        """What may not change on resume (but for the settings that are free to), as it comes back from a file."""
        identity = {"task": self.task.name, **getattr(self.task, "identity", {})}
        return {"settings": self.settings.model_dump(mode="json"), "identity": json.loads(json.dumps(identity))}

    def advance(self, stream: Iterator[Sample]) -> None:
        """One optimizer step, and what is due after it: a line of the log, a validation, a checkpoint."""
        start = time.perf_counter()
        rate = self.settings.lr * self.rate(self.done)
        set_rate(self.optimizer, rate)
        loss, norm = self.update(stream)
        self.done += 1
        self.meter.add(loss, time.perf_counter() - start)
        if self.due(self.settings.log_every):
            mean, seconds = self.meter.take()
            if self.record:
                self.record.train(self.done, mean, rate, norm, seconds)
        if self.settings.validate_every and self.due(self.settings.validate_every):
            self.validate()
        if self.due(self.settings.checkpoint_every):
            self.save()

    def due(self, every: int) -> bool:
        return self.done % every == 0 or self.done == self.settings.steps

    def update(self, stream: Iterator[Sample]) -> tuple[float, float]:
        """Mean loss and gradient norm of one optimizer step."""
        losses: list[Tensor] = []
        norm = torch.zeros(())
        for micro in range(self.settings.accumulation):
            batch = accelerate.utils.send_to_device(next(stream), self.accelerator.device, non_blocking=True)
            self.seed(self.indices(self.accelerator.process_index, micro)[0])
            with self.accelerator.accumulate(self.module):
                losses.append(self.gradients(self.encode(batch)))
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.clip or math.inf)
                    values = self.check(losses, norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.average:
            self.average.step(self.parameters)
        return sum(values) / len(values), float(norm)

    @torch.no_grad()
    def encode(self, batch: Sample) -> Sample:
        """The batch as ``loss`` takes it."""
        encode = getattr(self.task, "encode", None)
        return encode(batch) if encode else batch

    def losses(self, batch: Sample) -> Tensor:
        """The loss of one micro-step, scalar; its gradients are added to the parameters'."""
        with self.accelerator.autocast():
            loss = self.task.loss(self.module, batch)
        self.accelerator.backward(loss)
        return loss.detach().float()

    def seed(self, value: int) -> None:
        """Make dropout and the like a function of the samples, as everything else is."""
        # torch.manual_seed would take half a millisecond for devices that are not in use.
        torch.default_generator.manual_seed(value)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(value)

    def check(self, losses: list[Tensor], norm: Tensor) -> list[float]:
        """All processes' losses, [process, micro-step] in one row; every process raises if one is not finite."""
        values = self.accelerator.gather(torch.stack(losses)).tolist()
        for position, value in enumerate(values):
            if not math.isfinite(value):
                where = self.indices(*divmod(position, self.settings.accumulation))
                raise self.stopped(f"the loss became {value}", where)
        # With fp16 such a step is skipped and the scale of the loss lowered.
        if self.settings.precision != "fp16" and not math.isfinite(norm):
            first = self.done * self.settings.batch
            raise self.stopped(f"the gradient norm became {float(norm)}", range(first, first + self.settings.batch))
        return values

    def indices(self, process: int, micro: int) -> range:
        return micro_batch(self.settings, self.done, micro, process, self.processes)

    def stopped(self, what: str, indices: range) -> DgkitError:
        found = checkpoint.complete(self.checkpoints)
        good = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
        sources = ""
        if describe := getattr(self.task, "describe", None):
            named = [describe(index) for index in indices[:_NAMED_SOURCES]]
            sources = f" ({', '.join(named)}{', ...' if len(indices) > _NAMED_SOURCES else ''})"
        return DgkitError(
            f"{what} at step {self.done + 1} of {self.task.name}, on samples {indices[0]} to {indices[-1]}{sources}; "
            f"{good}",
            "look at these samples; if they are sound, start over in another folder with a lower lr or precision=bf16",
        )

    def validate(self) -> None:
        if self.record:
            folder = self.folder / "validation"
            folder.mkdir(parents=True, exist_ok=True)
            with self.averaged(), torch.no_grad():
                module = self.accelerator.unwrap_model(self.module)
                self.record.validate(self.done, self.task.validate(module.eval(), self.done, folder))
            self.task.module.train()
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The moving average in place of the weights."""
        if not self.average:
            yield
            return
        self.average.store(self.parameters)
        self.average.copy_to(self.parameters)
        try:
            yield
        finally:
            self.average.restore(self.parameters)

    def save(self) -> None:
        if self.record:
            self.record.sync()
        state = {"step": self.done, "meter": self.meter.state(), **self.settled()}
        checkpoint.save(self.checkpoints, self.parts, state, self.settings.keep)

    def close(self) -> None:
        """Take the wrappers off the module and free what the training held."""
        if self.record:
            self.record.close()
        self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        self.accelerator.free_memory()


@contextlib.contextmanager
def _run(task: Task, settings: Optimisation, folder: Path) -> Iterator[_Run]:
    run = _Run(task, settings, folder)
    try:
        yield run
    finally:
        run.close()
