"""The procedural city as a source of label maps, which are drawn while the model is loaded."""

import dataclasses
import hashlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dgkit.data.datasets import open_dataset
from dgkit.data.index import ClassIndex, build_index, default_cache
from dgkit.data.samples import Dataset
from dgkit.files import writable_cache
from dgkit.generation.generate_config import DEFAULT_WORLD, GenerateConfig
from dgkit.progress import Advance
from dgkit.resources import usable_cores
from dgkit.taxonomies import Taxonomy, find_taxonomy

if TYPE_CHECKING:
    from dgkit.diffusion.model_folder import ModelInfo
    from dgkit.world.label_process import LabelRequest

WORLD_HEIGHT = 256  # pixels of a city scene at label scale 1; it is twice as wide
MOST_PROCESSES = 4  # that draw while the model is loaded
FEW_SCENES = 12  # fewer are drawn before a process has started


@contextmanager
def drawing_ahead(config: GenerateConfig, info: "ModelInfo", progress: Advance) -> Iterator[bool]:
    """Draw the label maps that :func:`index_world` needs in processes of their own while the block runs.

    Yields whether there are enough of them, and a core to do it. The end of the block waits for them.
    """
    size = config.size or (info.size, info.size)
    cores = len(usable_cores())
    workers = config.readers or min(MOST_PROCESSES, cores - 1)
    request = _request(config, _heights(config, info.defaults.label_height, size)[0], workers)
    from dgkit.world.label_process import count_missing, writing_labels

    if cores < 2 or not sys.executable or count_missing(request) < FEW_SCENES:
        yield False
        return
    progress(0, request.count)
    with writing_labels(request, progress):
        yield True


def index_world(
    config: GenerateConfig, label_height: int | None, size: tuple[int, int], progress: Advance | None = None
) -> ClassIndex:
    """Draw the label maps of the city at the ``label_height`` of the model, and return their class counts.

    They are never smaller than a crop of ``size`` (height, width), unless the settings state a ``label_scale``, and
    stay in the cache folder. Scene n of a seed does not depend on the number of scenes.
    """
    for height in _heights(config, label_height, size):
        request = _request(config, height, max(1, config.readers))
        dataset = _world_dataset(request, progress, find_taxonomy(config.taxonomy))
        index = build_index(dataset, cache=default_cache(dataset), workers=config.readers)
        if config.source_digest in (None, index.digest):
            break
    return index


def _heights(config: GenerateConfig, label_height: int | None, size: tuple[int, int]) -> list[int]:
    """Return the height in pixels of the label maps, and that of earlier versions if a run may depend on it."""
    native = WORLD_HEIGHT if label_height is None else label_height
    heights = [max(size[0], math.ceil(size[1] / 2), native)]
    if config.source_digest is not None and label_height is not None:
        heights.append(label_height)  # folders of earlier versions, which padded large crops
    if config.label_scale is not None:
        heights = [round(WORLD_HEIGHT * config.label_scale)]
    return [max(8, height) for height in heights]


def _request(config: GenerateConfig, height: int, workers: int) -> "LabelRequest":
    from dgkit.world.label_process import LabelRequest

    folder = str(_world_folder(config.seed, height))
    return LabelRequest(folder, config.world or DEFAULT_WORLD, config.seed, height, workers)


def _world_dataset(request: "LabelRequest", progress: Advance | None, taxonomy: Taxonomy) -> Dataset:
    from dgkit.world.label_process import write_labels

    write_labels(request, progress)
    dataset = open_dataset("gta", request.folder, taxonomy=taxonomy)
    found = dataset.samples[: request.count]  # an earlier run may have drawn more
    samples = tuple(dataclasses.replace(s, id=f"city{request.seed}-{i:06d}", image=None) for i, s in enumerate(found))
    return dataclasses.replace(dataset, name="world", samples=samples)


def _world_folder(seed: int, height: int) -> Path:
    """Return a folder whose name changes with everything the scenes depend on, including the rendering code."""
    import cv2

    import dgkit.world

    digest = hashlib.sha256(f"{cv2.__version__} {seed} {height}".encode())
    for path in sorted(Path(dgkit.world.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return writable_cache() / "world" / digest.hexdigest()[:24]
