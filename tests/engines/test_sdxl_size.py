"""The networks of SDXL's size, exported, built with OpenVINO and compared with PyTorch, as far as memory allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dgkit.engines.compare import TOLERANCES
from dgkit.resources import available_memory

pytestmark = [pytest.mark.slow, pytest.mark.parity]
# GiB: about four times the weights in fp32, as for Stable Diffusion 1.5: PyTorch, the graph, its check and the engine.
NEEDED = {"text_encoder": 14, "condition": 2, "vae_decoder": 12, "denoiser": 62}


@pytest.mark.parametrize("network", NEEDED)
def test_built_and_run(tmp_path: Path, network: str) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")
    free = available_memory() / 2**30
    if free < NEEDED[network]:
        pytest.skip(f"the {network} of SDXL needs {NEEDED[network]} GiB of memory; {free:.0f} GiB are free")
    with tempfile.TemporaryDirectory(dir=tmp_path) as cache:  # which pytest would keep
        command = [sys.executable, "-m", "dgkit", "engines", "check", "torch", "openvino"]
        options = ["--random", "sdxl", "--networks", network, "--batch", "1", "--json"]
        environment = {**os.environ, "DGKIT_CACHE": cache}
        ended = subprocess.run(command + options, env=environment, capture_output=True, text=True, check=False)
        notes = [json.loads(path.read_text())["notes"] for path in Path(cache).rglob("engine.json")]
    assert ended.returncode == 0, ended.stderr
    print(f"{network}: peak {max(float(note.get('peak_gib', 0)) for note in notes)} GiB; {ended.stdout}")
    for check in json.loads(ended.stdout)["outputs"]:
        assert check["network"] == network and 0 < check["relative"] < TOLERANCES["fp32"]
