"""Generated folders for tests, written by the writer of ``dgkit generate`` in milliseconds."""

from pathlib import Path

import numpy as np

from dgkit.data.crops import CropBox
from dgkit.diffusion.sampler import SceneResult
from dgkit.generation.encoding import GeneratedImage, encode
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import Job
from dgkit.generation.writer import OutputFolder
from dgkit.prompts import STYLES
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from tests.scenes import make_label

HEIGHT, WIDTH = 96, 128
CLASSES = ("car", "train", None)
# "test" and "train" between hyphens: names that `datasets` would take for splits.
SOURCE = "a-test.v1"


def make_job(index: int, taxonomy: Taxonomy = CITYSCAPES19) -> Job:
    label = make_label(index, HEIGHT, WIDTH)
    name = CLASSES[index % 3]
    if not taxonomy.is_default:
        label = np.where(label == 255, label, label % taxonomy.size).astype(np.uint8)
        name = name and taxonomy.names[index % taxonomy.size]
    parts = [f"{index:06d}", SOURCE, *([name] if name else [])]
    style = STYLES[index % len(STYLES)]
    prompt = f"A city street scene with </script> & <b>road</b>, in {style} weather."
    box = CropBox(3, 5, WIDTH, HEIGHT)
    return Job(index, "_".join(parts), SOURCE, name, box, 1.0, True, prompt, style, 2**63 - 1 - index, label, taxonomy)


def make_image(index: int) -> np.ndarray:
    """Smooth with a little noise, a file of a few kB: uint8 [H,W,3]."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, WIDTH)
    image[..., 1] = np.linspace(0, 255, HEIGHT)[:, None]
    image[..., 2] = index * 16 % 256 + np.random.default_rng(index).integers(0, 4, (HEIGHT, WIDTH))
    return image


def make_generated(out: Path, count: int = 7, written: int | None = None, taxonomy: Taxonomy = CITYSCAPES19) -> Path:
    """A folder of ``count`` scenes, the first ``written`` of them there."""
    config = GenerateConfig(
        count=count, world=5, size=(HEIGHT, WIDTH), source_digest="s" * 64, model_digest="m" * 64, guidance_scale=3.0,
        preset="exact", engine="torch", dtype="fp32", batch=8, workers=0, taxonomy=taxonomy.recorded(),
    )  # fmt: skip
    folder = OutputFolder(out)
    with folder.opened(config):
        for index in range(count if written is None else written):
            job = make_job(index, taxonomy)
            folder.add(encode(GeneratedImage(job, SceneResult(make_image(index), None, job.prompt))))
        folder.finish("title", "note", taxonomy)
    return out
