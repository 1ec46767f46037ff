"""Recipes: the settings of each network, invalid recipes, and that generate runs what build-engines builds."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dgkit.config import load_config
from dgkit.diffusion.loading import load_pipeline
from dgkit.engines.engine_recipe import EngineRecipe, choose_networks, parse_batch, resolve_device
from dgkit.engines.runner import BuildOptions
from dgkit.engines.spec import NETWORKS
from dgkit.errors import UsageError
from dgkit.optional import install_command
from tests.models import random_networks

RECIPES = sorted((Path(__file__).parents[2] / "engines").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_published_recipes_are_valid_and_open_with_their_commands(path: Path) -> None:
    recipe = load_config(EngineRecipe, path)
    text = path.read_text()
    assert f"dgkit build-engines MODEL --recipe engines/{path.name}\n" in text
    assert f"dgkit generate OUT --model MODEL --engine-recipe engines/{path.name}" in text
    assert recipe.choice("denoiser")[0] != "torch"
    assert f"[{path.name}]({path.name})" in (path.parent / "README.md").read_text()


def test_the_example_of_the_readme_is_a_recipe(tmp_path: Path) -> None:
    text = (RECIPES[0].parent / "README.md").read_text()
    (tmp_path / "recipe.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert load_config(EngineRecipe, tmp_path / "recipe.yaml").choice("text_encoder")[0] == "torch"


def test_settings_of_each_network() -> None:
    assert EngineRecipe().choice("denoiser") == ("ort", "fp32", BuildOptions())
    recipe = load_config(
        EngineRecipe,
        None,
        ["networks.vae_decoder.dtype=fp32", "networks.condition={engine: ort, batch: [1, 2, 4]}"],
        engine="torch",
        dtype="bf16",
        options={"batch": (1, 4, 16)},
    )
    found = {name: recipe.choice(name) for name in NETWORKS}
    assert {name: engine for name, (engine, _, _) in found.items() if engine != "torch"} == {"condition": "ort"}
    assert [name for name in found if found[name][1] == "bf16"] == ["condition", "denoiser", "vae_encoder"]
    assert found["condition"][2].batch == (1, 2, 4) and found["denoiser"][2].batch == (1, 4, 16)


def test_generate_runs_what_build_engines_builds() -> None:
    """The keys of both depend only on backend, dtype, device and options."""
    recipe = load_config(EngineRecipe, None, ["networks.vae_decoder.engine=ort"], engine="torch", dtype="fp32")
    built = recipe.runners(random_networks("tiny"))
    run = load_pipeline("random:tiny", recipe=recipe).runners
    assert {name: (type(r), r.dtype_name, r.device, r.options, r.network.digest()) for name, r in built.items()} == {
        name: (type(r), r.dtype_name, r.device, r.options, r.network.digest()) for name, r in run.items()
    }
    plain = load_pipeline("random:tiny", engine="torch", dtype="bf16").runners
    assert {name: r.dtype_name for name, r in plain.items()} == {
        name: EngineRecipe(engine="torch", dtype="bf16").choice(name)[1] for name in NETWORKS
    }


def test_identity_names_the_exceptions() -> None:
    plain = load_pipeline("random:tiny").identity()
    recipe = load_config(EngineRecipe, None, ["networks.vae_decoder.engine=ort"], engine="torch")
    other = load_pipeline("random:tiny", recipe=recipe).identity()
    assert "networks" not in plain and other == {**plain, "networks": {"vae_decoder": {"engine": "ort"}}}


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["engine=onnx"], "unknown engine 'onnx'; known: torch, ort, "),
        (["dtype=int4"], "dtype='int4' is not allowed"),
        (["networks.unet.engine=ort"], "unknown network 'unet'; known: "),
        (["networks.denoiser.engine=nope"], "unknown engine 'nope'"),
        (["networks.denoiser.precision=fp16"], "unknown key 'networks.denoiser.precision'"),
        (["options.batch=[8, 4, 2]"], "expected 1 <= min <= opt <= max"),
    ],
)
def test_refusals(sets: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(EngineRecipe, None, sets)
    assert words in caught.value.message


def test_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_batch(" 1, 8,64") == (1, 8, 64) and parse_batch("4") == (4, 4, 4)
    for text in ("1,8", "a", "", "1,2,3,4", "-1,2,3"):
        with pytest.raises(UsageError, match="expected min,opt,max or one number"):
            parse_batch(text)
    assert choose_networks() == tuple(NETWORKS)
    assert choose_networks("vae_decoder, condition") == ("condition", "vae_decoder")
    with pytest.raises(UsageError, match="unknown network 'unet'"):
        choose_networks("denoiser,unet")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve_device("auto", "trt") == "cuda" and resolve_device("auto", "openvino") == "cpu"
    assert resolve_device("cuda:1", "openvino") == "cuda:1"


@pytest.mark.parametrize(
    ("providers", "device"),
    [(["CPUExecutionProvider"], "cpu"), (["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda"), (None, "cuda")],
)
def test_onnxruntime_for_cpus_does_not_use_the_gpu(
    providers: list[str] | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is not installed at all, the runner reports what is missing."""
    fake = None if providers is None else SimpleNamespace(get_available_providers=lambda: providers)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    said: list[str] = []
    assert resolve_device("auto", "ort", said.append) == device and resolve_device("cuda", "ort") == "cuda"
    if device == "cuda":
        assert said == []
    else:
        (line,) = said
        assert line.startswith("engine ort uses the CPU") and install_command("gpu") in line


def test_a_device_is_chosen_once_per_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch sees no GPU here, so only runners on the CPU can be created."""
    fake = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    said: list[str] = []
    runners = EngineRecipe(engine="ort").runners(random_networks("tiny"), notify=said.append)
    assert {runner.device.type for runner in runners.values()} == {"cpu"} and len(said) == 1
