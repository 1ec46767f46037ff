"""``dgkit list``: the names that options accept, such as presets, styles and data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import typer

from dgkit.cli.common import print_json, print_table
from dgkit.cli.options import Json
from dgkit.errors import UsageError, did_you_mean

Row: TypeAlias = dict[str, Any]


def catalogue(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="presets, styles, mixes, datasets, encodings, taxonomies, roles, protocols, engines or models",
            autocompletion=lambda incomplete: [name for name in KINDS if name.startswith(incomplete)],
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the names that options accept.

    Without KIND, show the lists.
    """
    if kind is None:
        kind, rows = "lists", [{"name": name, "command": f"dgkit list {name}"} for name in KINDS]
    elif kind not in KINDS:
        hint = did_you_mean(kind, KINDS, "use for example dgkit list presets")
        raise UsageError(f"unknown list {kind!r}; known: {', '.join(KINDS)}", hint)
    else:
        rows = KINDS[kind]()
    if as_json:
        print_json({kind: rows})
    else:
        _print_rows(rows)


def _print_rows(rows: list[Row]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    print_table(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def _presets() -> list[Row]:
    from dgkit.diffusion.presets import PRESETS

    return [
        {
            "name": preset.name,
            "solver": preset.solver,
            "steps": preset.steps,
            "two passes": preset.two_pass,
            "second pass from": preset.second_start if preset.two_pass else None,
            "guidance scale": "the model's" if preset.guidance_scale is None else preset.guidance_scale,
            "windows": preset.windows if preset.two_pass else None,
            "LoRA": preset.adapter,
        }
        for preset in PRESETS.values()
    ]


def _styles() -> list[Row]:
    from dgkit.prompts import compose
    from dgkit.styles import KNOWN_STYLES, STYLE_SETS

    sets = {style.name: name for name, styles in STYLE_SETS.items() for style in styles}
    return [
        {"name": style.name, "set": sets.get(style.name), "prompt": compose("road car", style)}
        for style in KNOWN_STYLES.values()
    ]


def _mixes() -> list[Row]:
    from dgkit.data.style_mixes import STYLE_MIXES, StyleMix
    from dgkit.prompts import STYLE_NAMES

    def row(mix: StyleMix) -> Row:
        shares = dict(zip(mix.names, map(float, mix.probabilities), strict=True))
        others = sum(share for style, share in shares.items() if style not in STYLE_NAMES)
        return {"name": mix.name, **{style: shares[style] for style in STYLE_NAMES}, "others": others}

    return [row(mix) for mix in STYLE_MIXES.values()]


def _datasets() -> list[Row]:
    from dgkit.data.layouts import ALIASES, LAYOUTS

    other = {name: alias for alias, name in ALIASES.items()}
    return [
        {
            "name": name,
            "also": other.get(name),
            "description": layout.description,
            "label maps": layout.trees[0].labels,
            "default split": layout.default_split,
        }
        for name, layout in LAYOUTS.items()
    ]


def _encodings() -> list[Row]:
    from dgkit.data.colour_maps import COLOURS, OWN, colour_encoding
    from dgkit.labels import ENCODINGS

    rows = [{"name": name, "description": encoding.description} for name, encoding in ENCODINGS.items()]
    rows.append({"name": COLOURS, "description": colour_encoding(COLOURS).description})
    return [*rows, {"name": f"{OWN}FILE", "description": "colours of a CSV or YAML file"}]


def _taxonomies() -> list[Row]:
    from dgkit.taxonomies import BUILT_IN, DEFAULT

    rows: list[Row] = [
        {"name": name, "classes": taxonomy.size, "default": name == DEFAULT, "names": ", ".join(taxonomy.names)}
        for name, taxonomy in BUILT_IN.items()
    ]
    return [*rows, {"name": "FILE.yaml", "classes": None, "default": False, "names": "classes of your own"}]


def _roles() -> list[Row]:
    from dgkit.world.disk_layouts import DISK_LAYOUTS

    return [
        {"name": role, "data set": layout.dataset, "splits": ", ".join(split for split in layout.splits if split)}
        for role, layout in DISK_LAYOUTS.items()
    ]


def _protocols() -> list[Row]:
    from dgkit.evaluation.benchmark.protocols import PROTOCOLS

    return [{"name": name, "description": protocol.description} for name, protocol in PROTOCOLS.items()]


def _engines() -> list[Row]:
    from dgkit.diagnosis import libraries
    from dgkit.engines.runner import RUNNERS

    found = {library.engine: library for library in libraries()}
    found["compile"] = found["torch"]  # AOTInductor is part of torch
    return [{"name": name, "usable": found[name].usable, "library": found[name].package, "detail": found[name].detail}
            for name in RUNNERS]  # fmt: skip


def _models() -> list[Row]:
    from dgkit.diffusion.model_folder import RANDOM
    from dgkit.diffusion.random_model import MODELS

    sizes = {
        "sd15": "Stable Diffusion 1.5",
        "sd21": "Stable Diffusion 2.1 (768 pixels)",
        "sdxl": "SDXL base",
        "city": "the embedded model",
        "tiny": "a few thousand parameters",
        "tiny-sd21": "a few thousand parameters, of the architecture of Stable Diffusion 2.1",
        "tiny-sdxl": "a few thousand parameters, of the architecture of SDXL",
    }
    random = [{"name": f"{RANDOM}{name}", "description": f"random weights; size: {sizes[name]}"} for name in MODELS]
    return [
        {
            "name": "embedded",
            "description": "the small model of the package; used without --model",
        },
        *random,
        {"name": "FOLDER", "description": "any model in the diffusers layout, such as the output of dgkit swap"},
        {"name": "OWNER/NAME", "description": "a model on the Hugging Face hub"},
    ]


KINDS: dict[str, Callable[[], list[Row]]] = {
    "presets": _presets,
    "styles": _styles,
    "mixes": _mixes,
    "datasets": _datasets,
    "encodings": _encodings,
    "taxonomies": _taxonomies,
    "roles": _roles,
    "protocols": _protocols,
    "engines": _engines,
    "models": _models,
}
