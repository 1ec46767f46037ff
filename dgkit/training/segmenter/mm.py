"""The names of mmsegmentation, mmcv and mmengine that the training of segmenters uses.

Importing this module takes some seconds and raises MissingDependency without the extra ``seg``.
"""

import warnings
from typing import Any

from dgkit.optional import require

EXTRA = "seg"


def _load(module: str) -> Any:
    with warnings.catch_warnings():
        # mmcv warns that its compiled operators are missing; no network of dgkit needs them.
        warnings.simplefilter("ignore")
        return require(module, EXTRA)


_load("mmengine")
_load("mmcv")
_bricks = _load("mmcv.cnn")
_transforms = _load("mmcv.transforms")
_models = _load("mmseg.models")
_datasets = _load("mmseg.datasets")
_registry = _load("mmseg.registry")
_model = _load("mmengine.model")
_hooks = _load("mmengine.hooks")
_evaluation = _load("mmseg.evaluation")  # registers IoUMetric
_load("mmseg.visualization")

BaseDecodeHead: Any = _load("mmseg.models.decode_heads.decode_head").BaseDecodeHead
BaseSegmentor: Any = _models.BaseSegmentor
EncoderDecoder: Any = _models.EncoderDecoder
UPerHead: Any = _models.UPerHead
ConvModule: Any = _bricks.ConvModule
DepthwiseSeparableConvModule: Any = _bricks.DepthwiseSeparableConvModule
resize: Any = _load("mmseg.models.utils").resize
MODELS: Any = _registry.MODELS
DATASETS: Any = _registry.DATASETS
TRANSFORMS: Any = _registry.TRANSFORMS
HOOKS: Any = _registry.HOOKS
OPTIM_WRAPPERS: Any = _registry.OPTIM_WRAPPERS
BaseTransform: Any = _transforms.BaseTransform
Compose: Any = _transforms.Compose
RandomCrop: Any = _datasets.transforms.RandomCrop
Hook: Any = _hooks.Hook
pseudo_collate: Any = _load("mmengine.dataset").pseudo_collate
OptimWrapper: Any = _load("mmengine.optim").OptimWrapper
MMConfig: Any = _load("mmengine.config").Config
Runner: Any = _load("mmengine.runner").Runner
CheckpointHook: Any = _hooks.CheckpointHook
master_only: Any = _load("mmengine.dist").master_only
MMLogger: Any = _load("mmengine.logging").MMLogger
init_default_scope: Any = _load("mmengine.registry").init_default_scope
