"""Calls that the denoiser gets while it draws scenes of the city: int8 is calibrated by them and verified on others.

The scenes are drawn in one pass and in fp32 from labels of :mod:`dgkit.world`, in lockstep, so that every timestep of
the published schedule is met by every scene, with the text and without. Nothing is read or downloaded for it.
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
from dgkit.diffusion.passes import Run, SceneRequest, SceneState
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.presets import PRESETS
from dgkit.engines.runner import Calibration, Call, Network
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError
from dgkit.prompts import STYLES, caption, compose

FORMAT = 1  # raise it whenever a change in dgkit makes other calls of the same model and settings
SEED = 77
PRESET = PRESETS["one-pass"]
EACH = 3  # calibrating samples of a timestep; of those held out there is one
_CELLS = 8192  # latent cells of all scenes together: eight scenes of the embedded model
_LEAST, _MOST = 3, 8  # scenes, of which every fourth is held out, and one at least
_NETWORKS = ("text_encoder", "condition")


def denoiser_calibration(model: ModelSource, networks: Mapping[str, Network]) -> Calibration:
    """For the denoiser among ``networks``, which are those of ``model``."""
    return Calibration(lambda: draw_calls(model, networks), lambda: _facts(model))


def draw_calls(model: ModelSource, networks: Mapping[str, Network]) -> tuple[list[Call], list[Call]]:
    """Inputs of the calls that calibrate, and inputs and ``prediction`` of those held out, of scenes of their own.

    Floats are float32, timesteps int64, each of one sample. A large model draws fewer scenes, as it takes longer and
    its calls are larger. The parts of ``model`` are forgotten in the end. EngineError where a value is not finite.
    """
    count = scene_count(model.info)
    requests = [scene_request(model.info, number) for number in range(count)]
    recorder = _Recorder(networks["denoiser"])
    recorder.scenes = count
    runners = {name: TorchRunner(networks[name]) for name in _NETWORKS} | {"denoiser": recorder}
    try:
        with Pipeline(model.info, runners, model.tokenizer()) as pipeline, torch.inference_mode():
            run = Run(pipeline, PRESET, 2 * count, seeded_noise)  # all scenes, both halves: one call a step
            texts = run.texts(requests)
            run.first_pass([SceneState(request, *texts[request.prompt]) for request in requests], lambda samples: None)
    finally:
        model.release()
    return recorder.calibrating, recorder.kept


def scene_count(info: ModelInfo) -> int:
    """Scenes that a model draws, 3 to 8, by the number of its latent cells."""
    return max(_LEAST, min(_MOST, _CELLS // info.tile**2))


def held_out_count(scenes: int) -> int:
    """Of ``scenes`` the last ones, none of whose calls calibrates."""
    return max(1, scenes // 4)


def scene_request(info: ModelInfo, number: int) -> SceneRequest:
    """A window of scene ``number`` of the city in the model's own size, in a weather of its own."""
    from dgkit.world import render

    height = max(info.defaults.label_height or 0, info.size, 32)
    label = render("source", SEED, number, height=height, width=2 * height).label
    y, x = np.random.default_rng([SEED, number]).integers(0, np.array(label.shape) - info.size + 1)
    label = np.ascontiguousarray(label[y : y + info.size, x : x + info.size])
    return SceneRequest(label, compose(caption(label), STYLES[number % len(STYLES)]), SEED + number)


def calibrating_places(step: int, scenes: int, halves: int) -> list[tuple[int, int]]:
    """(scene, guidance half) of the samples that calibrate at a step: in turn, so that all come in equally often."""
    places = (scenes - held_out_count(scenes)) * halves
    chosen = dict.fromkeys((EACH * step + turn) % places for turn in range(EACH))
    return [(place // halves, place % halves) for place in chosen]


def held_out_place(step: int, scenes: int, halves: int) -> tuple[int, int]:
    """(scene, guidance half) of the sample that is held out at a step."""
    held = held_out_count(scenes)
    return scenes - held + step % held, step // held % halves


class _Recorder(TorchRunner):
    """Keeps some of the samples that it is called with; a call is a step of all ``scenes``."""

    scenes = 1

    def _open(self) -> None:
        super()._open()
        self.step, self.calibrating, self.kept = 0, list[Call](), list[Call]()

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        outputs = super().__call__(**tensors)
        if not all(bool(torch.isfinite(value).all()) for value in outputs.values()):
            raise EngineError("the denoiser makes values that are not finite in fp32: it cannot be calibrated for int8",
                              "check the model folder")  # fmt: skip
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
        "text_encoder": model.digest("text_encoder"),
        "scheduler": info.scheduler,
        "guidance": info.defaults.guidance_scale,
        "label_height": info.defaults.label_height,
    }
    return {
        "calibration_seed": SEED,
        "calibration_scenes": scene_count(info),
        "calibration_samples": EACH * PRESET.steps,
        "calibration_from": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest(),
    }
