"""LoRA fused by dgkit against diffusers' own ``load_lora_weights`` and ``fuse_lora``, on tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dgkit.diffusion.loading import open_model
from tests.loras import make_lora

pytest.importorskip("peft")
pytestmark = pytest.mark.parity


def fused_by_diffusers(model: Path, loras: list[tuple[Path, float]]) -> Any:
    import diffusers

    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(model)
    for lora, scale in loras:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
        pipe.fuse_lora(lora_scale=scale)
        pipe.unload_lora_weights()
    return pipe


def assert_equal(model: Path, loras: list[tuple[Path, float]], text: bool) -> None:
    fused = open_model(model, loras=[f"{path}:{scale}" for path, scale in loras])
    pipe, plain = fused_by_diffusers(model, loras), open_model(model)
    for part in fused.configs:
        found, expected = fused.part(part).state_dict(), (getattr(pipe, part, None) or plain.part(part)).state_dict()
        before = plain.part(part).state_dict()
        assert found.keys() == expected.keys() == before.keys()
        assert all(float((found[key] - expected[key]).abs().max()) <= 1e-5 for key in found), part
        changed = sum(not torch.equal(found[key], before[key]) for key in found)
        assert (changed > 0) == (part == "unet" or (text and part.startswith("text_encoder")))


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(("kind", "alpha"), [("peft", None), ("peft", 5.0), ("kohya", None), ("kohya", 1.0)])
def test_fused_weights(micro: Path, tmp_path: Path, kind: str, alpha: float | None, text: bool) -> None:
    lora = make_lora(tmp_path / "lora.safetensors", micro, kind=kind, text=text, alpha=alpha)
    assert_equal(micro, [(lora, 0.7)], text)


@pytest.mark.parametrize("kind", ["peft", "kohya"])
def test_fused_weights_of_other_families(family_model: Path, tmp_path: Path, kind: str) -> None:
    lora = make_lora(tmp_path / "lora.safetensors", family_model, kind=kind, alpha=1.0)
    assert_equal(family_model, [(lora, 1.0)], text=True)


def test_two_at_once(micro: Path, tmp_path: Path) -> None:
    first = make_lora(tmp_path / "first.safetensors", micro, rank=3)
    second = make_lora(tmp_path / "second.safetensors", micro, kind="kohya", text=False, alpha=4.0, seed=1)
    assert_equal(micro, [(first, 0.5), (second, -0.3)], text=True)


def test_old_names_of_diffusers(micro: Path, tmp_path: Path) -> None:
    """Files of 2023 have names of attention processors."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(make_lora(tmp_path / "new.safetensors", micro, text=False))
    old = {}
    for name, value in tensors.items():
        if ".to_q." in name:
            name = name.replace(".to_q.lora_A", ".processor.to_q_lora.down")
            old[name.replace(".to_q.lora_B", ".processor.to_q_lora.up")] = value
    save_file(old, tmp_path / "old.safetensors")
    assert_equal(micro, [(tmp_path / "old.safetensors", 1.0)], text=False)
