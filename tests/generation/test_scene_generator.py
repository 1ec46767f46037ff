"""A run that exceeds the memory of the device continues with fewer samples per call, and makes the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dgkit
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError, OutOfMemory
from tests.scenes import snapshot

COUNT = 6


@pytest.fixture
def device_for(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the denoiser run out of memory in calls with more than ``samples``; collect the sizes of the others.

    Each sample is computed alone, as an engine does whose rounding does not depend on the batch.
    """

    def limit(samples: int, text: str = "CUDA out of memory. Tried to allocate 2.00 GiB") -> list[int]:
        run, sizes = TorchRunner._run, list[int]()

        def limited(self: TorchRunner, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if self.spec.name == "denoiser":
                if len(tensors["latents"]) > samples:
                    raise EngineError(text) if text.startswith("the engine") else RuntimeError(text)
                sizes.append(len(tensors["latents"]))
            count = len(next(iter(tensors.values())))
            rows = [run(self, {name: value[i : i + 1] for name, value in tensors.items()}) for i in range(count)]
            return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

        monkeypatch.setattr(TorchRunner, "_run", limited)
        return sizes

    return limit


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried",
        pytest.param("the engine failed: Error Code 2: OutOfMemory", marks=pytest.mark.slow),
    ],
)
def test_batch_is_halved_until_it_fits(
    one_thread: None, settings: dict[str, Any], tmp_path: Path, device_for: Any, text: str
) -> None:
    run = {**settings, "count": 6, "batch": 8, "engine": "torch", "dtype": "fp32", "device": "cpu"}
    sizes = device_for(8)
    expected = snapshot(dgkit.generate(tmp_path / "enough", **run).out)
    assert max(sizes) == 8
    said: list[str] = []
    sizes = device_for(3, text)
    found = dgkit.generate(tmp_path / "little", notify=said.append, **run)
    assert snapshot(found.out) == expected
    assert max(sizes) == 2
    lines = [line for line in said if "out of memory" in line]
    assert lines == [
        f"out of memory with --batch {batch} on cpu; continuing with {batch // 2} (--batch {batch // 2} starts with it)"
        for batch in (8, 4)
    ]


def test_one_sample_that_does_not_fit_is_an_error(settings: dict[str, Any], tmp_path: Path, device_for: Any) -> None:
    device_for(0)
    with pytest.raises(OutOfMemory, match="out of memory with --batch 1: CUDA out of memory") as caught:
        dgkit.generate(tmp_path / "out", **{**settings, "batch": 2, "engine": "torch", "dtype": "fp32"})
    assert "weight_streaming" in caught.value.hint


def test_other_errors_are_not_retried(settings: dict[str, Any], tmp_path: Path, device_for: Any) -> None:
    device_for(0, "the engine failed: no reason given")
    with pytest.raises(EngineError, match="no reason given"):
        dgkit.generate(tmp_path / "out", **{**settings, "batch": 2, "engine": "torch", "dtype": "fp32"})
