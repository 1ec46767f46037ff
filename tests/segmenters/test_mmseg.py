"""Checkpoints of mmsegmentation as segmenters on every engine, and what is refused."""

import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import InputError, MissingDependency, ModelError, UsageError
from dgkit.labels import CLASSES
from dgkit.segmenters.mmseg import _needed
from dgkit.segmenters.opening import find_source, open_segmenter
from tests.segmenters.mmseg_files import MEAN, STD, model_config, save, text

PREPROCESSOR = model_config()["data_preprocessor"]


def images_of(height: int = 64, width: int = 96, count: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def expected(network: Any, images: Tensor) -> Tensor:
    """Return mmsegmentation's logits of whole RGB images, which it reads as BGR."""
    samples = [load_sample(image) for image in images.flip(1)]
    data = network.data_preprocessor({"inputs": list(images.flip(1)), "data_samples": samples})
    with torch.no_grad():
        logits = network.encode_decode(data["inputs"], [{"img_shape": data["inputs"].shape[-2:]}])
    return logits[..., : images.shape[-2], : images.shape[-1]]


def load_sample(image: Tensor) -> Any:
    from mmseg.structures import SegDataSample

    return SegDataSample(metainfo={"ori_shape": image.shape[-2:], "img_shape": image.shape[-2:]})


@pytest.mark.parametrize("inside", [True, False])
def test_logits_equal_those_of_mmsegmentation(tmp_path: Path, inside: bool) -> None:
    path = tmp_path / "iter_1.pth"
    network = save(path, model_config(), inside=inside)
    with open_segmenter(path, device="cpu") as found:
        for size in ((64, 96), (40, 72)):
            assert torch.allclose(found.logits(images_of(*size)), expected(network, images_of(*size)), atol=1e-4)
        assert found.classes.tolist() == list(range(19)) and found.facts()["kind"] == "mmsegmentation"


@pytest.mark.filterwarnings("ignore:When align_corners")
@pytest.mark.parametrize(
    "changes",
    [
        {"data_preprocessor": {**PREPROCESSOR, "bgr_to_rgb": False}},
        {"data_preprocessor": {**PREPROCESSOR, "test_cfg": {"size_divisor": 16}, "pad_val": 3}},
        {"decode_head": {**model_config()["decode_head"], "align_corners": True}},
    ],
)
def test_so_are_those_of_other_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "iter_1.pth"
    network = save(path, model_config(**changes))
    with open_segmenter(path, device="cpu") as found:
        assert torch.allclose(found.logits(images_of(40, 72)), expected(network, images_of(40, 72)), atol=1e-4)


def test_a_config_passed_explicitly_is_executed(tmp_path: Path) -> None:
    path, base, config = tmp_path / "a" / "iter_1.pth", tmp_path / "base.py", tmp_path / "net.py"
    path.parent.mkdir()
    network = save(path, model_config())
    base.write_text(text(model_config()))
    config.write_text(
        "_base_ = ['base.py']\nmodel = dict(test_cfg=dict(mode='whole'))\nnumbers = [n for n in (1, 2)]\n"
    )
    with open_segmenter(path, device="cpu", config=config) as found:
        assert torch.allclose(found.logits(images_of()), expected(network, images_of()), atol=1e-4)
    config.write_text("model = undefined\n")
    with pytest.raises(InputError, match=r"net\.py cannot be read: "):
        open_segmenter(path, config=config)
    with pytest.raises(InputError, match="no such file"):
        open_segmenter(path, config=tmp_path / "none.py")
    with pytest.raises(UsageError, match=r"cannot be combined with .*: only checkpoints \(\*\.pth"):
        open_segmenter(tmp_path, config=config)


def test_classes_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    head = {**model_config()["decode_head"], "num_classes": 3}
    path = tmp_path / "iter_1.pth"
    network = save(path, model_config(decode_head=head), classes=("sky", "sofa", "road"))
    with open_segmenter(path, device="cpu") as found:
        assert found.classes.tolist() == [CLASSES.index("sky"), CLASSES.index("road")]
        assert torch.allclose(found.logits(images_of()), expected(network, images_of())[:, [0, 2]], atol=1e-4)
    save(path, model_config(decode_head=head), classes=None)
    with pytest.raises(ModelError, match="does not name its 3 classes"):
        find_source(path)
    save(path, model_config(), classes=None)
    assert find_source(path).classes == CLASSES


def test_mean_std_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "iter_1.pth"
    save(path, model_config())
    first = find_source(path)
    assert first.mean == pytest.approx([v / 255 for v in MEAN]) and first.std == pytest.approx([v / 255 for v in STD])
    save(path, model_config(data_preprocessor={**PREPROCESSOR, "bgr_to_rgb": False}))
    other = find_source(path)
    assert other.mean == pytest.approx([v / 255 for v in MEAN[::-1]]) and other.digest != first.digest


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("made"),)


