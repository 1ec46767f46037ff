"""Calls of the denoiser, recorded while it generates scenes: some calibrate int8, others verify the result.

The scenes are generated in one pass in fp32 from labels of :mod:`dgkit.world`. They run in lockstep, so that every
scene covers every timestep of the published schedule, with and without text. No file is read or downloaded.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.diffusion.model_folder import ModelInfo, ModelSource
from dgkit.diffusion.noise import seeded_noise
from dgkit.diffusion.part_config import TEXT_ENCODERS
from dgkit.diffusion.passes import Run, SceneRequest
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.presets import PRESETS
from dgkit.engines.runner import Calibration, Call, Network
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError
from dgkit.prompts import STYLES
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

FORMAT = 1  # increase it when a change in dgkit records other calls for the same model and settings
SEED = 77
PRESET = PRESETS["one-pass"]
SAMPLES_PER_STEP = 3  # samples per timestep for calibration; one more is held out
_CELLS = 8192  # latent cells of all scenes together: eight scenes of the embedded model
_MIN_SCENES, _MAX_SCENES = 3, 8
_NETWORKS = ("text_encoder", "condition")


def denoiser_calibration(model: ModelSource, networks: Mapping[str, Network]) -> Calibration:
    """Return the calibration of the denoiser among ``networks``, the networks of ``model``."""
    return Calibration(lambda: record_calls(model, networks), lambda: _facts(model))


def record_calls(model: ModelSource, networks: Mapping[str, Network]) -> tuple[list[Call], list[Call]]:
    """Return the inputs of the calibration calls, and the inputs and ``prediction`` of the held-out calls.

    Each call is one sample; floats are float32, timesteps int64. Held-out calls come from scenes of their own. A larger
    model generates fewer scenes, see :func:`scene_count`. Releases the parts of ``model`` at the end. Raises
    EngineError if a value is not finite.
    """
    count = scene_count(model.info)
    requests = [scene_request(model.info, number) for number in range(count)]
    recorder = _Recorder(networks["denoiser"])
    recorder.scenes = count
    runners = {name: TorchRunner(networks[name]) for name in _NETWORKS} | {"denoiser": recorder}
    try:
        with Pipeline(model.info, runners, model.tokenizer()) as pipeline, torch.inference_mode():
            run = Run(pipeline, PRESET, 2 * count, seeded_noise)  # one call per step: all scenes, both halves
            run.first_pass(run.scenes(requests))
    finally:
        model.release()
    return recorder.calibrating, recorder.kept


def scene_count(info: ModelInfo) -> int:
    """Return the number of scenes to generate, 3 to 8; fewer for a model with more latent cells."""
    return max(_MIN_SCENES, min(_MAX_SCENES, _CELLS // info.tile**2))


def held_out_count(scenes: int) -> int:
    """Return how many of ``scenes``, the last ones, are held out: a quarter, at least one."""
    return max(1, scenes // 4)


def scene_request(info: ModelInfo, number: int) -> SceneRequest:
    """Return a crop of scene ``number`` of the city in the model's own size, with one of the styles."""
    from dgkit.world import render

    height = max(info.defaults.label_height or 0, info.size, 32)
    label = render("source", SEED, number, height=height, width=2 * height).label
    y, x = np.random.default_rng([SEED, number]).integers(0, np.array(label.shape) - info.size + 1)
    label = _as_classes(np.ascontiguousarray(label[y : y + info.size, x : x + info.size]), info.taxonomy)
    return SceneRequest(label, "", SEED + number, STYLES[number % len(STYLES)], info.taxonomy)


def _as_classes(label: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """Return a label of the city with the classes of ``taxonomy``: by its table, else any class for each of the 19."""
    if taxonomy.is_default:
        return label
    mapped = taxonomy.table_from(CITYSCAPES19)[label] if CITYSCAPES19.name in taxonomy.map else label % taxonomy.size
    return mapped.astype(np.uint8)


def calibrating_places(step: int, scenes: int, halves: int) -> list[tuple[int, int]]:
    """Return (scene, guidance half) of the calibration samples of a step; over the steps all are used equally often."""
    places = (scenes - held_out_count(scenes)) * halves
    chosen = dict.fromkeys((SAMPLES_PER_STEP * step + turn) % places for turn in range(SAMPLES_PER_STEP))
    return [(place // halves, place % halves) for place in chosen]


def held_out_place(step: int, scenes: int, halves: int) -> tuple[int, int]:
    """Return (scene, guidance half) of the held-out sample of a step."""
    held = held_out_count(scenes)
    return scenes - held + step % held, step // held % halves


class _Recorder(TorchRunner):
    """Records some of the samples that it is called with; each call is one step of all ``scenes``."""

    scenes = 1

    def _open(self) -> None:
        super()._open()
        self.step, self.calibrating, self.kept = 0, list[Call](), list[Call]()

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        outputs = super().__call__(**tensors)
        if not all(bool(torch.isfinite(value).all()) for value in outputs.values()):
            raise EngineError(
                "calibration for int8 failed: the denoiser returned values that are not finite in fp32",
                "check the model folder, or use --dtype bf16",
            )
        halves = len(tensors["latents"]) // self.scenes

        def sample(place: tuple[int, int], values: Mapping[str, Tensor]) -> Call:
            row = place[0] + place[1] * self.scenes
            return {name: value[row : row + 1].numpy().copy() for name, value in values.items()}

        places = calibrating_places(self.step, self.scenes, halves)
        self.calibrating += [sample(place, tensors) for place in places]
        self.kept.append(sample(held_out_place(self.step, self.scenes, halves), {**tensors, **outputs}))
        self.step += 1
        return outputs


def _facts(model: ModelSource) -> dict[str, int | str]:
    info = model.info
    rest: dict[str, Any] = {
        "format": FORMAT,
        "text_encoder": model.digest(*TEXT_ENCODERS[: 2 if info.pooled_width else 1]),
        "scheduler": info.scheduler,
        "guidance": info.defaults.guidance_scale,
        "label_height": info.defaults.label_height,
        **({} if info.taxonomy.is_default else {"taxonomy": info.taxonomy.document()}),
    }
    return {
        "calibration_seed": SEED,
        "calibration_scenes": scene_count(info),
        "calibration_samples": SAMPLES_PER_STEP * PRESET.steps,
        "calibration_from": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest(),
    }
