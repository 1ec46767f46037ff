"""Choice of SHADE's base styles during training; checkpoints hold them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dgkit.training.segmenter.hooks import unwrap
from dgkit.training.segmenter.mixture import SourceCrops
from dgkit.training.segmenter.mm import HOOKS, Hook, pseudo_collate
from dgkit.training.segmenter.shade import Styles, base_styles, first_features, style_of


@HOOKS.register_module(force=True)
class BaseStyles(Hook):
    """Choose ``count`` base styles from ``images`` crops of the source, at the start and every ``refresh`` iterations.

    ``images`` None: one crop of each source image, but at least ``count``. The crops are a function of seed and
    iteration, their styles also of the weights of that iteration. A resumed training no longer has these weights, so
    checkpoints hold the base styles.
    """

    KEY = "base_styles"

    def __init__(self, count: int, refresh: int, images: int | None = None) -> None:
        self.count, self.refresh, self.images = count, refresh, images

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: object = None) -> None:
        """Choose new base styles if it is their turn."""
        if runner.iter % self.refresh == 0:
            network, loader = unwrap(runner.model), runner.train_dataloader
            found = styles_of_source(network, loader, runner.iter, self.count, self.images)
            rng = np.random.default_rng([loader.dataset.seed, runner.iter, 2])
            network.auxiliary.base_styles = base_styles(found, self.count, int(rng.integers(len(found.mean))))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the base styles to the checkpoint."""
        styles = unwrap(runner.model).auxiliary.base_styles
        checkpoint[self.KEY] = {name: value.cpu() for name, value in styles._asdict().items()}

    def after_load_checkpoint(self, runner: Any, checkpoint: Mapping[str, Any]) -> None:
        """Restore the base styles of the checkpoint."""
        if self.KEY in checkpoint:
            network = unwrap(runner.model)
            device = next(network.parameters()).device
            stored = {name: value.to(device) for name, value in checkpoint[self.KEY].items()}
            network.auxiliary.base_styles = Styles(**stored)


@torch.no_grad()
def styles_of_source(network: Any, loader: Any, turn: int, count: int, images: int | None) -> Styles:
    """Return the styles float32 [N,C] of N source crops from the data set of ``loader``, by the encoder in eval mode.

    N is ``images``, or the number of source images, but at least ``count``. No generator of torch is used.
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
        images_of_batch = network.data_preprocessor(batch, True)["inputs"]
        found.append(style_of(first_features(network.backbone, network.encoder_input(images_of_batch))))
    network.backbone.train(training)
    return Styles(*(torch.cat(values) for values in zip(*found, strict=True)))
