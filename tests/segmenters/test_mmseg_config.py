"""Configs of mmsegmentation are read as data, and refused if they would have to be executed."""

from pathlib import Path

import pytest

from dgkit.errors import ModelError, UsageError
from dgkit.segmenters.mmseg_config import find_config, find_model, read_config, without_initial_weights

DUMPED = """
'''A docstring.'''
norm_cfg = dict(requires_grad=True, type='SyncBN')
model = dict(
    backbone=dict(depths=[3, 4], drop=-0.1, names=('a', 'b'), norm_cfg=norm_cfg, pretrained=None, type='ResNet'),
    decode_head=[dict(type='A'), dict(type='B')],
    paramwise={'norm': dict(decay_mult=0.0), 'x.y': 1e-05},
    rates=dict({'x.y': dict(lr=0.5)}, ),
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
        "rates": {"x.y": {"lr": 0.5}},
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(type='A', _scope_='evil')", "holds the key '_scope_' in 'model'"),
        ("model = dict(type='A', head=[dict(type='B', _scope_='evil')])", "holds the key '_scope_' in 'head'"),
        ("model = dict(type='A', head=dict(_delete_=True))", "holds the key '_delete_' in 'head'"),
        ("model = {'type': 'A', 1: 2}", "holds the key 1 in 'model'"),
        ("default_scope = 'evil'\nmodel = dict(type='A')", "takes its classes from 'evil'"),
        ("default_scope = ['mmseg']\nmodel = dict(type='A')", "takes its classes from"),
        ("custom_imports = dict(imports='dgkit.__main__')\nmodel = dict()", r"imports dgkit\.__main__"),
        ("custom_imports = dict(imports=[1])\nmodel = dict()", "imports 1"),
        ("custom_imports = 1\nmodel = dict()", "imports 1"),
        ("custom_imports = dict(imports=['dgkit'])\nmodel = dict()", "imports dgkit"),
        ("model = dict(type=['os.system'])", "names no class, but"),
        ("model = dict(type=None)", "names no class, but None"),
        ("model = dict(type='evil::A')", "names the class 'evil::A' by its module"),
        ("model = dict(type='A', loss=dict(type='B', class_weight='w'))", "names the file or address 'w'"),
        ("model = dict(type='A', head=dict(weights='/etc/passwd'))", "names the file or address '/etc/passwd'"),
        ("model = dict(type='A', head=dict(path=['w.pkl']))", r"names the file or address 'w\.pkl'"),
        ("model = dict(type='A', head=dict(url='https://x'))", "names the file or address"),
        ("model = {[1]: 2}", "is code, not data"),
        ("model = {{}}", "is code, not data|describes no network"),
    ],
)
def test_what_would_import_or_load_is_refused(text: str, message: str) -> None:
    with pytest.raises((UsageError, ModelError), match=message):
        find_model(read_config(text, "config.py"), "config.py")


def test_initial_weights_are_allowed_and_dropped() -> None:
    text = (
        "model = dict(type='A', pretrained='open-mmlab://resnet50_v1c', train_cfg=dict(weights='/w.pth'), "
        "backbone=dict(type='B', init_cfg=dict(type='Pretrained', checkpoint='https://x/mit_b0.pth')))"
    )
    model = find_model(read_config(text, "config.py"), "config.py")
    assert model["pretrained"] and model["backbone"]["init_cfg"]
    assert without_initial_weights(model) == {"type": "A", "backbone": {"type": "B"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [1] * 2", "is code, not data"),
        (
            "\n".join(["a0 = [1, 1]", *(f"a{n} = [{', '.join([f'a{n - 1}'] * 10)}]" for n in range(1, 12))]),
            "holds .* values",
        ),
        ("\n".join(["a0 = [1]", *(f"a{n} = [a{n - 1}]" for n in range(1, 90))]), "in 51 levels"),
        ("model = " + "[" * 5000 + "]" * 5000, "is not a Python file"),
        ("model = " + "-" * 100_000 + "1", "is not a Python file"),
        ("a = 1" + "0" * 5000, "is not a Python file"),
        ("#" * (2**20 + 1), "more than 1048576 characters"),
        ("model = dict(type='A', backbone=dict(num_layers=[10**9]))", "is code, not data"),
        (
            "model = dict(type='A', backbone=dict(num_layers=[1000000000]))",
            "'num_layers' is 1000000000; allowed is at most 1024",
        ),
        (
            "model = dict(type='A', backbone=dict(embed_dims=1000000))",
            "'embed_dims' is 1000000; allowed is at most 16384",
        ),
        ("custom_imports = 'dgkit.nothing'\nmodel = dict()", r"imports dgkit\.nothing: No module named"),
    ],
)
def test_limits(text: str, message: str) -> None:
    with pytest.raises((ModelError, UsageError), match=message):
        find_model(read_config(text, "config.py"), "config.py")