def test_refused_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "iter_1.pth"
    with pytest.raises(InputError, match="no such file"):
        find_source(path)
    for content in (b"no weights", pickle.dumps({"state_dict": _Code()})):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a checkpoint of tensors and plain values"):
            find_source(path)
    assert not (tmp_path / "made").exists()
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="has no 'state_dict'"):
        find_source(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UsageError, match="no config found in"):
        find_source(path)
    (tmp_path / "config.py").write_text(text({**model_config(), "data_preprocessor": {}}))
    with pytest.raises(ModelError, match="states no mean and std"):
        find_source(path)
    (tmp_path / "config.py").write_text(text(model_config()))
    with open_segmenter(path, device="cpu") as found, pytest.raises(ModelError, match="does not fit its config"):
        found.logits(images_of())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ort", "openvino", "compile"])
def test_compiled_engines_give_the_same_logits(tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino", "compile": "torch"}[engine])
    path = tmp_path / "iter_1.pth"
    network = save(path, model_config())
    with open_segmenter(path, engine, device="cpu") as found:
        for images in (images_of(64, 64, 1), images_of(64, 64, 3)):
            assert torch.allclose(found.logits(images), expected(network, images), atol=1e-3)


def test_a_network_of_dgkit_imported_by_its_config(tmp_path: Path) -> None:
    from dgkit.training.segmenter.networks import model_config as own
    from dgkit.training.segmenter.runner_config import IMPORTS

    path = tmp_path / "iter_1.pth"
    model = own("daformer", "mit_b0", 64, two_scales=True, channels=16)
    network = save(path, model, custom_imports={"imports": IMPORTS, "allow_failed_imports": False})
    assert find_source(path).side == 64
    with open_segmenter(path, device="cpu") as found:
        for size in ((64, 64), (84, 92)):  # the second is padded to multiples of 8
            wanted, had = expected(network, images_of(*size)), found.logits(images_of(*size))
            assert torch.allclose(had, wanted, atol=1e-3 * float(wanted.abs().max()))


def hostile(tmp_path: Path, change: Any) -> Path:
    """Write a package ``evilpkg`` that notes when it is imported, and a checkpoint whose config names it."""
    package = tmp_path / "evilpkg"
    package.mkdir()
    for name in ("__init__", "registry"):
        (package / f"{name}.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')")
    path = tmp_path / "net" / "iter_1.pth"
    path.parent.mkdir()
    save(path, model_config())
    model = model_config()
    change(model)
    (path.parent / "config.py").write_text(f"model = {model!r}\n")
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(_scope_="evilpkg"),
        lambda model: model["decode_head"].update(_scope_="evilpkg"),
        lambda model: model["decode_head"]["norm_cfg"].update(type="evilpkg"),
        lambda model: model["decode_head"]["norm_cfg"].update(type="evilpkg.A"),
        lambda model: model["backbone"].update(type="evilpkg"),
        lambda model: model["decode_head"].update(loss_decode={"type": "CrossEntropyLoss", "class_weight": "evil.pkl"}),
        lambda model: model.update(backbone={"type": "TIMMBackbone", "model_name": "resnet18"}),
        lambda model: model["decode_head"].update(act_cfg={"type": "ReLU", "_scope_": "evilpkg"}),
    ],
)
def test_a_config_read_as_data_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    path = hostile(tmp_path, change)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises((UsageError, ModelError)) as caught, open_segmenter(path, device="cpu") as found:
        found.logits(images_of())
    assert not (tmp_path / "made").exists() and "--config" in caught.value.hint


def test_names_that_reach_a_registry_indirectly_import_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dgkit.segmenters.mmseg import _build_from_data

    monkeypatch.syspath_prepend(str(tmp_path))
    path = hostile(tmp_path, lambda model: None)
    for layer in (
        {"type": "ConvModule", "padding_mode": "evilpkg"},
        {"type": "ConvModule", "conv_cfg": {"type": "Conv"}},
    ):
        config = {**layer, "in_channels": 1, "out_channels": 1, "kernel_size": 1}
        with pytest.raises(ModelError, match="does not fit its config"):
            _build_from_data(config, path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(data_preprocessor=[1]),
        lambda model: model["data_preprocessor"].update(mean=5),
        lambda model: model["data_preprocessor"].update(mean=["a", "b", "c"]),
        lambda model: model["data_preprocessor"].update(std=[0, 1, 1]),
        lambda model: model["data_preprocessor"].update(std=[1e999, 1, 1]),
        lambda model: model.update(type="HRDASegmentor", test_cfg=None),
        lambda model: model.update(type="HRDASegmentor", test_cfg={"crop_size": "wide"}),
    ],
)
def test_configs_with_values_of_wrong_types(tmp_path: Path, change: Any) -> None:
    with pytest.raises((UsageError, ModelError)) as caught:
        find_source(hostile(tmp_path, change))
    assert caught.value.hint


def test_packages_of_dgkits_own_networks_are_named(monkeypatch):
    assert _needed({"type": "EncoderDecoder", "backbone": {"type": "MixVisionTransformer"}}) == []
    assert _needed({"type": "FoundationSegmentor", "backbone": {"type": "TokenBackbone"}}) == ["transformers"]
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingDependency, match="extra 'imagenet'"):
        _needed({"type": "EncoderDecoder", "backbone": {"type": "EfficientNetLite0"}})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependency, match="extra 'train'"):
        _needed({"type": "FoundationSegmentor", "backbone": {"type": "TokenBackbone", "lora": {"rank": 2}}})
