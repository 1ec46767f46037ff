"""The public names of ``dgkit``."""

import ast
import inspect
from pathlib import Path

import pytest

import dgkit


def test_all_lists_the_importable_names() -> None:
    assert len(set(dgkit.__all__)) == len(dgkit.__all__)
    assert set(dgkit.__all__) == {*dgkit._HOMES, "__version__"} == set(dir(dgkit))
    for name in dgkit.__all__:
        assert getattr(dgkit, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(inspect.getfile(dgkit)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {(home, name) for name, home in dgkit._HOMES.items()}


@pytest.mark.parametrize("name", sorted(dgkit._HOMES))
def test_every_public_name_is_documented_and_typed(name: str) -> None:
    value = getattr(dgkit, name)
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = dgkit.generat
