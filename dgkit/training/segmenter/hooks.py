"""Hooks of mmengine's Runner: reproducible randomness, encoder weights, and progress of the command line."""

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dgkit.errors import UsageError
from dgkit.progress import Progress
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


def digest_weights(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors and names; batch norm counters are skipped, weight files lack them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


class ProgressHook(Hook):
    """Reports iterations to ``progress``; keeps the last loss and the mean IoU of each validation, in percent."""

    priority = "VERY_LOW"

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress, self.loss = progress, float("nan")
        self.miou: list[tuple[int, float]] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: object = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Report an iteration and keep its loss."""
        if outputs:
            self.loss = float(outputs["loss"].detach())
        if self.progress and runner.rank == 0:
            self.progress("segmenter", runner.iter + 1, runner.max_iters, f"loss {self.loss:.4f}")

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Keep the mean IoU of a validation with its iteration."""
        if metrics and "mIoU" in metrics:
            self.miou.append((runner.iter, float(metrics["mIoU"])))
