"""The choice of SHADE's base styles while a training runs, and their place in checkpoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dgkit.training.segmenter.hooks import plain
from dgkit.training.segmenter.mixture import SourceCrops
from dgkit.training.segmenter.mm import HOOKS, Hook, pseudo_collate
from dgkit.training.segmenter.shade import Styles, base_styles, first_features, style_of


@HOOKS.register_module(force=True)
class BaseStyles(Hook):
    """Choose ``count`` base styles among ``images`` crops of the source, every ``refresh`` iterations from the first.

    ``images`` None: one crop of each source picture; at least ``count`` either way. The crops are a function of the
    seed and the iteration, their styles of the weights of that iteration. Those are gone when a training goes on later,
    so a checkpoint holds the base styles, beside its weights.
    """

    KEY = "base_styles"

    def __init__(self, count: int, refresh: int, images: int | None = None) -> None:
        self.count, self.refresh, self.images = count, refresh, images

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: object = None) -> None:
        if runner.iter % self.refresh == 0:
            network, loader = plain(runner.model), runner.train_dataloader
            found = styles_of_source(network, loader, runner.iter, self.count, self.images)
            rng = np.random.default_rng([loader.dataset.seed, runner.iter, 2])
            network.beside.styles = base_styles(found, self.count, int(rng.integers(len(found.mean))))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        styles = plain(runner.model).beside.styles
        checkpoint[self.KEY] = {name: value.cpu() for name, value in styles._asdict().items()}

    def after_load_checkpoint(self, runner: Any, checkpoint: Mapping[str, Any]) -> None:
        if self.KEY in checkpoint:
            network = plain(runner.model)
            device = next(network.parameters()).device
            network.beside.styles = Styles(**{name: value.to(device) for name, value in checkpoint[self.KEY].items()})


@torch.no_grad()
def styles_of_source(network: Any, loader: Any, turn: int, count: int, images: int | None) -> Styles:
    """Styles float32 [N,C] of N crops of the source that ``loader`` trains on, by the encoder in eval mode.

    N is ``images``, or the number of source pictures, but at least ``count``. Touches no generator of torch.
    """
    mixture = loader.dataset
    crops = SourceCrops(mixture, turn, max(count, images or len(mixture.source.samples)))
    batches = DataLoader(
        crops, loader.batch_size, num_workers=loader.num_workers, collate_fn=pseudo_collate, generator=torch.Generator()
    )
    training = network.backbone.training
    network.backbone.eval()
    found = []
    for batch in batches:
        pictures = network.data_preprocessor(batch, True)["inputs"]
        found.append(style_of(first_features(network.backbone, network.seen(pictures))))
    network.backbone.train(training)
    return Styles(*(torch.cat(values) for values in zip(*found, strict=True)))
