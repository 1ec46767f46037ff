"""The networks of SDXL's size, exported, built with OpenVINO and compared with PyTorch, as far as memory allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from dgkit.diffusion.components import model_networks
from dgkit.diffusion.random_model import RandomModel
from dgkit.engines.compare import TOLERANCES
from dgkit.engines.onnx_export import OPSET, dynamic_shapes, example_inputs, quiet_exporter
from dgkit.resources import available_memory

pytestmark = [pytest.mark.slow, pytest.mark.parity]
# GiB: about four times the weights in fp32, as for Stable Diffusion 1.5: PyTorch, the graph, its check and the engine.
# The condition encoder is read from the whole ControlNet: 6.3 GiB were measured.
NEEDED = {"text_encoder": 14, "condition": 7, "vae_decoder": 12, "denoiser": 62}


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


def test_the_graph_of_the_denoiser_without_its_weights() -> None:
    """Captured on the meta device, which took 0.9 GiB: every weight is in the graph, in its shape."""
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
    network = model_networks(RandomModel("sdxl"))["denoiser"]
    module, spec = network.outline().eval(), network.spec
    inputs = tuple(value.to("meta") for value in example_inputs(network).values())
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module, inputs, input_names=[item.name for item in spec.inputs], dynamic_shapes=dynamic_shapes(spec),
            output_names=[item.name for item in spec.outputs], opset_version=OPSET, dynamo=True, optimize=False,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    graph = program.model.graph
    assert [value.name for value in graph.inputs] == [item.name for item in spec.inputs]
    assert {name: tuple(value.shape) for name, value in graph.initializers.items()} == {
        name: tuple(value.shape) for name, value in module.state_dict().items()
    }
    assert sum(value.numel() for value in module.parameters()) == 3_817_391_364
