"""Sources of label maps: a folder, a data set, arrays, or a table of jobs."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from dgkit.data.datasets import label_arrays, open_source
from dgkit.data.index import MAX_SCALE, ClassIndex, build_index, default_cache
from dgkit.data.plausibility import doubt
from dgkit.data.samples import Dataset
from dgkit.errors import UsageError
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.job_table import read_jobs
from dgkit.progress import Advance, Notify
from dgkit.taxonomies import find_taxonomy

_PROBED = 32  # label maps whose size is read to find the usual size of a set


def open_files(config: GenerateConfig, arrays: Sequence[np.ndarray] | None = None) -> Dataset | None:
    """Return the label maps that the settings name, None for the city. Files are listed, not read.

    ``arrays`` are the label maps of settings that state a number of ``arrays``. Raises UsageError for an unknown data
    set, split or encoding, InputError for a folder without label maps.
    """
    if config.arrays is not None:
        if arrays is None:
            raise UsageError(
                f"the settings are for {config.arrays} label maps that were passed as arrays in Python",
                "pass them again: dgkit.generate(OUT, labels=[array, ...]), or another source such as --labels DIR",
            )
        return label_arrays(arrays, config.encoding, find_taxonomy(config.taxonomy))
    if config.jobs is not None:
        return read_jobs(config.jobs, config.encoding, find_taxonomy(config.taxonomy)).dataset
    if config.labels is not None or config.dataset is not None:
        return open_source(config.labels, config.dataset, config.split, config.encoding, find_taxonomy(config.taxonomy))
    for name in ("encoding", "split"):
        if getattr(config, name) is not None:
            raise UsageError(
                f"--{name} needs label maps: the procedural city has no {name}", f"drop --{name}, or add --labels DIR"
            )
    return None


def index_files(
    dataset: Dataset,
    config: GenerateConfig,
    label_height: int | None,
    size: tuple[int, int],
    progress: Advance | None = None,
    notify: Notify | None = None,
) -> ClassIndex:
    """Return the class counts of every label map.

    The maps are scaled by the ``label_scale`` of the settings, else as :func:`filling_scale` says. ``notify`` gets a
    line if that is not the scale of the model, and one if the maps look like those of another id system. Raises
    LabelError that names the files that are not label maps.
    """
    if notify is not None and (warning := doubt(dataset)) is not None:
        notify(warning)
    scale = chosen_scale(dataset, config.label_scale, label_height, size, notify)
    is_single = config.arrays is not None or config.jobs is not None  # no folder that other runs read
    cache = None if is_single else default_cache(dataset)
    return build_index(dataset, scale=scale, workers=config.readers, cache=cache, progress=progress)


def chosen_scale(
    dataset: Dataset,
    label_scale: float | None,
    label_height: int | None,
    size: tuple[int, int],
    notify: Notify | None = None,
) -> float:
    """Return ``label_scale``, else that of a model with this ``label_height``, enlarged to fill a crop of ``size``.

    ``notify`` gets a line if the latter is not the scale of the model.
    """
    if label_scale is not None:
        return label_scale
    usual = _usual_size(dataset)
    native = 1.0 if label_height is None else label_height / usual[0]
    scale = filling_scale(usual, size, native)
    if notify is not None and scale != native:
        notify(
            f"label maps scaled by {scale:.3g} instead of the model's {native:.3g}, so that maps of "
            f"{usual[1]:g}x{usual[0]:g} pixels fill images of {size[1]}x{size[0]}; set another with --label-scale"
        )
    return scale


def filling_scale(usual: tuple[float, float], size: tuple[int, int], native: float = 1.0) -> float:
    """Return ``native``, or the least scale at which maps of the ``usual`` (height, width) fill a crop of ``size``.

    The scale is at most :data:`~dgkit.data.index.MAX_SCALE`.
    """
    if all(round(side * native) >= pixels for side, pixels in zip(usual, size, strict=True)):
        return native
    return min(MAX_SCALE, max(pixels / side for side, pixels in zip(usual, size, strict=True)))


def padding_note(index: ClassIndex, size: tuple[int, int]) -> str | None:
    """Return a warning that label maps are smaller than a crop of ``size``, with the share that is padding."""
    covered = np.minimum(index.sizes, size).astype(np.int64).prod(axis=1) / (size[0] * size[1])
    small = covered[covered < 1]
    if not len(small):
        return None
    return (
        f"{len(small)} of {len(index.sizes)} label maps are smaller than images of {size[1]}x{size[0]} pixels at label "
        f"scale {index.scale:.3g}: {1 - small.mean():.0%} of such an image is ignored padding; use a smaller --size "
        "or a larger --label-scale"
    )


def cut_note(index: ClassIndex, size: tuple[int, int]) -> str | None:
    """Return a note that label maps are larger than images of ``size`` and only their centre is used."""
    large = np.flatnonzero((index.sizes > size).any(axis=1))
    if not len(large):
        return None
    height, width = index.sizes[large[0]].tolist()
    return (
        f"{len(large)} of {len(index.sizes)} label maps are larger than images of {size[1]}x{size[0]} pixels at label "
        f"scale {index.scale:.3g}: their centre is used; for whole maps such as the first of them use "
        f"--size {height}x{width}"
    )


def _usual_size(dataset: Dataset) -> tuple[float, float]:
    """Return the median height and width of maps spread over the set: some sets mix sizes; only headers are read."""
    step = max(1, len(dataset.samples) // _PROBED)
    heights, widths = zip(*(sample.size() for sample in dataset.samples[::step]), strict=True)
    return median(heights), median(widths)
