"""The process that builds engines next to the main one: when it runs, and what it builds."""

from pathlib import Path

import pytest

from dgkit.diffusion import build_helper
from dgkit.diffusion.build_helper import BuildRequest, helping, serve
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError

RECIPE = EngineRecipe(engine="torch")


def test_it_runs_where_cores_and_memory_allow(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_helper, "MODULE", "json.tool")  # reads the request, and no more
    monkeypatch.setattr(build_helper, "available_memory", lambda: 4 << 30)
    monkeypatch.setattr(build_helper, "usable_cores", lambda: {0, 1})

    def helped() -> bool:
        with helping(micro, micro / "controlnet", RECIPE, ["condition"]) as found:
            return found

    assert not helped()  # a model of less than a megabyte
    monkeypatch.setattr(build_helper, "SMALLEST", 0)
    assert helped()
    monkeypatch.setattr(build_helper, "available_memory", lambda: 1 << 30)
    assert not helped()
    monkeypatch.setattr(build_helper, "available_memory", lambda: 4 << 30)
    monkeypatch.setattr(build_helper, "usable_cores", lambda: {0})
    assert not helped()


def test_it_builds_in_order_and_leaves_failures_to_the_main_process(
    micro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def prepare(runner: TorchRunner) -> list[object]:
        built.append(runner.spec.name)
        if runner.spec.name == "vae_encoder":
            raise EngineError("no")
        return []

    monkeypatch.setattr(TorchRunner, "prepare", prepare)
    networks = ("condition", "vae_encoder", "vae_decoder")
    serve(BuildRequest(str(micro), str(micro / "controlnet"), RECIPE.model_dump(mode="json"), networks))
    assert tuple(built) == networks
