"""SDXL on the engines: its further inputs are in the specs, and its VAE runs in fp16 only if it was made for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dgkit.diffusion.components import model_networks
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.random_model import RandomModel
from dgkit.engines.compare import Comparison, EngineSpec, check_network
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.engines.onnx_export import export_engine, graph_key
from dgkit.engines.spec import ADDED, NETWORKS, SDXL_NETWORKS
from dgkit.engines.trt_build import profiles
from dgkit.errors import UsageError
from tests.models import random_networks


def test_only_two_networks_have_other_specs() -> None:
    changed = {name for name in NETWORKS if SDXL_NETWORKS[name] != NETWORKS[name]}
    assert list(SDXL_NETWORKS) == list(NETWORKS) and changed == {"text_encoder", "denoiser"}
    assert SDXL_NETWORKS["denoiser"].inputs == (*NETWORKS["denoiser"].inputs, *ADDED)


def test_keys_name_the_further_sizes_of_sdxl_only() -> None:
    shapes = [graph_key(random_networks(name)["denoiser"]).shapes for name in ("tiny", "tiny-sdxl")]
    assert set(shapes[1]) - set(shapes[0]) == {"pooled_width", "time_values"}
    assert (shapes[1]["pooled_width"], shapes[1]["time_values"]) == (20, 6)


@pytest.mark.parametrize(
    ("name", "dtype"), [("text_encoder", "fp32"), pytest.param("denoiser", "fp16", marks=pytest.mark.slow)]
)
def test_exported(name: str, dtype: str) -> None:
    """The export compares the graph with PyTorch at another batch."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'dgkit[cpu]'")
    engine = export_engine(random_networks("tiny-sdxl")[name], dtype=dtype)
    assert set(engine.sidecar.notes["error"]) == {spec.name for spec in SDXL_NETWORKS[name].outputs}


@pytest.mark.slow
@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize(
    ("engine", "dtype", "package"),
    [("compile", "fp32", "torch"), ("openvino", "bf16", "openvino"), ("openvino", "int8", "nncf")],
)
def test_built(engine: str, dtype: str, package: str) -> None:
    """The further inputs reach every engine; int8 is compared on recorded calls."""
    pytest.importorskip(package)
    sides = (EngineSpec("torch"), EngineSpec(engine, dtype))
    (check,) = check_network(Comparison(lambda: random_networks("tiny-sdxl")["denoiser"], *sides, batch=3))
    assert check.passed, check


def test_the_vae_stays_in_fp32() -> None:
    networks = model_networks(RandomModel("tiny-sdxl"))
    recipe = EngineRecipe(engine="torch", dtype="fp16")
    found = {name: runner.dtype_name for name, runner in recipe.runners(networks).items()}
    assert found == dict.fromkeys(("text_encoder", "vae_encoder", "vae_decoder"), "fp32") | dict.fromkeys(
        ("condition", "denoiser"), "fp16"
    )
    explicit = EngineRecipe.model_validate({"engine": "torch", "networks": {"vae_decoder": {"dtype": "fp16"}}})
    for ask in (lambda: explicit.runners(networks), lambda: graph_key(networks["vae_decoder"], "fp16")):
        with pytest.raises(UsageError, match="the vae_decoder of this model does not support fp16") as caught:
            ask()
        assert "force_upcast false" in caught.value.hint
    others = model_networks(RandomModel("tiny"))
    assert recipe.runners(others)["vae_decoder"].dtype_name == "fp16"


def test_no_tensor_of_the_vae_exceeds_what_tensorrt_can_hold() -> None:
    """At the largest size of a profile, with 256 channels at full resolution."""
    for name, widest in (("sd15", 4), ("sd21", 4), ("sdxl", 3)):
        own, single = profiles(model_networks(RandomModel(name))["vae_decoder"], (1, 8, 64))
        for profile in (own, single):
            assert profile["batch"][2] * profile["image_height"][2] * profile["image_width"][2] * 256 < 2**31
        assert single["image_width"][2] == widest * own["image_width"][0]


def test_a_vae_made_for_fp16(sdxl_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl_model, tmp_path / "fixed"))
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"force_upcast": False}))
    assert ModelFolder(folder).info.vae_fp16 and not ModelFolder(sdxl_model).info.vae_fp16
    assert load_pipeline(folder, dtype="fp16").runners["vae_decoder"].dtype_name == "fp16"
