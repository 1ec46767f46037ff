"""Model folders: configs, tokenizers, weights."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from tests.fuzz.checks import attempt
from tests.fuzz.documents import damage_json
from tests.fuzz.mutations import (
    Document,
    broken_bytes,
    broken_text,
    odd_file,
)


def make_model(folder: Path) -> None:
    from tests.models import make_micro_model

    make_micro_model(folder / "model", defaults={"name": "x", "label_height": 64, "guidance_scale": 3.0})


def damage_safetensors(rng: random.Random, path: Path) -> None:
    """Damage the header or the bytes of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    how = rng.random()
    if how < 0.05:
        odd_file(rng, path)
        return
    if how < 0.35:
        path.write_bytes(broken_bytes(rng, data))
        return
    if how < 0.45:
        path.write_bytes(struct.pack("<Q", rng.choice((0, 1, length - 1, length + 8, 2**40, 2**64 - 1))) + data[8:])
        return
    if how < 0.55:
        content = bytearray(data)
        place = 8 + length + 4 * rng.randrange((len(data) - 8 - length) // 4)
        content[place : place + 4] = struct.pack("<f", rng.choice((np.nan, np.inf, 1e38)))
        path.write_bytes(bytes(content))
        return
    header = json.loads(data[8 : 8 + length])
    key = rng.choice([name for name in header if name != "__metadata__"])
    if rng.random() < 0.5:
        field = rng.choice(("dtype", "shape", "data_offsets"))
        header[key][field] = {
            "dtype": rng.choice(("F16", "F64", "I64", "BOOL", "F8_E4M3", "X", 3)),
            "shape": rng.choice(([], [0], [-1], [2**62], [2**32, 2**32], [1.5], "x", [1] * 70)),
            "data_offsets": rng.choice(([0, 0], [0, 2**62], [5, 1], [-1, 1], [0], "x")),
        }[field]
        text = json.dumps(header)
    else:
        text = Document(rng, header).mutated(rng.choice((1, 2))).text()
    encoded = broken_text(rng, text) if rng.random() < 0.2 else text.encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


def damage_model_config(rng: random.Random, folder: Path) -> None:
    files = sorted([*(folder / "model").rglob("*.json"), *(folder / "model").rglob("merges.txt")])
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.95:
        damage_json(rng, path)
    elif rng.random() < 0.1:
        odd_file(rng, path)
    else:
        path.write_bytes(broken_bytes(rng, path.read_bytes()))
    if rng.random() < 0.1:
        with suppress(OSError, ValueError, RecursionError):
            add_hostile_keys(rng, rng.choice(files))


def read_model(rng: random.Random, folder: Path) -> None:
    from dgkit.diffusion.loading import load_pipeline, open_model
    from dgkit.diffusion.part_config import PARTS
    from dgkit.diffusion.schedule import make_schedule
    from dgkit.diffusion.weights import skeleton

    model = open_model(folder / "model")

    def parts() -> None:
        for part in PARTS:
            skeleton(model.paths[part], part, model.configs[part])  # type: ignore[attr-defined]

    attempt(
        model.digest,
        model.tokenizer,
        lambda: model.tokenizer()("a street in snowy weather"),
        lambda: model.info.symbol_sizes(),
        lambda: make_schedule(model.info.scheduler, 3, rng.choice(("ddim", "dpm++2m"))),
        parts,
        lambda: [model.part(part) for part in PARTS] if rng.random() < 0.2 else None,
        lambda: load_pipeline(folder / "model").identity() if rng.random() < 0.1 else None,
    )


def damage_weights(rng: random.Random, folder: Path) -> None:
    damage_safetensors(rng, rng.choice(sorted((folder / "model").rglob("*.safetensors"))))


def read_weights_files(rng: random.Random, folder: Path) -> None:
    from dgkit.diffusion.part_config import PARTS
    from dgkit.diffusion.weights import check_finite, read_shapes, read_weights
    from dgkit.training.segmenter.encoder_weights import _read

    model = folder / "model"
    calls: list[Callable[[], object]] = []
    for part in PARTS:
        calls += [
            lambda part=part: read_shapes(model / part, part),  # type: ignore[misc]
            lambda part=part: read_weights(model / part, part),  # type: ignore[misc]
            lambda part=part: check_finite(model / part, part),  # type: ignore[misc]
        ]
    attempt(*calls, lambda: _read(str(model / "unet" / "diffusion_pytorch_model.safetensors")))


def add_hostile_keys(rng: random.Random, path: Path) -> None:
    keys = {
        "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
        "custom_pipeline": "evil",
        "trust_remote_code": True,
        "attn_implementation": "me/kernel",
        "_attn_implementation": "me/kernel",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "torch_dtype": rng.choice(("float16", "os", "x")),
        "dtype": rng.choice(("float16", "os", 3)),
        "architectures": rng.choice((["Evil"], "Evil", [3], None)),
        "_class_name": rng.choice(("Evil", ["a", "b"], 3)),
    }
    if not path.is_file() or path.stat().st_size > 1 << 20:
        return
    value = json.loads(path.read_text())
    if isinstance(value, dict):
        name = rng.choice(list(keys))
        path.write_text(json.dumps({**value, name: keys[name]}))
