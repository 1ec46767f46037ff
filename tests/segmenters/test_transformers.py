"""Transformers folders as segmenters on every engine, and what is refused."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from dgkit.errors import EngineError, ModelError, UsageError
from dgkit.labels import NUM_CLASSES
from dgkit.segmenters.base import ModuleSegmenter
from dgkit.segmenters.opening import open_segmenter
from dgkit.segmenters.transformers import transformers_source
from tests.segformers import save_narrow_segformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_narrow_segformer(tmp_path_factory.mktemp("segformer"))


def images_of(height: int = 64, width: int = 96, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def expected(folder: Path, images: torch.Tensor) -> torch.Tensor:
    from transformers import SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = model((images / 255 - mean) / std).logits[:, :NUM_CLASSES]
    return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def test_logits_equal_those_of_transformers(folder: Path) -> None:
    with open_segmenter(folder, device="cpu") as found:
        assert found.classes.tolist() == list(range(NUM_CLASSES))[::-1]
        for size in ((64, 96), (40, 72)):  # torch takes any size
            assert torch.allclose(found.logits(images_of(*size)), expected(folder, images_of(*size)), atol=1e-4)
        facts = found.facts()
    assert (facts["kind"], facts["engine"], facts["dtype"]) == ("transformers SegFormer", "torch", "fp32")
    assert len(facts["sha256"]) == 64


def test_the_digest_depends_on_the_weights(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = load_file(folder / "model.safetensors")
    next(value for value in weights.values() if value.ndim == 4)[0] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert transformers_source(tmp_path).digest != transformers_source(folder).digest


def test_a_backbone_alone_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("decode_head")}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with (
        open_segmenter(tmp_path, device="cpu") as found,
        pytest.raises(ModelError, match=r"lacks [0-9]+ weights of the network"),
    ):
        found.logits(images_of())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ort", "openvino", "compile"])
def test_compiled_engines_give_the_same_logits(folder: Path, engine: str) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino", "compile": "torch"}[engine])
    with open_segmenter(folder, engine, device="cpu", batch=4) as found:
        for images in (images_of(64, 64, 1), images_of(64, 64, 3)):
            assert torch.allclose(found.logits(images), expected(folder, images), atol=1e-3)


def test_the_number_of_compiled_sizes_is_limited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    found = open_segmenter(folder, "ort", device="cpu")
    assert isinstance(found, ModuleSegmenter)
    monkeypatch.setattr("dgkit.segmenters.base.MAX_SIZES", 0)
    with pytest.raises(EngineError, match="is compiled per image size; at most 0 sizes are allowed"):
        found.logits(images_of())


def test_refused_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a segmenter; allowed: an \.onnx file, a checkpoint"):
        open_segmenter(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        open_segmenter(tmp_path)
    config.write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="holds a 'vit' model; allowed: 'segformer'"):
        open_segmenter(tmp_path)
    config.write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        open_segmenter(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    (tmp_path / "preprocessor_config.json").write_text('{"image_std": [1, 2]}')
    with pytest.raises(ModelError, match=r"\[1, 2\] is not a list of three numbers"):
        open_segmenter(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        open_segmenter(tmp_path, device="cpu")
    with pytest.raises(UsageError, match="unknown engine 'tvm'"):
        open_segmenter(folder, "tvm")


def copied(folder: Path, target: Path, config: Mapping[str, Any] | None = None, **preprocessor: Any) -> Path:
    """Copy a folder; ``config`` changes its config, ``preprocessor`` replaces that of the images."""
    shutil.copytree(folder, target)
    if config:
        known = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps({**known, **config}))
    (target / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return target


def test_the_digest_depends_on_the_normalization(folder: Path, tmp_path: Path) -> None:
    plain = transformers_source(copied(folder, tmp_path / "plain"))
    weights, config = (folder / "model.safetensors").read_bytes(), json.loads((folder / "config.json").read_text())
    text = hashlib.sha256(weights).hexdigest() + json.dumps(config, sort_keys=True)
    assert plain.digest == hashlib.sha256(text.encode()).hexdigest()  # scores of earlier versions stay valid
    usual = copied(
        folder, tmp_path / "usual", do_normalize=True, image_std=[0.229, 0.224, 0.225], rescale_factor=1 / 255
    )
    assert transformers_source(usual).digest == plain.digest
    changes = [{"image_mean": [0.5, 0.4, 0.3]}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 0.5}]
    found = {transformers_source(copied(folder, tmp_path / str(i), **c)).digest for i, c in enumerate(changes)}
    assert len(found | {plain.digest}) == 1 + len(changes)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_normalize": False, "do_rescale": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
        {"rescale_factor": 1 / 127.5, "do_normalize": False},
        {"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]},
        {"image_mean": [0.5] * 3, "image_std": [0.25, 0.5, 1], "do_resize": False},
    ],
)
def test_the_input_equals_that_of_the_image_processor(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    from transformers import SegformerImageProcessor

    images = images_of(32, 32)
    processor = SegformerImageProcessor(**{"do_resize": False, **settings})
    wanted = torch.stack([torch.as_tensor(v) for v in processor(list(images), return_tensors="pt")["pixel_values"]])
    path = copied(folder, tmp_path / "s")
    processor.save_pretrained(path)
    with open_segmenter(path, device="cpu") as found:
        seen: list[torch.Tensor] = []
        found._run = lambda values: seen.append(values) or torch.zeros(1)  # type: ignore[method-assign]
        found.logits(images)
    assert torch.allclose(seen[0], wanted.float(), rtol=1e-5, atol=1e-6)


def test_settings_without_effect_are_reported(folder: Path, tmp_path: Path) -> None:
    with open_segmenter(copied(folder, tmp_path / "s", do_resize=True, size={"height": 512}), device="cpu") as found:
        assert any("do_resize not applied; the protocol determines" in note for note in found.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_normalize": "no"}, "do_normalize is 'no'; allowed are true and false"),
        ({"rescale_factor": "1"}, "rescale_factor is '1'; allowed is a finite number"),
        ({"rescale_factor": 0}, "must be above 0"),
        ({"image_std": [1, 0, 1]}, "must be above 0"),
        ({"image_mean": [float("nan")] * 3}, "image_mean is nan"),
        ({"image_mean": {}}, r"\{\} is not a list of three numbers"),
        ({"do_flip_channel_order": True}, "takes BGR images"),
    ],
)
def test_refused_image_processors(folder: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        transformers_source(copied(folder, tmp_path / "s", **settings))


def test_an_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    path = copied(folder, tmp_path / "s")
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds a PEFT adapter") as caught:
        open_segmenter(path)
    assert "merge_and_unload" in caught.value.hint


def test_sharded_weights(folder: Path, tmp_path: Path) -> None:
    from transformers import SegformerForSemanticSegmentation

    path = tmp_path / "s"
    SegformerForSemanticSegmentation.from_pretrained(folder).save_pretrained(path, max_shard_size="20KB")
    (path / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    shards = sorted(path.glob("model-*.safetensors"))
    assert len(shards) > 1
    with open_segmenter(path, device="cpu") as found:
        assert torch.allclose(found.logits(images_of()), expected(folder, images_of()), atol=1e-4)
    before = transformers_source(path).digest
    content = bytearray(shards[-1].read_bytes())
    content[-1] ^= 1
    shards[-1].write_bytes(content)
    assert transformers_source(path).digest != before
    shards[0].unlink()
    with pytest.raises(ModelError, match=r"names 'model-00001-of-.*', which is not a file in"):
        transformers_source(path)
    index = path / "model.safetensors.index.json"
    for content, message in (('{"weight_map": {"a": "../b"}}', "names '../b'"), ("{}", "does not name the files")):
        index.write_text(content)
        with pytest.raises(ModelError, match=message):
            transformers_source(path)


@pytest.mark.parametrize(
    "names",
    [3, "road", ["road"], {}, {"a": "road"}, {"0": "road", "2": "sky"}, {"0": None}, {"0": {"a": 1}}, {"00": "sky"}],
)
def test_id2label_of_wrong_types(folder: Path, tmp_path: Path, names: Any) -> None:
    with pytest.raises(ModelError, match="'id2label'"):
        transformers_source(copied(folder, tmp_path / "s", {"id2label": names}))


@pytest.mark.parametrize(
    "config",
    [
        {"depths": [10**9] * 4},
        {"depths": "many"},
        {"hidden_sizes": [10**12] * 4},
        {"num_attention_heads": [0] * 4},
        {"strides": [4, 2, 0, 2]},
        {"strides": [4, 2, "x", 2]},
        {"strides": 4},
    ],
)
def test_configs_that_no_network_has(folder: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    path = copied(folder, tmp_path / "s", config)
    with open_segmenter(path, device="cpu") as found, pytest.raises(ModelError, match="cannot be read"):
        found.logits(images_of())


def test_a_config_cannot_import_or_download(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    hostile = {
        "attn_implementation": "evil/kernel",
        "_attn_implementation": "evil/kernel",
        "auto_map": {"AutoModel": "evil.M"},
    }
    with open_segmenter(copied(folder, tmp_path / "s", hostile), device="cpu") as found:
        found.logits(images_of())
    assert not (tmp_path / "made").exists()
    with pytest.raises(ModelError, match="holds quantized weights"):
        transformers_source(copied(folder, tmp_path / "q", {"quantization_config": {"quant_method": "gptq"}}))


def test_files_with_a_byte_order_mark(folder: Path, tmp_path: Path) -> None:
    path = copied(folder, tmp_path / "s")
    digest = transformers_source(path).digest
    for name in ("config.json", "preprocessor_config.json"):
        (path / name).write_bytes(b"\xef\xbb\xbf" + (path / name).read_bytes())
    assert transformers_source(path).digest == digest
    with open_segmenter(path, device="cpu") as found:
        found.logits(images_of())


def test_pipes_and_huge_files_are_refused(folder: Path, tmp_path: Path) -> None:
    path = copied(folder, tmp_path / "s")
    (path / "config.json").write_bytes(b" " * (9 * 2**20))
    with pytest.raises(ModelError, match=r"config\.json cannot be read: it is longer than"):
        transformers_source(path)
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")
    with pytest.raises(ModelError, match="it is not a regular file"):
        transformers_source(path)
    with pytest.raises(ModelError, match="takes images of 4 channels; allowed: 3"):
        transformers_source(copied(folder, tmp_path / "four", {"num_channels": 4}))


def test_a_header_of_long_names_is_one_short_line(folder: Path, tmp_path: Path) -> None:
    path = copied(folder, tmp_path / "s")
    header = json.dumps({"a": {"dtype": "x" * 100_000, "shape": [1], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelError, match="cannot be read") as caught:
        transformers_source(path)
    assert len(caught.value.message) < 1000
