"""AOTInductor packages of the smallest network, because the C++ compiler takes seconds for each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgkit.config import load_config
from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines import compile_runner
from dgkit.engines.compile_runner import PACKAGE, CompileRunner, engine_key
from dgkit.engines.onnx_export import example_inputs, relative_error
from dgkit.engines.runner import BuildOptions
from dgkit.engines.sidecar import key_differences
from dgkit.engines.store import EngineStore, rebuild_command
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError, OutputError
from tests.engines.refusals import hint_of_refusal

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler: g++")


@needs_compiler
def test_a_package_is_built_once_and_runs_for_any_batch(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model_networks(folder)["condition"]
    (engine,) = CompileRunner(network).prepare()
    assert [entry.path for entry in engine.sidecar.files] == [PACKAGE]
    errors = engine.sidecar.notes["error"]
    assert isinstance(errors, dict) and isinstance(errors["condition"], float) and errors["condition"] < 1e-5
    monkeypatch.setattr(compile_runner, "_compile", lambda *_: pytest.fail("compiled again"))
    with CompileRunner(network, rebuild="never") as runner, TorchRunner(network) as reference:
        for batch in (1, 2, 7, 70):
            inputs = example_inputs(network, batch=batch, seed=batch)
            found = runner(**inputs)["condition"]
            assert relative_error(found.numpy(), reference(**inputs)["condition"].numpy()) < 1e-5
        label = example_inputs(network, batch=3)["label"]
        whole = runner(label=label)["condition"]
        before = whole.clone()
        for view in (label[1:], label.permute(0, 1, 3, 2), label.contiguous(memory_format=torch.channels_last)):
            found, expected = runner(label=view)["condition"], reference(label=view)["condition"]
            assert relative_error(found.numpy(), expected.numpy()) < 1e-5
        assert torch.equal(whole, before)
        with pytest.raises(EngineError, match="expected 20"):
            runner(label=label[:, :19])


def test_fields_of_the_key(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    key = engine_key(CompileRunner(network))
    assert key.backend_version == torch.__version__ and set(key.device) == {"kind", "arch", "features"}
    tuned = engine_key(CompileRunner(network, options=load_config(BuildOptions, optimisation_level=5)))
    assert {item.field for item in key_differences(key, tuned)} == {"flags.max_autotune"}
    lower = engine_key(CompileRunner(network, dtype="bf16", options=load_config(BuildOptions, threads=1)))
    assert {item.field for item in key_differences(key, lower)} == {"dtype"}


@pytest.mark.parametrize(
    ("failure", "raised", "words"),
    [(RuntimeError("no g++"), EngineError, "compilation failed: no g++"), (OSError(28, "full"), OutputError, "full")],
)
def test_a_failed_build_is_an_error_and_leaves_nothing(
    folder: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    failure: Exception,
    raised: type[Exception],
    words: str,
) -> None:
    def fail(runner: CompileRunner, module: torch.nn.Module, folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise failure

    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(compile_runner, "_compile", fail)
    network = model_networks(folder)["condition"]
    with pytest.raises(raised, match=words):
        CompileRunner(network).prepare()
    assert not [path for path in EngineStore().root.iterdir() if path.is_dir()]
    message = "there is no compile engine in fp32 for the condition"
    assert hint_of_refusal(CompileRunner(network, rebuild="never"), message) == rebuild_command(
        engine_key(CompileRunner(network)), str(folder.root)
    )


def test_a_build_does_not_round_the_weights_of_the_model(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    network = model_networks(folder)["condition"]
    before = {name: value.clone() for name, value in network.load().state_dict().items()}
    seen: list[torch.dtype] = []
    monkeypatch.setattr(
        compile_runner, "_compile", lambda _, module, folder: seen.append(next(module.parameters()).dtype)
    )
    with pytest.raises(EngineError, match="compilation failed"):  # there is no package to verify
        CompileRunner(network, dtype="bf16").prepare()
    assert seen == [torch.bfloat16]
    assert all(torch.equal(value, before[name]) for name, value in network.load().state_dict().items())


@needs_compiler
def test_a_compiler_with_a_static_cxx_library_is_refused(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    script = tmp_path / "static-g++"
    script.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} -static-libstdc++ "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (None, str(script)))
    with pytest.raises(EngineError, match=r"static-g\+\+ links the C\+\+ library statically") as caught:
        CompileRunner(model_networks(folder)["condition"]).prepare()
    assert "CXX=" in (caught.value.hint or "")


@needs_compiler
def test_a_package_opens_without_the_compiler(folder: ModelFolder) -> None:
    """Importing the compiler would take longer than everything else at the start of an engine."""
    CompileRunner(model_networks(folder)["condition"]).prepare()
    script = f"""
import sys
from pathlib import Path
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.loading import model_networks
from dgkit.engines.compile_runner import CompileRunner
from dgkit.engines.onnx_export import example_inputs

network = model_networks(ModelFolder(Path({str(folder.root)!r})))["condition"]
with CompileRunner(network, rebuild="never") as runner:
    runner(**example_inputs(network))
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@needs_compiler
def test_a_package_that_differs_is_refused(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = model_networks(folder)["condition"]
    (engine,) = CompileRunner(network).prepare()  # from the test above
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(compile_runner, "_compile", lambda *_: shutil.copy(engine.file(PACKAGE), _[2] / PACKAGE))
    monkeypatch.setattr(compile_runner, "relative_error", lambda *_: float("nan"))
    with pytest.raises(EngineError, match="output condition of the package differs from PyTorch by nan"):
        CompileRunner(network).prepare()


def test_number_of_threads(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    seen: list[int] = []
    before = torch.get_num_threads()
    with TorchRunner(network, options=load_config(BuildOptions, threads=before + 1)) as runner:
        call = runner._call
        assert call is not None
        runner._call = lambda *tensors: (seen.append(torch.get_num_threads()), call(*tensors))[1]
        runner(**example_inputs(network))
    assert seen == [before + 1] and torch.get_num_threads() == before
