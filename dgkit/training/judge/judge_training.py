"""The judge of generated pictures: trained on rendered scenes alone, written as ONNX files with their figures.

A judge folder holds ``segmenter.onnx`` and ``styles.onnx``, each with a side-car YAML that says how to feed it, and
``judge.json``: the recipe and the figures on unseen scenes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from dgkit.config import dump_config
from dgkit.data.pictures import centre_square
from dgkit.data.scores import confusion, summary
from dgkit.files import atomic_write
from dgkit.labels import IGNORE
from dgkit.progress import Progress, within
from dgkit.prompts import STYLE_NAMES
from dgkit.training.data.captions import style_of
from dgkit.training.data.rendered_scenes import SceneCache, render_scenes
from dgkit.training.judge.disturbed_crops import MEAN, STD, CropSampler, StyleSampler
from dgkit.training.judge.judge_files import export
from dgkit.training.judge.judge_networks import STYLE_SIZE, Segmenter, StyleClassifier
from dgkit.training.judge.judge_recipe import JudgeRecipe, JudgeScenes
from dgkit.training.loop.optimisation import Optimisation
from dgkit.training.loop.trainer import fit
from dgkit.world import ROLES

NORM_BATCHES = 16  # that the batch norms' statistics are taken from after training


def to_input(images: Tensor) -> Tensor:
    """uint8 [B,H,W,3] RGB -> float32 [B,3,H,W], (x / 255 - mean) / std, channels last in memory."""
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class SegmenterTask:
    """Weighted cross entropy of :class:`Segmenter` on crops."""

    name = "segmenter"
    parameter_scale = ("", 1.0)

    def __init__(self, sampler: CropSampler, seed: int) -> None:
        torch.manual_seed(seed)
        self.module: nn.Module = Segmenter()
        self.sampler, self.seed = sampler, seed
        self.identity = {"seed": seed}
        self.weights = torch.from_numpy(sampler.class_weights())

    def sample(self, index: int) -> dict[str, Tensor]:
        image, label = self.sampler.draw(np.random.default_rng([self.seed, index]))
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits, _ = module(to_input(batch["image"]))
        label = batch["label"].long()
        return functional.cross_entropy(
            logits.float(), label, self.weights.to(label.device), ignore_index=IGNORE, reduction="sum"
        ) / max(1, int((label != IGNORE).sum()))

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        return {}


class StyleTask:
    """Cross entropy of :class:`StyleClassifier` on whole pictures."""

    name = "styles"
    parameter_scale = ("", 1.0)

    def __init__(self, sampler: StyleSampler, seed: int) -> None:
        torch.manual_seed(seed)
        self.module: nn.Module = StyleClassifier(len(STYLE_NAMES))
        self.sampler, self.seed = sampler, seed
        self.identity = {"seed": seed}

    def sample(self, index: int) -> dict[str, Tensor]:
        image, style = self.sampler.draw(np.random.default_rng([self.seed, index]))
        return {"image": torch.from_numpy(image), "style": torch.tensor(style)}

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(module(to_input(batch["image"])).float(), batch["style"])

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        return {}


@dataclass(frozen=True)
class JudgeTraining:
    """One training in the folder ``work``; a second call goes on where the first stopped."""

    work: Path
    recipe: JudgeRecipe
    progress: Progress | None = None

    def run(self) -> dict[str, object]:
        """Train what is not finished, measure, write ``judge.json`` and return what it holds."""
        finished, config = self.work / "judge.json", dump_config(self.recipe).encode()
        if finished.exists() and (self.work / "config.yaml").read_bytes() == config:
            return json.loads(finished.read_text(encoding="utf-8"))
        atomic_write(self.work / "config.yaml", config)
        figures: dict[str, object] = {"segmenter": self._segmenter()}
        if "prior" in self.roles:
            figures["styles"] = self._styles()
        atomic_write(finished, (json.dumps(figures, indent=2) + "\n").encode())
        return figures

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that the judge learns from."""
        return self.recipe.roles or tuple(ROLES)

    def _segmenter(self) -> dict[str, object]:
        caches = [cache for role in self.roles for cache in self._scenes(role)]
        task = SegmenterTask(CropSampler(caches, self.recipe.segmenter), self.recipe.seed)
        module = self._fitted(task, self.recipe.segmenter)
        export(module, self.work / "segmenter.onnx", ("logits", "features"), size=self.recipe.height)
        return {role: score_segmenter(module, self._unseen(role)) for role in ROLES}

    def _styles(self) -> dict[str, object]:
        stage = self.recipe.styles
        task = StyleTask(StyleSampler(self._scenes("prior")[0], stage.disturb), self.recipe.seed + 1)
        module = self._fitted(task, stage)
        export(module, self.work / "styles.onnx", ("logits",), classes=STYLE_NAMES)
        return score_styles(module, self._unseen("prior"))

    def _fitted(self, task: SegmenterTask | StyleTask, stage: Optimisation) -> nn.Module:
        """The trained network, on the CPU and in eval mode."""
        fit(task, stage, self.work / task.name, progress=self.progress)
        module = task.module.cpu()
        # The averaged weights never saw a batch: their norms' statistics belong to the weights before averaging.
        first = stage.steps * stage.batch
        starts = range(first, first + NORM_BATCHES * stage.batch, stage.batch)
        batches = (torch.stack([task.sample(i)["image"] for i in range(n, n + stage.batch)]) for n in starts)
        update_bn((to_input(batch) for batch in batches), module)
        return module.eval()

    def _scenes(self, role: str) -> list[SceneCache]:
        counts: JudgeScenes = getattr(self.recipe, role if role in ("prior", "source") else "other")
        return [
            self._render(f"{role}{zoom}", role, count, self.recipe.seed + zoom - 1, zoom)
            for zoom, count in ((1, counts.zoom1), (2, counts.zoom2))
            if count
        ]

    def _unseen(self, role: str) -> SceneCache:
        return self._render(f"{role}-unseen", role, self.recipe.unseen, self.recipe.unseen_seed, 1)

    def _render(self, name: str, role: str, count: int, seed: int, zoom: int) -> SceneCache:
        report = within(self.progress, f"scenes/{name}")
        folder = self.work / "scenes" / name
        return render_scenes(folder, role, count, seed, self.recipe.height * zoom, self.recipe.workers, report)


@torch.no_grad()
def score_segmenter(module: nn.Module, cache: SceneCache) -> dict[str, object]:
    """Scores (:func:`dgkit.data.scores.summary`) of a network in eval mode on whole scenes."""
    total: np.ndarray | int = 0
    for image, label in zip(cache.images, cache.labels, strict=True):
        logits, _ = module(to_input(torch.from_numpy(image[None].copy())))
        total = total + confusion(label, logits.argmax(1)[0].numpy())
    return summary(np.asarray(total))


@torch.no_grad()
def score_styles(module: nn.Module, cache: SceneCache) -> dict[str, object]:
    """Accuracy and confusion (rows: true) of a network in eval mode on the middle square of each scene."""
    matrix = np.zeros((len(STYLE_NAMES), len(STYLE_NAMES)), int)
    for image, caption in zip(cache.images, cache.captions, strict=True):
        logits = module(to_input(torch.from_numpy(centre_square(image, STYLE_SIZE)[None])))
        matrix[STYLE_NAMES.index(style_of(caption)), int(logits.argmax())] += 1
    return {
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "styles": list(STYLE_NAMES),
        "confusion": matrix.tolist(),
    }
