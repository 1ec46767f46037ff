"""One trainer for every stage, on Hugging Face accelerate: one process, or several under ``accelerate launch``.

A training sample is a pure function of its index, and step s trains on the samples s*batch ... (s+1)*batch - 1 (see
stream.py). A checkpoint therefore needs no position in a data set, a resumed run equals an uninterrupted one bit for
bit on the CPU, and the number of processes only changes the order of summation.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from dgkit.errors import DgkitError
from dgkit.optional import require
from dgkit.progress import Progress
from dgkit.training.loop import checkpoint
from dgkit.training.loop.accelerators import build_accelerator
from dgkit.training.loop.graphs import GraphedGradients
from dgkit.training.loop.optimisation import Optimisation
from dgkit.training.loop.optimizers import build_optimizer, rate_at, set_rate
from dgkit.training.loop.stream import batches, micro_batch, samples_per_micro_step
from dgkit.training.loop.task import Tensors, TrainingTask
from dgkit.training.loop.training_folder import sole_training
from dgkit.training.loop.training_log import Meter, TrainingLog

accelerate: Any = require("accelerate", "train")

_MAX_SOURCES = 8  # named in an error message


def fit(
    task: TrainingTask,
    settings: Optimisation,
    folder: Path,
    *,
    progress: Progress | None = None,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Train ``task.module`` in place; afterwards it holds the moving average of its weights (or the weights if off).

    Resumes from the newest checkpoint in ``folder/checkpoints``. Writes ``log.csv``, ``validation.csv``, images to
    ``validation`` and TensorBoard files to ``logs``. ``progress`` is called after each step by the main process, with
    the mean of the last fifty losses as its note. ``begin`` is called in the main process once everything has been
    checked, before the first file is written.

    Raises UsageError for settings that do not fit the machine or the checkpoint, ModelError for a damaged checkpoint,
    OutputError for a full disk or if another training runs in ``folder``, and DgkitError for a loss, gradient or weight
    that is not finite.
    """
    with sole_training(folder), _run(task, settings, folder, begin) as run:
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
            if progress and run.log:
                progress(task.name, run.done, settings.steps, f"loss {run.meter.smoothed():.4f}")
        if run.average:
            run.average.copy_to(run.parameters)


