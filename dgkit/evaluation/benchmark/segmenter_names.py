"""Names of the segmenters that ``dgkit eval`` compares."""

import re
from collections.abc import Sequence
from pathlib import Path

from dgkit.errors import UsageError, shown
from dgkit.files import user_path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def name_segmenters(texts: Sequence[str]) -> dict[str, Path]:
    """Return the path of each segmenter by its name: ``NAME=PATH``, or a path, whose name has no ending.

    Raises UsageError for two of the same name.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, path = _split(text)
        if name.casefold() in [known.casefold() for known in found]:
            raise UsageError(
                f"two segmenters are named {name}: {found.get(name, name)} and {path}",
                f"name them: {name}-1={found.get(name, name)} {name}-2={path}",
            )
        found[name] = path
    return found


def _split(text: str) -> tuple[str, Path]:
    name, equals, rest = text.partition("=")
    if equals and rest and _NAME.fullmatch(name) and not Path(text).exists():
        return name, user_path(rest)
    path = user_path(text)
    place = path.resolve()
    name = place.stem if place.suffix in (".onnx", ".pth", ".pt") else place.name
    if not _NAME.fullmatch(name):
        raise UsageError(f"the file name of {shown(text)} cannot be the name of a segmenter", f"name it: A='{text}'")
    return name, path
