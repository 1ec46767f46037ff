"""Sources of label maps: a folder, a data set, or the procedural city."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from dgkit.data.datasets import Dataset, Sample, label_arrays, open_dataset, open_source
from dgkit.data.index import MAX_SCALE, ClassIndex, build_index, default_cache
from dgkit.data.plausibility import doubt
from dgkit.errors import UsageError
from dgkit.files import writable_cache
from dgkit.generation.generate_config import DEFAULT_WORLD, GenerateConfig
from dgkit.generation.job_table import read_jobs
from dgkit.progress import Advance, Notify

WORLD_HEIGHT = 256  # pixels of a city scene at label scale 1; it is twice as wide
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
        return label_arrays(arrays, config.encoding)
    if config.jobs is not None:
        return read_jobs(config.jobs, config.encoding).dataset
    if config.labels is not None or config.dataset is not None:
        return open_source(config.labels, config.dataset, config.split, config.encoding)
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


def index_world(
    config: GenerateConfig, label_height: int | None, size: tuple[int, int], progress: Advance | None = None
) -> ClassIndex:
    """Render the scenes of the city at the ``label_height`` of the model, and return their class counts.

    Scenes are never smaller than a crop of ``size`` (height, width), unless the settings state a ``label_scale``.
    Rendered scenes stay in the cache folder. Scene n of a seed does not depend on the number of scenes.
    """
    native = WORLD_HEIGHT if label_height is None else label_height
    heights = [max(size[0], math.ceil(size[1] / 2), native)]
    if config.source_digest is not None and label_height is not None:
        heights.append(label_height)  # folders of earlier versions, which padded large crops
    if config.label_scale is not None:
        heights = [round(WORLD_HEIGHT * config.label_scale)]
    for height in heights:
        count = config.world or DEFAULT_WORLD
        dataset = _world_dataset(count, config.seed, max(8, height), config.readers, progress)
        index = build_index(dataset, cache=default_cache(dataset), workers=config.readers)
        if config.source_digest in (None, index.digest):
            break
    return index


def _usual_size(dataset: Dataset) -> tuple[float, float]:
    """Return the median height and width of maps spread over the set: some sets mix sizes; only headers are read."""
    step = max(1, len(dataset.samples) // _PROBED)
    heights, widths = zip(*(sample.size() for sample in dataset.samples[::step]), strict=True)
    return median(heights), median(widths)


def _world_dataset(count: int, seed: int, height: int, workers: int, progress: Advance | None) -> Dataset:
    from dgkit.world import write_role

    folder = _world_folder(seed, height)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_role(
        folder, "source", count, seed, height=height, width=2 * height, workers=max(1, workers), progress=progress
    )
    dataset = open_dataset("gta", folder)
    found = dataset.samples[:count]  # an earlier run may have rendered more
    samples = tuple(Sample(f"city{seed}-{i:06d}", s.label, None, s.encoding) for i, s in enumerate(found))
    return dataclasses.replace(dataset, name="world", samples=samples)


def _world_folder(seed: int, height: int) -> Path:
    """Return a folder whose name changes with everything the scenes depend on, including the rendering code."""
    import cv2

    import dgkit.world

    digest = hashlib.sha256(f"{cv2.__version__} {seed} {height}".encode())
    for path in sorted(Path(dgkit.world.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return writable_cache() / "world" / digest.hexdigest()[:24]
