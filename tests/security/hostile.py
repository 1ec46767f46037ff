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
_KERNELS = {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel", "attention_type": "evil"}
# Keys that make a library import, execute or fetch something, by the file of a model folder that would hold them.
_IGNORED: Mapping[str, dict[str, Any]] = {
    "text_encoder/config.json": {**_REMOTE, "trust_remote_code": True, **_KERNELS, **_QUANTISED},
    "unet/config.json": {**_REMOTE, "trust_remote_code": True, **_KERNELS, **_QUANTISED},
    "vae/config.json": {**_REMOTE, **_KERNELS, **_QUANTISED},
    "controlnet/config.json": {**_REMOTE, **_KERNELS, **_QUANTISED},
    "model_index.json": {
        "_class_name": ["evil_code", "Evil"], "custom_pipeline": "evil_code", "unet": ["evil_code", "Evil"],
    },
    "tokenizer/tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["evil_code.Evil", None]}, "tokenizer_class": "EvilTokenizer",
        "tokenizer_file": "https://example.invalid/evil.json",
    },
    "scheduler/scheduler_config.json": {"_class_name": "evil_code.Evil"},
}  # fmt: skip
_REFUSED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "class of the UNet": ("unet/config.json", {"_class_name": "evil_code.Evil"}),
    "recipe of defaults": ("dgkit.json", {"recipe": "/etc/passwd"}),
    "class of defaults": ("dgkit.json", {"cls": "evil_code.Evil"}),
}
HARMLESS = "keys that are ignored, and code next to the files"
# Changes of an mmsegmentation config: (text to replace, replacement); an empty text stands for the end of the file.
_MMSEG_IGNORED = (
    ("", "_scope_ = 'evil_package'"),
    ("", "custom_hooks = [dict(type='evil_code.Evil')]"),
    ("checkpoint='/no'", "checkpoint='https://example.invalid/a.pth'"),
)
_MMSEG_REFUSED: Mapping[str, tuple[str, str]] = {
    "scope by item": ("", "model['_scope_'] = 'evil_package'"),
    "scope of the model": ("model = dict(", "model = dict(_scope_='evil_package', "),
    "scope of the backbone": ("backbone=dict(", "backbone=dict(_scope_='evil_package', "),
    "scope before the class": ("'MixVisionTransformer'", "'evil_package.MixVisionTransformer'"),
    "default scope": ("default_scope = 'mmseg'", "default_scope = 'evil_package'"),
    "imports": ("", "custom_imports = dict(imports=['evil_code'], allow_failed_imports=False)"),
    "imports in the model": ("model = dict(", "model = dict(custom_imports=dict(imports=['evil_code']), "),
    "base file": ("", "_base_ = ['evil_code.py']"),
    "statement": ("", "import evil_code"),
    "call": ("", "x = __import__('evil_code')"),
    "class of a module": ("'EncoderDecoder'", "'evil_code.Evil'"),
    "class as a mapping": ("'EncoderDecoder'", "dict(type='evil_code.Evil')"),
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
    """Yield (what is wrong, folder) of each hostile model; the last is HARMLESS."""
    from tests.models import make_micro_model

    plain = make_micro_model(root / "models" / "plain")
    for number, (name, (file, keys)) in enumerate(_REFUSED.items()):
        folder = root / "models" / str(number)
        shutil.copytree(plain, folder)
        _add_keys(folder / file, keys)
        yield name, folder
    for part in ("", "unet", "vae", "text_encoder", "controlnet", "tokenizer", "scheduler"):
        write_code(plain / part)
    for file, keys in _IGNORED.items():
        _add_keys(plain / file, keys)
    yield HARMLESS, plain


def _add_keys(path: Path, keys: Mapping[str, Any]) -> None:
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**found, **keys}))


def mmseg_checkpoints(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (what is wrong, checkpoint) with its config next to it; the first is HARMLESS."""
    from tests.segmenters import mmseg_files

    plain = root / "mmseg" / "plain"
    plain.mkdir(parents=True)
    mmseg_files.save(plain / "a.pth", mmseg_files.model_config(), inside=False)
    text = (plain / "config.py").read_text()
    (plain / "config.py").write_text(_changed(text, *_MMSEG_IGNORED))
    write_code(plain)
    yield HARMLESS, plain / "a.pth"
    for number, (name, change) in enumerate(_MMSEG_REFUSED.items()):
        folder = root / "mmseg" / str(number)
        write_code(folder)
        shutil.copy(plain / "a.pth", folder)
        (folder / "config.py").write_text(_changed(text, change))
        yield name, folder / "a.pth"
    bomb = root / "mmseg" / "bomb"
    bomb.mkdir()
    (bomb / "a.pth").write_bytes(pickle.dumps(_Bomb(str(bomb / MARKER))))
    yield "pickle", bomb / "a.pth"


def _changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1) if old else f"{text}\n{new}\n"
    return text


def segformer_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (what is wrong, folder) of each hostile SegFormer; the last is HARMLESS."""
    from tests.segformers import save_narrow_segformer

    plain = save_narrow_segformer(root / "segformer" / "plain")
    refused: dict[str, dict[str, Any]] = {
        "quantised": _QUANTISED,
        "quantised by a library": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    }
    for number, (name, keys) in enumerate(refused.items()):
        folder = root / "segformer" / str(number)
        shutil.copytree(plain, folder)
        _add_keys(folder / "config.json", keys)
        yield name, folder
    write_code(plain)
    backbone = {"backbone": "evil/backbone", "use_timm_backbone": True}
    remote = {**_REMOTE, "trust_remote_code": True, "architectures": ["evil_code.Evil"]}
    _add_keys(plain / "config.json", {**remote, **_KERNELS, **backbone})
    yield HARMLESS, plain


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
