"""The judge of generated images: trained on rendered scenes or photographs only, exported to ONNX with its scores.

A judge folder holds ``segmenter.onnx`` and ``styles.onnx``, each with a side-car YAML that describes its input, with an
encoder ``segmenter.safetensors``, the same weights for training a ControlNet with a reward,
``config.yaml`` with the recipe, ``judge.json`` with the scores on unseen scenes, and ``result.json`` with the digests
of these files.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from dgkit.config import read_recipe
from dgkit.data.pictures import centre_square
from dgkit.data.scores import confusion, summary
from dgkit.errors import InputError
from dgkit.files import atomic_write, json_bytes
from dgkit.labels import IGNORE
from dgkit.progress import Progress, within
from dgkit.prompts import STYLE_NAMES
from dgkit.segmenters.base import Normalization
from dgkit.segmenters.efficientnet_lite import IMAGENET, LiteSegmenter, save_lite
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from dgkit.training.data.captions import style_of
from dgkit.training.data.rendered_scenes import SceneCache, SceneCounts, SceneSet, render_scenes
from dgkit.training.judge.disturbed_crops import CropSampler, LabelledImages, StyleSampler
from dgkit.training.judge.judge_files import export
from dgkit.training.judge.judge_networks import STYLE_SIZE, SegmenterNetwork, StyleNetwork, normalization
from dgkit.training.judge.judge_recipe import JudgeRecipe
from dgkit.training.judge.photographs import open_photographs
from dgkit.training.loop.integrity import check_finite, find_result, read_object, record_result
from dgkit.training.loop.optimisation import FREE_ON_RESUME, Optimisation
from dgkit.training.loop.task import Tensors, TrainingTask
from dgkit.training.loop.trainer import fit
from dgkit.training.loop.training_folder import FolderTraining, remove_stale, write_recipe
from dgkit.world import ROLES

# May change between two runs of one training; more steps train further.
_FREE = frozenset({"workers", *(f"{stage}.{name}" for stage in ("segmenter", "styles") for name in FREE_ON_RESUME)})
ENCODER_LR = 0.2  # learning rate of a pretrained encoder relative to that of the new layers
NORM_BATCHES = 16  # for the statistics of the batch norms after training


def to_input(images: Tensor, norm: Normalization) -> Tensor:
    """Return uint8 [B,H,W,3] RGB as float32 [B,3,H,W], (x / 255 - mean) / std, channels last in memory."""
    mean, std = (torch.tensor(values, device=images.device) for values in (norm.mean, norm.std))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class SegmenterTask(TrainingTask):
    """Trains a segmenter on crops with weighted cross entropy.

    It is a :class:`SegmenterNetwork`, or a :class:`LiteSegmenter` if the stage of ``sampler`` names its encoder.
    ``data`` is a digest of what the crops are cut from.
    """

    name = "segmenter"

    def __init__(self, sampler: CropSampler, seed: int, data: str | None = None) -> None:
        torch.manual_seed(seed)
        classes = len(sampler.pixels)
        self.module = LiteSegmenter(classes) if sampler.stage.encoder else SegmenterNetwork(classes=classes)
        if isinstance(self.module, LiteSegmenter):
            self.module.encoder.load_pretrained(IMAGENET)
            self.parameter_scale = ("encoder.", ENCODER_LR)
        self.sampler, self.seed = sampler, seed
        self.identity = {"seed": seed} if data is None else {"seed": seed, "data": data}
        self.weights = torch.from_numpy(sampler.class_weights())

    def sample(self, index: int) -> Tensors:
        """Return ``image`` uint8 [crop,crop,3] and ``label`` uint8 [crop,crop]."""
        image, label = self.sampler.draw(np.random.default_rng([self.seed, index]))
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}

    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        """Return the weighted cross entropy per labelled pixel, a scalar."""
        logits, _ = module(to_input(batch["image"], normalization(self.module)))
        label = batch["label"].long()
        return functional.cross_entropy(
            logits.float(), label, self.weights.to(label.device), ignore_index=IGNORE, reduction="sum"
        ) / max(1, int((label != IGNORE).sum()))


class StyleTask(TrainingTask):
    """Trains a :class:`StyleNetwork` on whole images with cross entropy."""

    name = "styles"

    def __init__(self, sampler: StyleSampler, seed: int) -> None:
        torch.manual_seed(seed)
        self.module = StyleNetwork(len(STYLE_NAMES))
        self.sampler, self.seed = sampler, seed
        self.identity = {"seed": seed}

    def sample(self, index: int) -> Tensors:
        """Return ``image`` uint8 [128,128,3] and ``style`` int64 []."""
        image, style = self.sampler.draw(np.random.default_rng([self.seed, index]))
        return {"image": torch.from_numpy(image), "style": torch.tensor(style)}

    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        """Return the mean cross entropy, a scalar."""
        return functional.cross_entropy(module(to_input(batch["image"], StyleNetwork.norm)).float(), batch["style"])


@dataclass(frozen=True)
class JudgeTraining(FolderTraining[JudgeRecipe]):
    """A training in the folder ``work``; an interrupted one is resumed by running it again."""

    def run(self) -> dict[str, object]:
        """Train what is not finished, score it on unseen scenes, write ``judge.json`` and return its contents.

        Nothing is computed if the judge is finished and intact. Raises UsageError if ``work`` holds a judge of another
        recipe, OutputError if another training runs there.
        """
        with self.opened(_FREE):
            if self._is_finished():
                return self._scores()
            write_recipe(self.work, self.recipe)
            return self._train_all()

    def _is_finished(self) -> bool:
        """Return whether all files of the judge are there and intact; without a record, whether they are all there."""
        damage = find_result(self._record, self.work, **self._facts())
        if damage and self.notify:
            self.notify(f"the judge in {self.work} is damaged and is written again: {damage}")
        if self._record.exists():
            return damage == ""
        # A judge of an earlier version; its recipe is that of config.yaml, apart from the steps.
        recipe = read_recipe(self.work / "config.yaml") if (self.work / "judge.json").exists() else {}
        steps = {name: (recipe.get(name) or {}).get("steps") for name in self._facts()["steps"]}
        return steps == self._facts()["steps"] and all(path.exists() for path in self._files())

    @property
    def _record(self) -> Path:
        return self.work / "result.json"

    def _facts(self) -> dict[str, dict[str, int]]:
        return {"steps": {"segmenter": self.recipe.segmenter.steps, "styles": self.recipe.styles.steps}}

    def _files(self) -> list[Path]:
        names = ["segmenter", "styles"] if "prior" in self.roles else ["segmenter"]
        found = [self.work / f"{name}.{end}" for name in names for end in ("onnx", "yaml")]
        weights = [self.work / "segmenter.safetensors"] if self.recipe.segmenter.encoder else []
        return [*found, *weights, self.work / "judge.json"]

    def _scores(self) -> dict[str, object]:
        path = self.work / "judge.json"
        try:
            return read_object(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}", "delete it to score the judge again") from error

    def _train_all(self) -> dict[str, object]:
        self._record.unlink(missing_ok=True)
        remove_stale(self.work)
        scores: dict[str, object] = {"segmenter": self._segmenter()}
        if "prior" in self.roles:
            scores["styles"] = self._styles()
        atomic_write(self.work / "judge.json", json_bytes(scores))
        record_result(self._record, self.work, self._files(), **self._facts())
        return scores

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the city that the judge is trained on; none if it learns from photographs."""
        return () if self.recipe.real else self.recipe.roles or tuple(ROLES)

    def _segmenter(self) -> dict[str, object]:
        if self.recipe.real:
            return self._reader(self.recipe.real)
        caches = [cache for role in self.roles for cache in self._scenes(role)]
        module = self._train_segmenter(SegmenterTask(CropSampler(caches, self.recipe.segmenter), self.recipe.seed))
        return {role: score_segmenter(module, self._unseen(role)) for role in ROLES}

    def _reader(self, real: str) -> dict[str, object]:
        """Train and score the segmenter on the photographs ``real``."""
        known, unseen = (open_photographs(real, split) for split in ("train", "val"))
        task = SegmenterTask(CropSampler([known], self.recipe.segmenter), self.recipe.seed, known.digest)
        module = self._train_segmenter(task, known.taxonomy)
        return {real.partition("=")[0]: score_segmenter(module, unseen, known.taxonomy)}

    def _train_segmenter(self, task: SegmenterTask, taxonomy: Taxonomy = CITYSCAPES19) -> nn.Module:
        module = self._train(task, self.recipe.segmenter)
        path, outputs = self.work / "segmenter.onnx", ("logits", "features")
        export(module, path, outputs, taxonomy.names, self.recipe.height, taxonomy)
        if isinstance(module, LiteSegmenter):
            save_lite(module, path.with_suffix(".safetensors"))
        return module

    def _styles(self) -> dict[str, object]:
        stage = self.recipe.styles
        task = StyleTask(StyleSampler(self._scenes("prior")[0], stage.disturb), self.recipe.seed + 1)
        module = self._train(task, stage)
        export(module, self.work / "styles.onnx", ("logits",), classes=STYLE_NAMES)
        return score_styles(module, self._unseen("prior"))

    def _train(self, task: TrainingTask, stage: Optimisation) -> nn.Module:
        """Return the trained network, on the CPU and in eval mode."""
        return train_network(task, stage, self.work / task.name, self.progress)

    def _scenes(self, role: str) -> list[SceneCache]:
        counts: SceneCounts = getattr(self.recipe, role if role in ("prior", "source") else "other")
        sets = counts.sets(role, self.recipe.seed, self.recipe.height)
        return [self._render(f"{role}{zoom}", scenes) for zoom, scenes in enumerate(sets, 1)]

    def _unseen(self, role: str) -> SceneCache:
        scenes = SceneSet(role, self.recipe.unseen, self.recipe.unseen_seed, self.recipe.height)
        return self._render(f"{role}-unseen", scenes)

    def _render(self, name: str, scenes: SceneSet) -> SceneCache:
        progress = within(self.progress, f"scenes/{name}")
        return render_scenes(self.work / "scenes" / name, scenes, self.recipe.workers, progress)


