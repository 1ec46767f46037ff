"""Styles, classes and prior families are settings now; runs that state none give what they gave before.

The digests are those of commit 99f2d25, the last one without these settings: this file, run on that commit, printed the
same values. They cover what does not depend on the arithmetic of the machine.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import dgkit
from dgkit.diffusion.loading import load_pipeline, open_model
from dgkit.diffusion.noise import noise_seed, seeded_noise
from dgkit.diffusion.pipeline import one_hot
from dgkit.diffusion.presets import find_preset
from dgkit.diffusion.sampling_plan import SamplingPlan
from dgkit.prompts import STYLE_NAMES, caption, compose
from tests.scenes import FAST, make_label

pytestmark = pytest.mark.golden
LATER = (
    "styles",
    "prompt_template",
    "class_words",
    "class_limit",
    "negative_prompt",
    "taxonomy",
    "spacing",
    "lora",
    "lora_digest",
)
LOCAL = ("labels", "model", "model_digest")  # paths, and weights that a machine may draw otherwise
DEVIATING = ("image_sha256", "label_sha256")  # of pixels that the machine computes, and of compressed bytes
DIGESTS = {
    "manifest official": "01b2ab60cd0193d5",
    "labels official": "85b2e230e5e02122",
    "config official": "985ba7f8d93c9616",
    "manifest published": "e1d9650b11b72045",
    "labels published": "85b2e230e5e02122",
    "config published": "e24b67ea60119bb5",
    "manifest uniform": "b6ee6121fada5d32",
    "labels uniform": "85b2e230e5e02122",
    "config uniform": "1c0de7ce020bde0c",
    "prompts": "709d095fac19a81a",
    "prompts used": "ee17bd8d90666c92",
    "tokens": "75222301e89ce9a8",
    "plan official": "86f3836e2524e26c",
    "plan exact": "86f3836e2524e26c",
    "plan one-pass": "227c58778964a83c",
    "plan fast": "54481b22fcb80a0d",
    "plan turbo": "0e56532502a55559",
    "noise seeds": "4736132c28c5a168",
    "noise": "0c029e16aa9f644c",
    "condition": "59cb23a7324797fe",
}


def digest(value: Any) -> str:
    """The SHA-256 of an array, or of the JSON of another value."""
    data = value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value).encode()
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.fixture(scope="module", params=["official", "published", "uniform"])
def run(request: pytest.FixtureRequest, micro: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one of the published mixes."""
    out = tmp_path_factory.mktemp("earlier") / request.param
    settings = {**FAST, "preset": "one-pass", "style_mix": request.param, "seed": 11}
    return dgkit.generate(out, labels=labels, model=str(micro), count=6, **settings).out


def check(name: str, value: Any) -> None:
    assert DIGESTS[name] == digest(value), value


def test_manifest(run: Path) -> None:
    lines = [json.loads(text) for text in (run / "manifest.jsonl").read_text().splitlines()]
    records = sorted(lines, key=lambda line: line["index"])
    check(f"manifest {run.name}", [{k: v for k, v in line.items() if k not in DEVIATING} for line in records])


def test_labels(run: Path) -> None:
    arrays = [np.asarray(Image.open(path)) for path in sorted((run / "labels").iterdir())]
    assert all(array.dtype == np.uint8 for array in arrays)
    check(f"labels {run.name}", np.stack(arrays))


def test_prompts_and_tokens(micro: Path) -> None:
    words = [caption(make_label(seed)) for seed in range(4)] + [""]
    prompts = [compose(text, style) for text in words for style in STYLE_NAMES]
    check("prompts", prompts)
    with load_pipeline(micro) as pipeline:
        used = [pipeline.fit_prompt(prompt) for prompt in prompts]
        check("prompts used", used)
        tokens = pipeline.tokenizer([text for text, _ in used], padding="max_length", truncation=True)
    check("tokens", tokens["input_ids"])


@pytest.mark.parametrize("preset", ["official", "exact", "one-pass", "fast", "turbo"])
def test_sampling_plan(micro: Path, preset: str) -> None:
    """Timesteps, guidance, and for two labels the windows of the second pass and the cost."""
    plan = SamplingPlan(find_preset(preset), open_model(micro).info)
    facts: list[Any] = [list(map(int, plan.first.timesteps)), list(map(int, plan.second.timesteps)), plan.scale]
    for seed in range(2):
        label = make_label(seed)[:64, :64]
        redraw, cost = plan.redraw(label), plan.cost(label)
        facts += [redraw.windows.corners, digest(redraw.keep), cost.first, cost.second]
    check(f"plan {preset}", facts)


def test_noise_and_condition() -> None:
    noises = ("pass1", "bridge", "pass2", "fuse/3")
    check("noise seeds", [noise_seed(seed, purpose) for seed in (0, 2**62) for purpose in noises])
    # PyTorch computes normal numbers in float32 by the cosine of the machine's library: four digits are the same.
    noise = torch.stack([seeded_noise(5, purpose, (4, 8, 8)) for purpose in noises])
    check("noise", np.round(noise.numpy().astype(np.float64), 4) + 0.0)
    labels = torch.from_numpy(np.stack([make_label(seed) for seed in range(3)]))
    condition = one_hot(labels)
    assert condition.shape == (3, 20, 96, 160) and condition.dtype == torch.float32
    check("condition", condition.numpy())


def test_config(run: Path) -> None:
    """What an earlier version wrote into config.yaml is there with the same values."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    check(f"config {run.name}", {key: value for key, value in sorted(config.items()) if key not in LATER + LOCAL})
