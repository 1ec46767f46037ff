"""The ``dgkit generate`` command lines that repeat what the page shows."""

import json
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dgkit.generation.generate_config import GenerateConfig

BULK = 100  # images that a command line asks for
_DIGESTS = ("source_digest", "model_digest", "judge_digest", "lora_digest")
SCENES_NOTE = (
    "# Scene 000000 of each folder is the scene above, up to the rounding of larger batches; "
    "the others have the same label map and other noise."
)
SOURCE_NOTE = (
    "# The whole source in these styles: maps and crops are chosen by the seed (rare class sampling), "
    "so the map above need not be among them."
)


def command_line(out: str, config: GenerateConfig, flags: Collection[str]) -> str:
    """Return the command for a run with the settings ``config``, quoted for a POSIX shell.

    Settings that have their default are left out, except the preset. ``flags`` names the settings that have an option
    of their own; the others are given by ``--set``.
    """
    words = ["dgkit", "generate", out]
    for name, field in GenerateConfig.model_fields.items():
        value = getattr(config, name)
        replaced = config.engine_recipe is not None and name in ("engine", "dtype")
        if name not in _DIGESTS and not replaced and (value != field.default or name == "preset"):
            words += _words(name, value, name in flags)
    return shlex.join(words)


def _words(name: str, value: Any, has_flag: bool) -> list[str]:
    if name == "size":
        value = f"{value[0]}x{value[1]}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, tuple) and name == "lora":
        return [word for text in value for word in ("--lora", text)]
    if name == "styles" and all([*entry] == ["clause"] for entry in value.values()):
        return [word for style, entry in value.items() for word in ("--style", f"{style}={entry['clause']}")]
    if not has_flag or isinstance(value, dict):
        return ["--set", f"{name}={json.dumps(str(value) if isinstance(value, Path) else value)}"]
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]


def source_command(base: GenerateConfig, shown: Sequence[GenerateConfig], flags: Collection[str]) -> str:
    """Return the command for crops of the whole source ``base`` in the styles of the configs ``shown``.

    Preset, guidance scale and seed are those of the first one.
    """
    styles = list(dict.fromkeys(str(config.style_mix) for config in shown))
    own = {name: style for config in shown for name, style in config.styles.items()}
    mix: Any = styles[0] if len(styles) == 1 else dict.fromkeys(styles, 1)
    first = shown[0]
    update = {name: getattr(first, name) for name in ("preset", "guidance_scale", "seed", "count")}
    return command_line("scenes", base.model_copy(update={**update, "style_mix": mix, "styles": own}), flags)
