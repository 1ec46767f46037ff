"""Damaged JSON, JSON lines and YAML files."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import (
    RAW_JSON,
    RAW_YAML,
    YAML_DOCUMENTS,
    Document,
    alias_bomb,
    broken_text,
    odd_file,
)


def damage_json(rng: random.Random, path: Path) -> None:
    """Damage a JSON file."""
    if rng.random() < 0.04:
        odd_file(rng, path)
        return
    value = json.loads(path.read_text(encoding="utf-8"))
    text = Document(rng, value, RAW_JSON).mutated(rng.choice((1, 1, 2, 4))).text(rng.choice((None, 2)))
    if rng.random() < 0.05:
        text = rng.choice(("[" * 100_000, "null", "[]", "1", '"x"', "{}", "{" * 50_000, "", "NaN", '{"a":' * 100_000))
    path.write_bytes(broken_text(rng, text))


def damage_lines(rng: random.Random, path: Path) -> None:
    """Damage a file of JSON lines."""
    if rng.random() < 0.04:
        odd_file(rng, path)
        return
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] or ["{}"]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(lines))
        with suppress(ValueError, RecursionError):  # damaged before
            lines[place] = Document(rng, json.loads(lines[place]), RAW_JSON).mutated(rng.choice((1, 1, 2))).text()
        match rng.randrange(10):
            case 0:
                lines.insert(place, lines[place])
            case 1:
                lines.insert(place, rng.choice(("", "null", "[]", "1", "{}", "[" * 100_000, '"x"', "\x85{}", "{}{}")))
            case 2:
                lines[place] = lines[place][: len(lines[place]) // 2]
            case 3:
                del lines[place]
        lines = lines or ["{}"]
        if not all(_is_json(line) for line in lines):
            break
    text = "\n".join(lines) + rng.choice(("\n", "\n", "\n", "", "\n\n", "\r\n"))
    path.write_bytes(broken_text(rng, text))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def damage_yaml(rng: random.Random, path: Path, value: Any) -> None:
    """Write ``value``, damaged, as YAML."""
    if rng.random() < 0.04:
        path.unlink(missing_ok=True)
        odd_file(rng, path)
        return
    how = rng.random()
    if how < 0.12:
        text = rng.choice((*YAML_DOCUMENTS, alias_bomb(), alias_bomb(15, 20)))
    elif how < 0.2 and isinstance(value, dict) and value:
        text = alias_bomb(8) + f"{rng.choice(list(value))}: *a7\n"
    else:
        text = Document(rng, value, RAW_YAML).mutated(rng.choice((1, 1, 2, 4))).text()
    path.write_bytes(broken_text(rng, text))