def train_network(task: TrainingTask, stage: Optimisation, folder: Path, progress: Progress | None) -> nn.Module:
    """Train a network of a judge, or resume, and return it on the CPU and in eval mode; raises as :func:`fit`."""
    fit(task, stage, folder, progress=progress)
    module = task.module.cpu()
    # The batch norms' statistics belong to the weights before averaging, so they are measured again.
    first = stage.steps * stage.batch
    starts = range(first, first + NORM_BATCHES * stage.batch, stage.batch)
    batches = (torch.stack([task.sample(i)["image"] for i in range(n, n + stage.batch)]) for n in starts)
    update_bn((to_input(batch, normalization(module)) for batch in batches), module)
    hint = "train again in another folder with a lower lr"
    check_finite(module.state_dict(), f"the trained {task.name} network", hint)
    return module.eval()


@torch.no_grad()
def score_segmenter(module: nn.Module, images: LabelledImages, taxonomy: Taxonomy = CITYSCAPES19) -> dict[str, object]:
    """Return the scores (:func:`dgkit.data.scores.summary`) of a network in eval mode on whole images."""
    total: np.ndarray | int = 0
    norm = normalization(module)
    for number in range(len(images)):
        image, label = images.images[number], images.labels[number]
        padding = [(0, -side % (norm.multiple_of or 1)) for side in label.shape]
        padded = np.pad(image, (*padding, (0, 0)), mode="edge")
        logits = module(to_input(torch.from_numpy(padded[None]), norm))[0][..., : label.shape[0], : label.shape[1]]
        total = total + confusion(label, logits.argmax(1)[0].numpy(), classes=taxonomy.size)
    return summary(np.asarray(total), taxonomy)


@torch.no_grad()
def score_styles(module: nn.Module, cache: SceneCache) -> dict[str, object]:
    """Return accuracy and confusion matrix (rows: true) of a network in eval mode on the centre of each scene."""
    matrix = np.zeros((len(STYLE_NAMES), len(STYLE_NAMES)), int)
    for image, caption in zip(cache.images, cache.captions, strict=True):
        view = torch.from_numpy(centre_square(image, STYLE_SIZE)[None])
        logits = module(to_input(view, StyleNetwork.norm))
        matrix[STYLE_NAMES.index(style_of(caption)), int(logits.argmax())] += 1
    return {
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "styles": list(STYLE_NAMES),
        "confusion": matrix.tolist(),
    }
