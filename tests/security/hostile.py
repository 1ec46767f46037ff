"""Folders that would run code, if anything in them were executed."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MARKER = "executed"
"""Name of the file that hostile code writes."""

_REMOTE = {"auto_map": dict.fromkeys(("AutoModel", "AutoConfig", "AutoTokenizer"), "evil_code.Evil")}
_QUANTISED = {"quantization_config": {"quant_method": "evil_method", "modules_to_not_convert": []}}
# Keys that make a library import, execute or fetch something, by the file of a model folder that would hold them.
MODEL_KEYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "remote code of the text encoder": ("text_encoder/config.json", _REMOTE | {"trust_remote_code": True}),
    "remote code of the UNet": ("unet/config.json", _REMOTE | {"_class_name": "evil_code.Evil"}),
    "kernel of the text encoder": ("text_encoder/config.json", {"attn_implementation": "evil/kernel"}),
    "private kernel of the text encoder": ("text_encoder/config.json", {"_attn_implementation": "evil/kernel"}),
    "kernel of the UNet": ("unet/config.json", {"attn_implementation": "evil/kernel", "attention_type": "evil"}),
    "quantised text encoder": ("text_encoder/config.json", _QUANTISED),
    "quantised UNet": ("unet/config.json", _QUANTISED),
    "quantised autoencoder": ("vae/config.json", _QUANTISED),
    "custom pipeline": (
        "model_index.json",
        {"_class_name": ["evil_code", "Evil"], "custom_pipeline": "evil_code", "unet": ["evil_code", "Evil"]},
    ),
    "remote tokenizer": (
        "tokenizer/tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["evil_code.Evil", None]}, "tokenizer_class": "EvilTokenizer"},
    ),
    "tokenizer elsewhere": ("tokenizer/tokenizer_config.json", {"tokenizer_file": "https://example.invalid/evil.json"}),
    "scheduler of a module": ("scheduler/scheduler_config.json", {"_class_name": "evil_code.Evil"}),
    "recipe of defaults": ("dgkit.json", {"recipe": "/etc/passwd"}),
    "class of defaults": ("dgkit.json", {"cls": "evil_code.Evil"}),
}
# Changes of an mmsegmentation config: (text to replace, replacement); an empty text stands for the end of the file.
MMSEG_CHANGES: Mapping[str, tuple[str, str]] = {
    "scope": ("", "_scope_ = 'evil_package'"),
    "scope by item": ("", "model['_scope_'] = 'evil_package'"),
    "scope of the model": ("model = dict(", "model = dict(_scope_='evil_package', "),
    "scope of the backbone": ("backbone=dict(", "backbone=dict(_scope_='evil_package', "),
    "scope before the class": ("'MixVisionTransformer'", "'evil_package.MixVisionTransformer'"),
    "default scope": ("default_scope = 'mmseg'", "default_scope = 'evil_package'"),
    "imports": ("", "custom_imports = dict(imports=['evil_code'], allow_failed_imports=False)"),
    "imports in the model": ("model = dict(", "model = dict(custom_imports=dict(imports=['evil_code']), "),
    "weights elsewhere": ("checkpoint='/no'", "checkpoint='https://example.invalid/a.pth'"),
    "base file": ("", "_base_ = ['evil_code.py']"),
    "statement": ("", "import evil_code"),
    "call": ("", "x = __import__('evil_code')"),
    "class of a module": ("'EncoderDecoder'", "'evil_code.Evil'"),
    "class as a mapping": ("'EncoderDecoder'", "dict(type='evil_code.Evil')"),
    "hooks": ("", "custom_hooks = [dict(type='evil_code.Evil')]"),
}


def write_code(folder: Path) -> None:
    """Put modules, a package, pickles and start-up files into ``folder``; each leaves a file MARKER when it runs."""
    code = f"from pathlib import Path\nPath({str(folder / MARKER)!r}).write_text('executed')\nclass Evil: ...\n"
    for name in ("evil_code.py", "evil_package/__init__.py", "evil_package/registry.py", "pipeline.py", "model.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(pickle.dumps(_Bomb(str(folder / MARKER))))


class _Bomb:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def model_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (what is wrong, folder) of each hostile model; the first has hostile files next to it and right configs."""
    from tests.models import make_micro_model

    plain = make_micro_model(root / "models" / "plain")
    for part in ("", "unet", "vae", "text_encoder", "controlnet", "tokenizer", "scheduler"):
        write_code(plain / part)
    yield "code next to the files", plain
    for number, (name, (file, keys)) in enumerate(MODEL_KEYS.items()):
        folder = root / "models" / str(number)
        shutil.copytree(plain, folder)
        path = folder / file
        found = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**found, **keys}))
        yield name, folder


def mmseg_checkpoints(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (what is wrong, checkpoint) with its config next to it."""
    from tests.segmenters import mmseg_files

    plain = root / "mmseg" / "plain"
    plain.mkdir(parents=True)
    mmseg_files.save(plain / "a.pth", mmseg_files.model_config(), inside=False)
    text = (plain / "config.py").read_text()
    for number, (name, (old, new)) in enumerate(MMSEG_CHANGES.items()):
        assert old in text, name
        folder = root / "mmseg" / str(number)
        folder.mkdir()
        shutil.copy(plain / "a.pth", folder)
        (folder / "config.py").write_text(text.replace(old, new, 1) if old else f"{text}\n{new}\n")
        write_code(folder / "code")
        shutil.copy(folder / "code" / "evil_code.py", folder)
        yield name, folder / "a.pth"
    bomb = root / "mmseg" / "bomb"
    bomb.mkdir()
    (bomb / "a.pth").write_bytes(pickle.dumps(_Bomb(str(bomb / MARKER))))
    yield "pickle", bomb / "a.pth"


def segformer_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (what is wrong, folder) of each hostile SegFormer."""
    from tests.segformers import save_narrow_segformer

    plain = save_narrow_segformer(root / "segformer" / "plain")
    write_code(plain)
    yield "code next to the files", plain
    extra: dict[str, dict[str, Any]] = {
        "remote code": _REMOTE | {"trust_remote_code": True, "architectures": ["evil_code.Evil"]},
        "kernel": {"attn_implementation": "evil/kernel"},
        "private kernel": {"_attn_implementation": "evil/kernel"},
        "quantised": _QUANTISED,
        "quantised by a library": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "backbone elsewhere": {"backbone": "evil/backbone", "use_timm_backbone": True},
    }
    for number, (name, keys) in enumerate(extra.items()):
        folder = root / "segformer" / str(number)
        shutil.copytree(plain, folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
        yield name, folder


def onnx_models(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (what is wrong, file): weights outside the file's folder, although they are there with the right size."""
    import onnx

    from tests.segmenters.onnx_files import palette_model

    secret = root / "onnx" / "secret.bin"
    places = {"weights above the folder": "../secret.bin", "weights by an absolute path": str(secret)}
    for number, (name, place) in enumerate(places.items()):
        path = palette_model(root / "onnx" / str(number) / "a.onnx")
        model = onnx.load(str(path))
        tensor = model.graph.initializer[0]
        secret.write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        path.write_bytes(model.SerializeToString())
        yield name, path
