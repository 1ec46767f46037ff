"""The networks of Stable Diffusion 1.5's size, exported, built and run on every backend of the CPU.

A network needs up to 20 GB of memory and 15 GB of disk, so each is built in a process and a store of its own.
TensorRT-RTX, which cannot run here, is built in test_trt.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dgkit.engines.compare import TOLERANCES

pytestmark = [pytest.mark.slow, pytest.mark.parity]


@pytest.mark.parametrize("network", ["denoiser", "vae_decoder"])
@pytest.mark.parametrize(("engine", "dtype"), [("ort", "fp32"), ("openvino", "bf16"), ("compile", "bf16")])
def test_built_and_run(tmp_path: Path, engine: str, dtype: str, network: str) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as cache:  # which pytest would keep
        command = [sys.executable, "-m", "dgkit", "engines", "check", "torch", f"{engine}:{dtype}"]
        options = ["--random", "sd15", "--networks", network, "--batch", "1", "--json"]
        ended = subprocess.run(
            command + options, env={**os.environ, "DGKIT_CACHE": cache}, capture_output=True, text=True, check=False
        )
        size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    print(f"{size / 2**30:.2f} GiB in the store; {found}")
    (check,) = found["outputs"]
    assert check["network"] == network and 0 < check["relative"] < TOLERANCES[dtype]
