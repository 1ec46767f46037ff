"""Segmenters: ONNX files and side-cars, SegFormer folders, configs of mmsegmentation."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml

from tests.fuzz.checks import attempt
from tests.fuzz.documents import damage_json, damage_yaml
from tests.fuzz.models import add_hostile_keys, damage_safetensors
from tests.fuzz.mutations import (
    PLAIN_VALUES,
    broken_bytes,
    broken_text,
    odd_file,
)

_LINES = (
    "import os\n", "__import__('os').system('true')\n", "_base_ = ['../x.py']\n", "_base_ = 3\n", "_delete_ = True\n",
    "custom_imports = dict(imports=['evil'])\n", "custom_imports = 3\n", "custom_imports = dict(imports=3)\n",
    "custom_imports = [None]\n", "_scope_ = 'evilpkg'\n", "default_scope = 'evilpkg'\n", "default_scope = 3\n",
    "model = 3\n", "model = dict(_scope_='evilpkg', type='X')\n", "model['type'] = 'evil.X'\n", "model = None\n",
    "a = b = 3\n", "a: int = 3\n", "a = {**{}}\n", "a = [*[1]]\n", "a = f'{1}'\n", "a = 'x' * 10**9\n",
    "a = 10**10**9\n", "a = {[]: 1}\n", "a = {{}: 1}\n", "a = {1, []}\n", "a = -'x'\n", "a = 1 + 'x'\n",
    "a = " + "(" * 300 + ")" * 300 + "\n", "a = " + "[" * 150 + "]" * 150 + "\n", "a = " + "-" * 5000 + "1\n",
    "a = " + "9" * 5000 + "\n", "a = 1" + "+1" * 5000 + "\n",
    "a = [1]\n" + "".join(f"a{n} = [{', '.join([f'a{n - 1}' if n else 'a'] * 10)}]\n" for n in range(12)),
    "b = [1]\n" + "b = [b, b, b, b, b, b, b, b]\n" * 12 + "model = b\n",
    "a = dict(b=1, **dict())\n", "a = dict([(1, 2)])\n", "x = a.b\n", "x = lambda: 1\n", "\0", "é = 1\n",
    "# -*- coding: x -*-\n", "class A: pass\n", "model.update(type='x')\n", "del model\n", "a, b = 1, 2\n",
    "'''doc'''\n", "  indented\n", "a = (yield)\n",
    "model = dict(type=dict(type='x'), backbone=[dict(type='a.b')])\n", "a = '" + "x" * 200_000 + "'\n", "a = b'x'\n",
    "data_preprocessor = dict(mean=[1], std=None)\n", "a = 1j\n", "a = ...\n", "a = not 1\n", "a = 1 if 2 else 3\n",
)  # fmt: skip


def make_onnx(folder: Path) -> None:
    from tests.segmenters.onnx_files import label_model, palette_model, style_model

    palette_model(folder / "a.onnx")
    palette_model(folder / "half.onnx", half=True, size=(32, None))
    label_model(folder / "b.onnx")
    style_model(folder / "style.onnx")


def damage_sidecar(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(("a.yaml", "b.yaml", "style.yaml"))
    value = yaml.safe_load(path.read_text()) | {"classes": ["road", "car"], "size": 32, "features": "features"}
    damage_yaml(rng, path, value)


def damage_onnx(rng: random.Random, folder: Path) -> None:
    import onnx

    name = rng.choice(("a", "half", "b", "style"))
    path = folder / f"{name}.onnx"
    if rng.random() < 0.5:
        if rng.random() < 0.1:
            odd_file(rng, path)
        else:
            path.write_bytes(broken_bytes(rng, path.read_bytes()))
        return
    model = onnx.load(str(path))
    graph = model.graph
    match rng.randrange(12):
        case 0:
            graph.input[0].type.tensor_type.elem_type = rng.choice((0, 2, 7, 10, 11, 16, 99))
        case 1:
            shape = graph.input[0].type.tensor_type.shape
            shape.dim[rng.randrange(4)].dim_value = rng.choice((0, -1, 1, 4, 2**40))
        case 2:
            del graph.input[0].type.tensor_type.shape.dim[rng.randrange(4)]
        case 3:
            graph.input.add().CopyFrom(graph.input[0])
        case 4:
            graph.output[0].name = rng.choice(("", "nope", "image", "é\n"))
        case 5:
            graph.node[0].op_type = rng.choice(("Relu", "Nope", "Loop", "ConvTranspose", ""))
        case 6:
            tensor = graph.initializer[0]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            sizes = ("0", "-1", "9" * 20)
            place = rng.choice(("../../etc/passwd", "/etc/passwd", "a.onnx", "none"))
            for key, value in (("location", place), ("offset", rng.choice(sizes)), ("length", rng.choice(sizes))):
                tensor.external_data.add(key=key, value=value)
        case 7:
            graph.initializer[0].dims[0] = rng.choice((0, -1, 2**31, 2**62))
        case 8:
            model.ir_version = rng.choice((0, 1, 99))
        case 9:
            model.opset_import[0].version = rng.choice((0, 1, 7, 999))
        case 10:
            graph.output.add().CopyFrom(graph.output[0])
        case _:
            values = np.full(tuple(graph.initializer[0].dims), rng.choice((np.nan, np.inf, 1e38)), np.float32)
            graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, graph.initializer[0].name))
    path.write_bytes(model.SerializeToString())


def read_onnx(rng: random.Random, folder: Path) -> None:
    import torch

    from dgkit.segmenters.onnx import OnnxSegmenter
    from dgkit.segmenters.style_classifier import StyleClassifier

    image = np.random.default_rng(0).integers(0, 255, (33, 47, 3), np.uint8)
    engine = "openvino" if rng.random() < 0.15 else "ort"

    def segment(name: str) -> None:
        with OnnxSegmenter(folder / name, engine, "fp32", "cpu", threads=1) as segmenter:
            json.dumps(segmenter.facts())
            segmenter.check_features()
            attempt(
                lambda: segmenter.predict(image),
                lambda: segmenter.image_logits(image) if name != "b.onnx" else None,
                lambda: segmenter.logits(torch.zeros(1, 3, 32, 64, dtype=torch.uint8)),
            )

    attempt(
        *(lambda name=name: segment(name) for name in ("a.onnx", "half.onnx", "b.onnx")),  # type: ignore[misc]
        lambda: StyleClassifier(folder / "style.onnx").predict(image),
    )


def make_segformer(folder: Path) -> None:
    from tests.segformers import save_narrow_segformer

    save_narrow_segformer(folder / "model")


def damage_segformer(rng: random.Random, folder: Path) -> None:
    model = folder / "model"
    if rng.random() < 0.15:
        damage_safetensors(rng, model / "model.safetensors")
    else:
        path = model / rng.choice(("config.json", "config.json", "preprocessor_config.json"))
        damage_json(rng, path)
    if rng.random() < 0.2:
        with suppress(OSError, ValueError, RecursionError):
            add_hostile_keys(rng, model / "config.json")


def read_segformer(rng: random.Random, folder: Path) -> None:
    import torch

    from dgkit.segmenters.transformers import transformers_source

    source = transformers_source(folder / "model")
    if rng.random() < 0.5:
        source.load().float().eval()(torch.zeros(1, 3, 32, 32))


def make_mmseg(folder: Path) -> None:
    from tests.segmenters import mmseg_files

    with suppress(ImportError):
        mmseg_files.save(folder / "a.pth", mmseg_files.model_config(), inside=False)
        return
    (folder / "config.py").write_text("model = dict(type='EncoderDecoder')\n")


def damage_mmseg(rng: random.Random, folder: Path) -> None:
    path = folder / "config.py"
    text = path.read_text()
    match rng.randrange(6):
        case 0 | 1 | 2:
            lines = text.splitlines(keepends=True)
            place = rng.choice((0, len(lines), rng.randrange(len(lines) + 1)))
            text = "".join([*lines[:place], rng.choice(_LINES), *lines[place:]])
        case 3:
            words = text.split(" ")
            place = rng.randrange(len(words))
            words[place] = (
                repr(rng.choice(PLAIN_VALUES)) if rng.random() < 0.7 else rng.choice(("dict(", ")", "=", ","))
            )
            text = " ".join(words)
        case 4:
            odd_file(rng, path) if rng.random() < 0.3 else path.write_bytes(broken_bytes(rng, text.encode()))
            return
        case _:
            key = rng.choice(
                ("mean", "std", "num_classes", "type", "crop_size", "channels", "in_channels", "bgr_to_rgb")
            )
            text = text.replace(f"{key}=", f"{key}={rng.choice(PLAIN_VALUES)!r} or ", 1)
            text = text.replace(" or ", ", _x=", 1)
    path.write_bytes(broken_text(rng, text))


def read_mmseg(rng: random.Random, folder: Path) -> None:
    from dgkit.segmenters.mmseg import mmseg_source
    from dgkit.segmenters.mmseg_config import find_config, find_model, read_config

    def read() -> None:
        name, text = find_config(folder / "a.pth", None)
        find_model(read_config(text, name), name)

    def load() -> None:
        source = mmseg_source(folder / "a.pth")
        if rng.random() < 0.3:
            source.load()

    attempt(read, load if (folder / "a.pth").is_file() else lambda: None)
