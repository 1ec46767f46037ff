from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.onnx_export import example_inputs, graph_key
from dgkit.engines.openvino_runner import BLOB, OpenVinoRunner, engine_key
from dgkit.engines.runner import BuildOptions
from dgkit.engines.sidecar import key_differences
from dgkit.engines.store import EngineStore, rebuild_command
from dgkit.errors import EngineError, UsageError
from tests.engines.refusals import hint_of_refusal

pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")


def test_the_engine_is_in_the_store(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    (engine,) = OpenVinoRunner(network, dtype="bf16").prepare()
    assert [entry.path for entry in engine.sidecar.files] == [BLOB]
    assert engine.key == engine_key(network, "bf16") and engine.sidecar.notes == {"graph": graph_key(network).name}
    assert OpenVinoRunner(network, dtype="bf16", rebuild="never").prepare() == [engine]
    changed = {item.field for item in key_differences(engine_key(network, "fp32"), engine.key)}
    assert changed == {"dtype", "flags.precision", "flags.weights"}
    assert set(engine.key.device) == {"kind", "arch", "features"} and "onnx" in engine.key.versions


def test_outputs_belong_to_the_caller(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    with OpenVinoRunner(network, options=BuildOptions(threads=1)) as runner:
        inputs = example_inputs(network)
        first = runner(**inputs)["condition"]
        before = first.clone()
        second = runner(label=inputs["label"].to(torch.bfloat16).flip(0))["condition"]
        assert torch.equal(first, before) and not torch.equal(first, second)
        assert first.dtype == torch.float32
        views = runner(label=inputs["label"].permute(0, 1, 3, 2))["condition"]  # not contiguous
        again = runner(label=inputs["label"].permute(0, 1, 3, 2).contiguous())["condition"]
        assert torch.equal(views, again)


CLOSED_IN_THE_ORDER_OF_OPENING = """
import gc, signal, sys
from contextlib import ExitStack
from dgkit.diffusion.loading import model_networks, open_model
from dgkit.engines.openvino_runner import OpenVinoRunner

networks = model_networks(open_model(sys.argv[1]))
stacks = []
for name in ("condition", "vae_decoder"):
    stacks.append(ExitStack())
    stacks[-1].enter_context(OpenVinoRunner(networks[name], rebuild="never"))
for stack in stacks:
    stack.close()
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_works_after_engines_were_closed(folder: ModelFolder) -> None:
    networks = model_networks(folder)
    for name in ("condition", "vae_decoder"):
        OpenVinoRunner(networks[name]).prepare()
    command = [sys.executable, "-c", CLOSED_IN_THE_ORDER_OF_OPENING, str(folder.root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


def test_a_damaged_engine_is_never_used(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    network = model_networks(folder)["condition"]
    hint = hint_of_refusal(
        OpenVinoRunner(network, rebuild="never"), "there is no openvino engine in fp32 for the condition"
    )
    assert hint == rebuild_command(engine_key(network, "fp32"), str(folder.root))
    (engine,) = OpenVinoRunner(network).prepare()
    data = bytearray(engine.file(BLOB).read_bytes())
    data[-1] ^= 1
    engine.file(BLOB).write_bytes(data)
    with pytest.raises(EngineError, match=r"sha256 of model\.blob: expected"):
        OpenVinoRunner(network, rebuild="never").__enter__()
    with OpenVinoRunner(network) as runner:
        assert runner(**example_inputs(network))["condition"].isfinite().all()
    assert "sha256 of model.blob" in logged.messages[-1]


def test_a_failed_build_leaves_nothing(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = model_networks(folder)["condition"]
    OpenVinoRunner(network).prepare()
    (graph,) = [
        path for path in EngineStore().root.glob("condition-onnx-fp32-*") if path.name == graph_key(network).name
    ]
    monkeypatch.setattr("dgkit.engines.openvino_runner.export_engine", lambda *_: _Text(tmp_path, graph.name))
    with pytest.raises(EngineError, match="OpenVINO cannot compile the graph"):
        OpenVinoRunner(network, rebuild="always").prepare()
    assert not list(EngineStore().root.glob(".*.tmp"))
    OpenVinoRunner(network, rebuild="never").prepare()  # the earlier engine is still intact


class _Text:
    """An exported graph whose file is invalid."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def file(self, name: str) -> Path:
        (self.folder / name).write_text("no graph")
        return self.folder / name


def test_dtypes_and_devices(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model_networks(folder)["condition"]
    with pytest.raises(UsageError, match="does not support fp16 on cpu, only fp32, bf16, int8 on the CPU"):
        OpenVinoRunner(network, dtype="fp16")
    with OpenVinoRunner(network) as runner, pytest.raises(EngineError, match="condition"):
        runner(label=torch.zeros(1, 20, 32, 32))
