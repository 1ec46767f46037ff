"""Hooks of mmengine's Runner: reproducible randomness, encoder weights, and progress of the command line."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dgkit.errors import DgkitError, UsageError
from dgkit.progress import Progress
from dgkit.training.loop.integrity import digest_weights
from dgkit.training.segmenter.encoder_weights import load_encoder
from dgkit.training.segmenter.mm import HOOKS, Hook


@HOOKS.register_module(force=True)
class SeededIterations(Hook):
    """Seed torch before each iteration from (seed, iteration, process).

    Dropout, stochastic depth and HRDA's crops are then the same in a run that was stopped and resumed. mmengine's
    checkpoints do not hold the state of the generator.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: object = None) -> None:
        """Seed torch's global generator."""
        words = np.random.SeedSequence([self.seed, runner.iter, runner.rank]).generate_state(2, np.uint32)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


@HOOKS.register_module(force=True)
class MaskAnnealing(Hook):
    """Reduces the share of masked attention in EoMT's head, a function of the iteration."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: object = None) -> None:
        """Tell the head how far the training is."""
        unwrap(runner.model).decode_head.anneal(runner.iter / runner.max_iters)


class LoadEncoder(Hook):
    """Load pretrained encoder weights at the start of a training, after mmengine has initialised the network."""

    def __init__(self, pretrained: str) -> None:
        self.pretrained = pretrained

    def before_train(self, runner: Any) -> None:
        """Load the weights, unless the run resumes from a checkpoint."""
        if runner.iter == 0:
            load_encoder(unwrap(runner.model).backbone, self.pretrained)


class FrozenEncoder(Hook):
    """Set the frozen encoder for the feature distance when a training starts or resumes.

    Checkpoints hold the digest of its weights instead of the weights. Raises UsageError if a training resumes with
    other weights.
    """

    KEY = "frozen_encoder"

    def __init__(self, pretrained: str) -> None:
        self.pretrained = pretrained
        self.digest: str | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: Mapping[str, Any]) -> None:
        """Remember the digest that the checkpoint holds."""
        self.digest = checkpoint.get(self.KEY)

    def before_train(self, runner: Any) -> None:
        """Load the frozen encoder and compare its digest with the checkpoint's."""
        network = unwrap(runner.model)
        encoder = copy.deepcopy(network.backbone)
        load_encoder(encoder, self.pretrained)
        encoder.requires_grad_(False)
        encoder.eval()  # separate call: ResNet's eval() returns None
        found = digest_weights(encoder)
        if self.digest not in (None, found):
            raise UsageError(
                f"{self.pretrained}: weights differ from those that this training started its feature distance with",
                "set pretrained to the original weights, or choose another folder with --out",
            )
        self.digest = found
        network.auxiliary.frozen_encoder = encoder

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the digest to the checkpoint."""
        checkpoint[self.KEY] = self.digest


def unwrap(model: nn.Module) -> Any:
    """Return the network itself without the wrapper for distributed training."""
    return getattr(model, "module", model)


class FiguresHook(Hook):
    """Keeps the last loss and the mean IoU of each validation, in percent by iteration; checkpoints hold both.

    ``earlier`` returns the figures for a checkpoint of an earlier version, which holds none.
    """

    KEY = "figures"
    priority = "LOW"  # before mmengine's CheckpointHook, so that a checkpoint holds the figures of its own iteration

    def __init__(self, earlier: Callable[[], Mapping[str, Any]]) -> None:
        self.earlier = earlier
        self.loss: float | None = None
        self.miou: dict[int, float] = {}

    def after_load_checkpoint(self, runner: Any, checkpoint: Mapping[str, Any]) -> None:
        """Take over the figures of a checkpoint."""
        found = checkpoint[self.KEY] if self.KEY in checkpoint else self.earlier()
        self.loss, self.miou = found["loss"], dict(found["miou"])

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the figures to a checkpoint."""
        checkpoint[self.KEY] = {"loss": self.loss, "miou": sorted(self.miou.items())}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: object = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep the loss of an iteration. Raises DgkitError if it is not finite."""
        if outputs:
            self.loss = float(outputs["loss"].detach())
        if self.loss is not None and not math.isfinite(self.loss):
            raise DgkitError(
                f"the loss became {self.loss} at iteration {runner.iter + 1}",
                "train again in another folder with a lower train.lr or train.precision=bf16",
            )

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Keep the mean IoU of a validation with its iteration."""
        if metrics and math.isfinite(metrics.get("mIoU", math.nan)):
            self.miou[runner.iter] = float(metrics["mIoU"])


class MissedValidation(Hook):
    """Validates at the start of a resumed run if it was killed between its checkpoint and the validation due then."""

    priority = "VERY_LOW"  # after CheckpointHook, which reads the best score before training

    def __init__(self, figures: FiguresHook) -> None:
        self.figures = figures

    def before_train(self, runner: Any) -> None:
        """Validate if a validation is due and was not done before the checkpoint was resumed."""
        loop = runner.train_loop
        due = runner.iter % loop.val_interval == 0 or runner.iter == loop.max_iters
        if runner.val_loop is not None and runner.iter and due and runner.iter not in self.figures.miou:
            runner.val_loop.run()


class ProgressHook(Hook):
    """Reports iterations, whose checkpoint is then written, to ``progress`` in the main process."""

    priority = "VERY_LOW"

    def __init__(self, figures: FiguresHook, progress: Progress | None = None) -> None:
        self.figures, self.progress = figures, progress

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: object = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Report an iteration."""
        if self.progress and runner.rank == 0:
            self.progress("segmenter", runner.iter + 1, runner.max_iters, f"loss {self.figures.loss:.4f}")
