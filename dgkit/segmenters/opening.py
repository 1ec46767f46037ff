"""Open a segmenter of any kind: an ONNX file, a checkpoint of mmsegmentation or a transformers folder."""

from pathlib import Path

from dgkit.engines.engine_recipe import known_engine
from dgkit.errors import UsageError
from dgkit.progress import Notify
from dgkit.segmenters.base import ModuleSegmenter, ModuleSource, Segmenter
from dgkit.segmenters.mmseg import mmseg_source
from dgkit.segmenters.onnx import OnnxSegmenter
from dgkit.segmenters.transformers import transformers_source

CHECKPOINTS = (".pth", ".pt")  # file endings of mmsegmentation


def open_segmenter(
    path: Path | str,
    engine: str | None = None,
    dtype: str = "fp32",
    device: str = "auto",
    *,
    config: Path | None = None,
    batch: int = 4,
    notify: Notify | None = None,
) -> Segmenter:
    """Return the segmenter at ``path``: an ONNX file with its side-car, or a checkpoint that :func:`find_source` knows.

    ``engine`` None: ort for an ONNX file, else torch. Raises UsageError for a path, a config or an engine that does not
    fit, InputError (ModelError) for a damaged file, MissingDependency.
    """
    path = Path(path)
    if engine is not None:
        known_engine(engine)
    if path.suffix == ".onnx" and config is None:
        return OnnxSegmenter(path, engine or "ort", dtype, device)
    return ModuleSegmenter(find_source(path, config), engine or "torch", dtype, device, batch=batch, notify=notify)


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
    if path.is_dir() and (path / "config.json").is_file():
        return transformers_source(path)
    raise UsageError(
        f"{path} is not a segmenter; allowed: an .onnx file, a checkpoint of mmsegmentation (.pth), a transformers "
        "folder with config.json",
        "dgkit train segmenter and dgkit train judge write a segmenter.onnx",
    )
