"""The files of a generated image as bytes: label, image, the two side by side, and the record with their digests."""

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dgkit.data.labelmap import colorize
from dgkit.data.records import Attempt, Record, file_names
from dgkit.generation.jobs import Job
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

if TYPE_CHECKING:
    from dgkit.diffusion.sampler import SceneResult

EncodedImage = tuple[Record, dict[str, bytes]]
"""A record, and the content of each file by its path in the output folder, in the order of writing."""


@dataclass(frozen=True)
class GeneratedImage:
    """The result of a job. ``job.seed`` is the seed of ``result``, also if it is not the first attempt.

    With a judge, ``attempts`` lists every attempt in order, and ``accepted`` is False if ``result``, the best of them,
    is below the required agreement. Without a judge ``attempts`` is empty.
    """

    job: Job
    result: "SceneResult"
    attempts: tuple[Attempt, ...] = ()
    accepted: bool = True


def encode(generated: GeneratedImage) -> EncodedImage:
    """Return the record and the PNG files of an image: label uint8 [H,W], image uint8 [H,W,3] RGB, vis [H,3W,3]."""
    job, result = generated.job, generated.result
    names = file_names(job.id)
    label, image = png(job.label), png(result.image)
    record = Record(
        index=job.index,
        id=job.id,
        image=names["image"],
        label=names["label"],
        vis=names["vis"],
        source=job.source,
        class_name=job.class_name,
        crop=(job.box.x, job.box.y, job.box.width, job.box.height),
        label_scale=job.label_scale,
        rule_met=job.rule_met,
        prompt=job.prompt,
        prompt_used=result.prompt,
        style=job.style,
        seed=job.seed,
        retried=result.retried,
        image_sha256=hashlib.sha256(image).hexdigest(),
        label_sha256=hashlib.sha256(label).hexdigest(),
        attempts=generated.attempts,
        accepted=generated.accepted,
        negative_prompt=job.negative_prompt,
        guidance_scale=job.guidance_scale,
    )
    files = {
        record.label: label,
        record.image: image,
        record.vis: png(side_by_side(result.image, job.label, job.taxonomy)),
    }
    return record, files


def side_by_side(image: np.ndarray, label: np.ndarray, taxonomy: Taxonomy = CITYSCAPES19) -> np.ndarray:
    """Return image, label colours and a half-half blend next to each other: uint8 [H,3W,3] RGB."""
    colours = colorize(label, taxonomy)
    blend = ((image.astype(np.uint16) + colours) // 2).astype(np.uint8)
    return np.concatenate([image, colours, blend], axis=1)


def png(array: np.ndarray) -> bytes:
    """Return uint8 [H,W] or [H,W,3] as PNG bytes; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()
