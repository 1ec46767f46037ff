"""Sources of label maps: a folder, a data set, or the procedural city."""

import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path
from statistics import median

from dgkit.data.datasets import Dataset, Sample, open_dataset, open_source
from dgkit.data.index import ClassIndex, build_index, default_cache
from dgkit.data.labelmap import label_size
from dgkit.errors import UsageError
from dgkit.files import cache_folder
from dgkit.generation.generate_config import DEFAULT_WORLD, GenerateConfig
from dgkit.progress import Advance

WORLD_HEIGHT = 256  # pixels of a city scene at label scale 1; it is twice as wide
_PROBED = 32  # label maps whose size is read to find the usual height of a set


def open_files(config: GenerateConfig) -> Dataset | None:
    """Return the label maps that the settings name, None for the city. Files are listed, not read.

    Raises UsageError for an unknown data set, split or encoding, InputError for a folder without label maps.
    """
    if config.labels is not None or config.dataset is not None:
        return open_source(config.labels, config.dataset, config.split, config.encoding)
    for name in ("encoding", "split"):
        if getattr(config, name) is not None:
            raise UsageError(
                f"--{name} needs label maps: the procedural city has no {name}", f"drop --{name}, or add --labels DIR"
            )
    return None


def index_files(
    dataset: Dataset, config: GenerateConfig, label_height: int | None, progress: Advance | None = None
) -> ClassIndex:
    """Return the class counts of every label map.

    The maps are scaled by the ``label_scale`` of the settings, else to ``label_height`` pixels, else not at all.
    Raises LabelError that names the files that are not label maps.
    """
    scale = config.label_scale
    if scale is None:
        scale = 1.0 if label_height is None else label_height / _usual_height(dataset)
    cache = default_cache(dataset)
    return build_index(dataset, scale=scale, workers=config.readers, cache=cache, progress=progress)


def index_world(
    config: GenerateConfig, label_height: int | None, size: tuple[int, int], progress: Advance | None = None
) -> ClassIndex:
    """Render the scenes of the city at the ``label_height`` of the model, and return their class counts.

    Without a ``label_height``, scenes are large enough for a crop of ``size`` (height, width). Rendered scenes stay in
    the cache folder. Scene n of a seed does not depend on the number of scenes.
    """
    natural = max(size[0], size[1] / 2, WORLD_HEIGHT) if label_height is None else label_height
    height = max(8, round(natural if config.label_scale is None else WORLD_HEIGHT * config.label_scale))
    count = config.world or DEFAULT_WORLD
    dataset = _world_dataset(count, config.seed, height, config.readers, progress)
    return build_index(dataset, cache=default_cache(dataset), workers=config.readers)


def _usual_height(dataset: Dataset) -> float:
    """Return the median height of maps spread over the set: some sets mix sizes, and headers are cheap to read."""
    step = max(1, len(dataset.samples) // _PROBED)
    return median(label_size(sample.label)[0] for sample in dataset.samples[::step])


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
    root = cache_folder()
    if not _writable(root):
        root = Path(tempfile.gettempdir()) / f"dgkit-{os.getuid() if hasattr(os, 'getuid') else 0}"
    return root / "world" / digest.hexdigest()[:24]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