class _Run:
    """The state of a training between two steps."""

    def __init__(self, task: TrainingTask, settings: Optimisation, folder: Path, begin: Callable[[], None]) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.checkpoints = folder / "checkpoints"
        self.accelerator = build_accelerator(settings)
        self.processes = self.accelerator.num_processes
        samples_per_micro_step(settings, self.processes)
        self.rate = rate_at(settings)
        task.module.train()
        optimizer = build_optimizer(task.module, settings, task.parameter_scale)
        self.parameters = list(checkpoint.trained_parameters(task.module).values())
        self.module, self.optimizer = self.accelerator.prepare(task.module, optimizer)
        compute = self.loss_and_gradients
        self.gradients = GraphedGradients(compute, self.parameters) if self.uses_cuda_graph() else compute
        self.average = EMAModel(self.parameters, decay=settings.ema, foreach=True) if settings.ema else None
        self.parts = checkpoint.Parts(self.accelerator, task.module, self.average)
        task.place(self.accelerator.device)
        self.done = 0
        self.meter = Meter()
        self.resume()
        if self.accelerator.is_main_process:
            begin()
        self.log = TrainingLog(folder, self.done) if self.accelerator.is_main_process else None

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        if self.accelerator.is_main_process:
            checkpoint.remove_temporaries(self.checkpoints)
        self.accelerator.wait_for_everyone()
        found = checkpoint.list_checkpoints(self.checkpoints)
        if not found:
            return
        state = checkpoint.read_state(found[-1])
        checkpoint.check_settings(found[-1], state, self.saved_settings())
        checkpoint.load(found[-1], self.parts)
        # accelerate counts micro-steps; the count is meaningless if accumulation has changed.
        self.accelerator.step = 0
        self.done = state["step"]
        self.meter = Meter(state["meter"])
        if self.average:
            self.average.optimization_step = self.done

    def uses_cuda_graph(self) -> bool:
        """Return whether steps are replayed as a CUDA graph: only gradients that are not shared, summed or scaled."""
        plain = self.processes == 1 and self.settings.accumulation == 1 and self.settings.precision != "fp16"
        return self.settings.cuda_graph and self.accelerator.device.type == "cuda" and plain

    def saved_settings(self) -> dict[str, dict[str, Any]]:
        """Return settings and task identity as a checkpoint stores them, to be compared on resume."""
        identity = {"task": self.task.name, **self.task.identity}
        return {"settings": self.settings.model_dump(mode="json"), "identity": json.loads(json.dumps(identity))}

    def advance(self, stream: Iterator[Tensors]) -> None:
        """Do one optimizer step, then the log line, validation and checkpoint that are due."""
        start = time.perf_counter()
        rate = self.settings.lr * self.rate(self.done)
        set_rate(self.optimizer, rate)
        loss, norm = self.update(stream)
        self.done += 1
        self.meter.add(loss, time.perf_counter() - start)
        if self.is_due(self.settings.log_every):
            mean, seconds = self.meter.take()
            if self.log:
                self.log.add_step(self.done, mean, rate, norm, seconds)
        if self.settings.validate_every and self.is_due(self.settings.validate_every):
            self.validate()
        if self.is_due(self.settings.checkpoint_every):
            self.save()

    def is_due(self, every: int) -> bool:
        """Return whether something done every ``every`` steps and after the last one is due."""
        return self.done % every == 0 or self.done == self.settings.steps

    def update(self, stream: Iterator[Tensors]) -> tuple[float, float]:
        """Do one optimizer step and return its mean loss and gradient norm."""
        losses: list[Tensor] = []
        norm = torch.zeros(())
        for micro in range(self.settings.accumulation):
            batch = accelerate.utils.send_to_device(next(stream), self.accelerator.device, non_blocking=True)
            self.seed(self.indices(self.accelerator.process_index, micro)[0])
            with self.accelerator.accumulate(self.module):
                with torch.no_grad():
                    batch = self.task.encode(batch)
                losses.append(self.gradients(batch))
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.clip or math.inf)
                    values = self.finite_losses(losses, norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.average:
            self.average.step(self.parameters)
        return sum(values) / len(values), float(norm)

    def loss_and_gradients(self, batch: Tensors) -> Tensor:
        """Return the scalar loss of one micro-step; its gradients are added to those of the parameters."""
        with self.accelerator.autocast():
            loss = self.task.loss(self.module, batch)
        self.accelerator.backward(loss)
        return loss.detach().float()

    def seed(self, value: int) -> None:
        """Make dropout and other random layers a function of the sample index."""
        # torch.manual_seed would spend half a millisecond on devices that are not in use.
        torch.default_generator.manual_seed(value)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(value)

    def finite_losses(self, losses: list[Tensor], norm: Tensor) -> list[float]:
        """Return the losses of all processes, flattened from [process, micro-step].

        Raises DgkitError in every process if one of them or ``norm`` is not finite.
        """
        values = self.accelerator.gather(torch.stack(losses)).tolist()
        for position, value in enumerate(values):
            if not math.isfinite(value):
                indices = self.indices(*divmod(position, self.settings.accumulation))
                raise self.not_finite(f"the loss became {value}", indices)
        # In fp16 such a step is skipped and the loss scale reduced.
        if self.settings.precision != "fp16" and not math.isfinite(norm):
            first = self.done * self.settings.batch
            indices = range(first, first + self.settings.batch)
            raise self.not_finite(f"the gradient norm became {float(norm)}", indices)
        return values

    def indices(self, process: int, micro: int) -> range:
        """Return the sample indices of a process and micro-step in the current step."""
        return micro_batch(self.settings, self.done, micro, process, self.processes)

    def not_finite(self, problem: str, indices: range) -> DgkitError:
        """Return an error with ``problem``, the step, the samples with their sources and the last good checkpoint."""
        found = checkpoint.list_checkpoints(self.checkpoints)
        good = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
        sources = [text for index in indices[:_MAX_SOURCES] if (text := self.task.describe(index))]
        more = ", ..." if len(indices) > _MAX_SOURCES else ""
        listed = f" ({', '.join(sources)}{more})" if sources else ""
        return DgkitError(
            f"{problem} at step {self.done + 1} of {self.task.name}, on samples {indices[0]} to {indices[-1]}{listed}; "
            f"{good}",
            "check these samples; if they are valid, train again in another folder with a lower lr or precision=bf16",
        )

    def validate(self) -> None:
        """Validate the moving average in the main process, while the others wait."""
        if self.log:
            folder = self.folder / "validation"
            folder.mkdir(parents=True, exist_ok=True)
            with self.averaged(), torch.no_grad():
                module = self.accelerator.unwrap_model(self.module)
                self.log.add_validation(self.done, self.task.validate(module.eval(), self.done, folder))
            self.task.module.train()
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average in place of the weights for the duration of the block."""
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
        """Write a checkpoint; the log is flushed to the disk before it."""
        if self.log:
            self.log.sync()
        state = {"step": self.done, "meter": self.meter.state(), **self.saved_settings()}
        checkpoint.save(self.checkpoints, self.parts, state, self.settings.keep)

    def close(self) -> None:
        """Unwrap the module and free what the training held."""
        if self.log:
            self.log.close()
        self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        self.accelerator.free_memory()


@contextlib.contextmanager
def _run(task: TrainingTask, settings: Optimisation, folder: Path, begin: Callable[[], None]) -> Iterator[_Run]:
    run = _Run(task, settings, folder, begin)
    try:
        yield run
    finally:
        run.close()
