"""Configs of mmsegmentation are read as data, and refused if they would have to be executed."""

from pathlib import Path

import pytest

from dgkit.errors import ModelError, UsageError
from dgkit.segmenters.mmseg_config import find_config, find_model, read_config

DUMPED = """
'''A docstring.'''
norm_cfg = dict(requires_grad=True, type='SyncBN')
model = dict(
    backbone=dict(depths=[3, 4], drop=-0.1, names=('a', 'b'), norm_cfg=norm_cfg, pretrained=None, type='ResNet'),
    decode_head=[dict(type='A'), dict(type='B')],
    paramwise={'norm': dict(decay_mult=0.0), 'x.y': 1e-05},
    type='EncoderDecoder')
custom_imports = dict(allow_failed_imports=False, imports=['dgkit.labels'])
"""


def test_dumped_configs_are_read() -> None:
    found = find_model(read_config(DUMPED, "config.py"), "config.py")
    assert found == {
        "type": "EncoderDecoder",
        "backbone": {
            "type": "ResNet", "depths": [3, 4], "drop": -0.1, "names": ("a", "b"), "pretrained": None,
            "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        },
        "decode_head": [{"type": "A"}, {"type": "B"}],
        "paramwise": {"norm": {"decay_mult": 0.0}, "x.y": 1e-05},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import os", "line 1, is code, not data: import os"),
        ("model = open(r'{0}', 'w')", r"line 1, is code, not data: open\("),
        ("model = dict(**dict(a=1))", "is code, not data"),
        ("model = [x for x in (1, 2)]", "is code, not data"),
        ("model = dict(type=unknown)", "code, not data: unknown"),
        ("print('x')", "code, not data"),
        ("_base_ = ['a.py']", r"includes other files \(\['a\.py'\]\)"),
        ("custom_imports = dict(imports=['mine'])\nmodel = dict()", "imports mine"),
        ("custom_imports = 'dgkit_not'\nmodel = dict()", "imports dgkit_not"),
        ("custom_imports = ['a', 'dgkit.labels', 'b']\nmodel = dict()", "imports a, b"),
        ("model = dict(backbone=[dict(type='os.system', command='touch {0}')])", "names the class 'os.system'"),
    ],
)
def test_code_is_refused_and_not_executed(tmp_path: Path, line: str, message: str) -> None:
    target = tmp_path / "made"
    with pytest.raises(UsageError, match=message) as caught:
        find_model(read_config(line.format(target), "config.py"), "config.py")
    assert "--config" in caught.value.hint and not target.exists()


def test_files_without_a_network_are_refused() -> None:
    with pytest.raises(ModelError, match="is not a Python file"):
        read_config("model = (", "config.py")
    with pytest.raises(ModelError, match="describes no network"):
        find_model(read_config("a = 1", "config.py"), "config.py")


def test_where_the_config_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    checkpoint = tmp_path / "iter_1.pth"
    with pytest.raises(UsageError, match="no config found in"):
        find_config(checkpoint, None)
    assert find_config(checkpoint, "a = 1") == (f"the config in {checkpoint}", "a = 1")
    only = tmp_path / "segformer.py"
    only.write_text("a = 2")
    assert find_config(checkpoint, None) == (str(only), "a = 2")
    assert find_config(checkpoint, "a = 1")[1] == "a = 1"
    (tmp_path / "other.py").touch()
    with pytest.raises(UsageError, match="no config found in"):
        find_config(checkpoint, None)
    (tmp_path / "config.py").write_text("a = 3")
    assert find_config(checkpoint, "a = 1") == (str(tmp_path / "config.py"), "a = 3")
