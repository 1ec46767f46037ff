"""Hooks of mmengine's Runner: reproducible randomness, encoder weights, and progress for the command line."""

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

    Dropout, stochastic depth and HRDA's crops of an iteration are then the same whether or not the run was stopped
    before it, which mmengine's checkpoints alone, without a generator's state, cannot give.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: object = None) -> None:
        words = np.random.SeedSequence([self.seed, runner.iter, runner.rank]).generate_state(2, np.uint32)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


class LoadEncoder(Hook):
    """Load the encoder's weights where a training starts; mmengine has initialised all of them by then."""

    def __init__(self, pretrained: str) -> None:
        self.pretrained = pretrained

    def before_train(self, runner: Any) -> None:
        if runner.iter == 0:
            load_encoder(plain(runner.model).backbone, self.pretrained)


class FrozenEncoder(Hook):
    """Set a network's frozen encoder, of the feature distance, where a training starts or goes on.

    It is in no checkpoint, but its digest is: a training goes on with the same weights or raises UsageError.
    """

    KEY = "frozen_encoder"

    def __init__(self, pretrained: str) -> None:
        self.pretrained = pretrained
        self.digest: str | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: Mapping[str, Any]) -> None:
        self.digest = checkpoint.get(self.KEY)

    def before_train(self, runner: Any) -> None:
        network = plain(runner.model)
        encoder = copy.deepcopy(network.backbone)
        load_encoder(encoder, self.pretrained)
        encoder.requires_grad_(False)
        encoder.eval()  # ResNet's returns nothing
        found = digest_weights(encoder)
        if self.digest not in (None, found):
            raise UsageError(
                f"{self.pretrained} holds other weights than those that this training's feature distance is to",
                "state the same ones as pretrained, or choose another folder with --out",
            )
        self.digest = found
        network.beside.encoder = encoder

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.KEY] = self.digest


def plain(model: nn.Module) -> Any:
    """The network itself, taken out of what spreads it over several processes."""
    return getattr(model, "module", model)


def digest_weights(network: nn.Module) -> str:
    """SHA-256 of a network's tensors and their names, but for the counters of batch norms, which weight files lack."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


class Report(Hook):
    """Tell ``progress`` of each iteration, and keep the last loss and the validations' mean IoU."""

    priority = "VERY_LOW"

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress, self.loss = progress, float("nan")
        self.miou: list[tuple[int, float]] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: object = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        if outputs:
            self.loss = float(outputs["loss"].detach())
        if self.progress and runner.rank == 0:
            self.progress("segmenter", runner.iter + 1, runner.max_iters, f"loss {self.loss:.4f}")

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        if metrics and "mIoU" in metrics:
            self.miou.append((runner.iter, float(metrics["mIoU"])))
