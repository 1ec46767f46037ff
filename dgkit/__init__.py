"""dgkit: an optimized deployment toolkit for DGInStyle.

The names below are imported on first use, so that ``import dgkit`` stays instant and free of torch::

    import dgkit

    result = dgkit.generate("out", labels="gta/labels", count=12, style_mix="uniform")
    print(result.contact_sheet, result.images_per_hour)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dgkit.data.labelmap import read_label
    from dgkit.data.records import Record
    from dgkit.diffusion.loading import embedded_model, load_pipeline
    from dgkit.diffusion.pipeline import one_hot
    from dgkit.diffusion.presets import Preset, find_preset
    from dgkit.diffusion.sampler import SceneRequest, SceneResult, sample
    from dgkit.diffusion.style_swap import SwapReport, swap
    from dgkit.errors import DgkitError
    from dgkit.generation.generate_config import GenerateConfig
    from dgkit.generation.preview import PreviewResult, preview
    from dgkit.generation.result import GenerateResult
    from dgkit.generation.run import generate
    from dgkit.styles import Style
    from dgkit.taxonomies import Taxonomy, find_taxonomy
    from dgkit.world import Scene, render

_HOMES = {
    "DgkitError": "dgkit.errors",
    "GenerateConfig": "dgkit.generation.generate_config",
    "GenerateResult": "dgkit.generation.result",
    "Preset": "dgkit.diffusion.presets",
    "PreviewResult": "dgkit.generation.preview",
    "Record": "dgkit.data.records",
    "Scene": "dgkit.world",
    "SceneRequest": "dgkit.diffusion.sampler",
    "SceneResult": "dgkit.diffusion.sampler",
    "Style": "dgkit.styles",
    "SwapReport": "dgkit.diffusion.style_swap",
    "Taxonomy": "dgkit.taxonomies",
    "embedded_model": "dgkit.diffusion.loading",
    "find_preset": "dgkit.diffusion.presets",
    "find_taxonomy": "dgkit.taxonomies",
    "generate": "dgkit.generation.run",
    "load_pipeline": "dgkit.diffusion.loading",
    "one_hot": "dgkit.diffusion.pipeline",
    "preview": "dgkit.generation.preview",
    "read_label": "dgkit.data.labelmap",
    "render": "dgkit.world",
    "sample": "dgkit.diffusion.sampler",
    "swap": "dgkit.diffusion.style_swap",
}

__all__ = [
    "DgkitError",
    "GenerateConfig",
    "GenerateResult",
    "Preset",
    "PreviewResult",
    "Record",
    "Scene",
    "SceneRequest",
    "SceneResult",
    "Style",
    "SwapReport",
    "Taxonomy",
    "__version__",
    "embedded_model",
    "find_preset",
    "find_taxonomy",
    "generate",
    "load_pipeline",
    "one_hot",
    "preview",
    "read_label",
    "render",
    "sample",
    "swap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dgkit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
