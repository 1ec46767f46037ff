"""Hints for unknown names."""

from collections.abc import Callable

import pytest

from dgkit.data.datasets import open_dataset
from dgkit.data.labelmap import find_encoding
from dgkit.data.style_mixes import load_style_mix
from dgkit.diffusion.presets import find_preset
from dgkit.engines.runner import known_engine
from dgkit.errors import UsageError, did_you_mean
from dgkit.evaluation.benchmark.protocols import find_protocol
from dgkit.outputs.packing import check_format
from dgkit.styles import find_style


def test_the_closest_name_or_the_alternative() -> None:
    assert did_you_mean("fats", ["exact", "fast"], "use fast") == "did you mean fast?"
    assert did_you_mean("windy", ["rainy", "snowy"], "use uniform") == "use uniform"


@pytest.mark.parametrize(
    ("find", "typo", "meant"),
    [
        (find_preset, "fats", "fast"),
        (load_style_mix, "snwy", "snowy"),
        (find_style, "fogy", "foggy"),
        (find_encoding, "cityscpaes_ids", "cityscapes_ids"),
        (lambda name: open_dataset(name, "."), "citscapes", "cityscapes"),
        (known_engine, "openvion", "openvino"),
        (find_protocol, "dginstlye", "dginstyle"),
        (check_format, "webdatset", "webdataset"),
    ],
)
def test_a_typo_is_answered_with_the_name_that_was_meant(find: Callable[[str], object], typo: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"unknown .* '{typo}'") as error:
        find(typo)
    assert error.value.hint == f"did you mean {meant}?"
