"""DGInStyle's recipe at the full size of Stable Diffusion 1.5, with random weights: two steps of both trainings.

Takes minutes, about 20 GB of memory and 16 GB of disk; run with ``-m slow -s`` to see the measurements.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import cv2
import diffusers
import pytest

from dgkit.data.labelmap import label_size
from dgkit.world import render

LIMIT = 20.0  # GB of memory
COMMON = ("train.steps=2", "train.precision=bf16", "train.batch=2", "train.accumulation=2", "train.workers=0")


def _train(command, *sets, cwd):
    """Run the command line and return its result, its seconds and its peak memory in GB."""
    arguments = [sys.executable, "-m", "dgkit", "train", *command, "--json"]
    for text in (*COMMON, *sets):
        arguments += ["--set", text]
    start = time.monotonic()
    with subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return json.loads(output), time.monotonic() - start, usage.ru_maxrss / 1e6


@pytest.fixture
def data(shared_folder, tmp_path):
    """Three label maps of GTA5, paired with scenes of the city in their size."""
    for i, label in enumerate(sorted((shared_folder / "data" / "gta_labels").glob("*.png"))):
        for name in ("labels", "images"):
            (tmp_path / "gta" / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(label, tmp_path / "gta" / "labels" / label.name)
        height, width = label_size(label)
        scene = cv2.resize(render("source", 0, i, height=256, width=512).image, (width, height))
        image = label.name.replace("_labelTrainIds", "")
        assert cv2.imwrite(str(tmp_path / "gta" / "images" / image), cv2.cvtColor(scene, cv2.COLOR_RGB2BGR))
    yield tmp_path / "gta"
    shutil.rmtree(tmp_path)  # pytest would keep many gigabytes for three runs


@pytest.mark.slow
def test_two_steps_of_both_trainings_fit_in_memory_and_load_in_diffusers(data, tmp_path, pytestconfig):
    recipe = pytestconfig.rootpath / "training" / "sd15_gta.yaml"
    unet, out = tmp_path / "unet", tmp_path / "controlnet"
    rows = f"data.rows=[{{dataset: images, root: {data}/images, rescale: [0.5, 1.0, 2.0]}}]"
    ldm = ("ldm", str(recipe), "--out", str(unet))
    result, seconds, memory = _train(
        ldm, "model=random:sd15", rows, "train.validate_every=0", cwd=pytestconfig.rootpath
    )
    print(f"ldm: 2 steps, loss {result['loss']:.3f}, {seconds:.0f} s in all, peak {memory:.1f} GB")
    assert memory < LIMIT
    shutil.rmtree(unet / "training" / "checkpoints")
    assert diffusers.UNet2DConditionModel.load_config(unet / "unet")["cross_attention_dim"] == 768

    label = next((data / "labels").iterdir())
    validation = ("validation.prior=random:sd15", f"validation.labels=[{label}]", "validation.encoding=train_ids")
    validation += ("validation.steps=1", "validation.styles=[night]", "validation.samples=1")
    rows = f"data.rows=[{{dataset: gta, root: {data}}}]"
    controlnet = ("controlnet", str(recipe), "--out", str(out))
    sets = (f"model={unet}", rows, *validation, "gradient_checkpointing=true", "data.workers=0")
    result, seconds, memory = _train(controlnet, *sets, cwd=pytestconfig.rootpath)
    print(f"controlnet: 2 steps, loss {result['loss']:.3f}, {seconds:.0f} s in all, peak {memory:.1f} GB")
    assert memory < LIMIT
    network = diffusers.ControlNetModel.from_pretrained(out)
    assert network.config.conditioning_channels == 20
    assert sum(parameter.numel() for parameter in network.parameters()) == 361_281_568
    assert (out / "training" / "validation" / "step_00000002_swapped_0.png").exists()
