"""Open a segmenter of any kind: an ONNX file, a checkpoint of mmsegmentation or dgkit, or a transformers folder."""

from pathlib import Path

from dgkit.engines.engine_choice import installed
from dgkit.engines.runner import known_engine
from dgkit.errors import UsageError
from dgkit.progress import Notify
from dgkit.segmenters.base import ModuleSegmenter, ModuleSource, Segmenter
from dgkit.segmenters.efficientnet_lite import lite_source
from dgkit.segmenters.mmseg import mmseg_source
from dgkit.segmenters.onnx import OnnxSegmenter
from dgkit.segmenters.onnx_session import SEGMENTER_HINT
from dgkit.segmenters.transformers import transformers_source
from dgkit.taxonomies import Taxonomy

CHECKPOINTS = (".pth", ".pt")  # file endings of mmsegmentation


def open_segmenter(
    path: Path | str,
    engine: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    *,
    config: Path | None = None,
    batch: int = 4,
    notify: Notify | None = None,
    taxonomy: Taxonomy | None = None,
) -> Segmenter:
    """Return the segmenter at ``path``: an ONNX file with its side-car, or a checkpoint that :func:`find_source` knows.

    ``engine`` auto: torch for a checkpoint; for an ONNX file ort, or openvino where only that is installed. ``dtype``
    auto: fp32, since scores should not depend on the machine. ``taxonomy``: the classes to predict, by default those
    that the segmenter states. Raises UsageError for a path, a config or an engine that
    does not fit, InputError (ModelError) for a damaged file, MissingDependency.
    """
    path = Path(path)
    dtype = "fp32" if dtype == "auto" else dtype
    if engine != "auto":
        known_engine(engine)
    if path.suffix == ".onnx" and config is None:
        return OnnxSegmenter(path, _onnx_engine() if engine == "auto" else engine, dtype, device, taxonomy=taxonomy)
    used = "torch" if engine == "auto" else engine
    return ModuleSegmenter(
        find_source(path, config), used, dtype, device, batch=batch, notify=notify, taxonomy=taxonomy
    )


def _onnx_engine() -> str:
    others = not installed("ort", build=False) and installed("openvino", build=False)
    return "openvino" if others else "ort"


def find_source(path: Path, config: Path | None = None) -> ModuleSource:
    """Return the checkpoint at ``path`` as a torch module.

    ``config`` is the config file of an mmsegmentation checkpoint; it is executed. Raises UsageError for an unknown kind
    of file, and what the readers of a known kind raise.
    """
    if path.suffix in CHECKPOINTS:
        return mmseg_source(path, config)
    if config is not None:
        raise UsageError(
            f"--config {config} cannot be combined with {path}: only checkpoints "
            f"(*{' and *'.join(CHECKPOINTS)}) have a config",
            "omit --config",
        )
    if path.suffix == ".safetensors":
        return lite_source(path)
    if path.is_dir() and (path / "config.json").is_file():
        return transformers_source(path)
    raise UsageError(
        f"{path} is not a segmenter; allowed: an .onnx file, a checkpoint of mmsegmentation (.pth), a "
        "transformers folder with config.json, a .safetensors file of dgkit train judge",
        SEGMENTER_HINT,
    )
