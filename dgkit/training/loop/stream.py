"""The samples of one process, in training order, as batches of tensors.

Step s of a run trains on the samples s*batch ... (s+1)*batch - 1. They are split into ``accumulation`` micro-steps and
each micro-step among the processes: of P processes, process p takes in micro-step k the m samples from
s*batch + (k*P + p)*m, with m = batch / (P * accumulation). The samples of a step therefore do not depend on the number
of processes, micro-steps and workers.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dgkit.errors import DgkitError, UsageError
from dgkit.resources import usable_cores
from dgkit.training.loop.optimisation import Optimisation
from dgkit.training.loop.task import Tensors

MAX_WORKERS = 12


def samples_per_micro_step(settings: Optimisation, processes: int) -> int:
    """Return the samples per process and micro-step. Raises UsageError if the batch does not divide."""
    parts = processes * settings.accumulation
    if settings.batch % parts:
        raise UsageError(
            f"batch={settings.batch} cannot be split into {processes} process(es) x accumulation="
            f"{settings.accumulation}; allowed are multiples of {parts}",
            f"use batch={-(-settings.batch // parts) * parts}, or another accumulation or number of processes",
        )
    return settings.batch // parts


def micro_batch(settings: Optimisation, step: int, micro: int, process: int, processes: int) -> range:
    """Return the indices of the samples of ``process`` in micro-step ``micro`` of ``step``, all 0-based."""
    size = samples_per_micro_step(settings, processes)
    first = step * settings.batch + (micro * processes + process) * size
    return range(first, first + size)


def batches(
    sample: Callable[[int], Tensors], settings: Optimisation, start: int, process: int, processes: int, *, pinned: bool
) -> Iterator[Tensors]:
    """Yield the stacked samples of one process for each micro-step from step ``start``; CPU tensors.

    ``pinned`` batches are in page-locked memory. A DgkitError that ``sample`` raises keeps its message and hint, also
    from a worker process.
    """
    workers = settings.workers
    if workers is None:
        workers = min(MAX_WORKERS, len(usable_cores()) - 1) if pinned else 0
    loader: DataLoader[Any] = DataLoader(
        _Samples(sample),
        batch_sampler=_Order(settings, start, process, processes),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pinned,
        # Without its own generator the loader would advance torch's global one.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, DgkitError):
            raise batch
        yield batch


class _Samples(Dataset[Any]):
    def __init__(self, sample: Callable[[int], Tensors]) -> None:
        self.sample = sample

    def __getitem__(self, index: int) -> Tensors | DgkitError:
        try:
            return self.sample(index)
        except DgkitError as error:
            # Returned, not raised: an exception loses its hint on the way out of a worker process.
            return error


class _Order(Sampler[list[int]]):
    def __init__(self, settings: Optimisation, start: int, process: int, processes: int) -> None:
        self.settings, self.start, self.process, self.processes = settings, start, process, processes

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.settings.steps):
            for micro in range(self.settings.accumulation):
                yield list(micro_batch(self.settings, step, micro, self.process, self.processes))

    def __len__(self) -> int:
        return (self.settings.steps - self.start) * self.settings.accumulation


def _collate(samples: list[Tensors | DgkitError]) -> Tensors | DgkitError:
    for sample in samples:
        if isinstance(sample, DgkitError):
            return sample
    return default_collate(samples)
