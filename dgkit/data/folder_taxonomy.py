"""The classes of a folder that ``dgkit generate`` wrote, as its settings state them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgkit.config import read_recipe
from dgkit.data.labelmap import find_encoding
from dgkit.errors import InputError
from dgkit.taxonomies import CITYSCAPES19, TRAIN_IDS, Taxonomy, find_taxonomy, mixed, qualified

MANIFEST, SETTINGS = "manifest.jsonl", "config.yaml"


def settings_taxonomy(settings: Mapping[str, Any], path: Path) -> Taxonomy:
    """Return the taxonomy that the settings of ``path`` state; settings that state none have the default.

    Raises InputError.
    """
    value = settings.get("taxonomy")
    if value is not None and not isinstance(value, str | dict):
        raise InputError(f"{path}: taxonomy is not a name or a mapping", "restore the file from a copy")
    return find_taxonomy(value)


def folder_taxonomy(folder: Path) -> Taxonomy | None:
    """Return the taxonomy of a folder with a manifest and settings; None for any other folder. Raises InputError."""
    path = folder / SETTINGS
    if not path.is_file() or not (folder / MANIFEST).is_file():
        return None
    try:
        return settings_taxonomy(read_recipe(path), path)
    except InputError:
        if b"taxonomy" in path.read_bytes():
            raise
        return CITYSCAPES19  # damaged settings of earlier versions, which had no other classes


def class_numbers(folder: Path, taxonomy: Taxonomy) -> str | None:
    """Return the encoding of the class numbers in a generated folder for ``taxonomy``; None for any other folder.

    Raises InputError that names the difference if ``taxonomy`` has no table from the classes of the folder.
    """
    found = folder_taxonomy(folder)
    if found is None:
        return None
    if found == taxonomy:
        return TRAIN_IDS
    if found.name not in taxonomy.map:
        raise mixed(taxonomy, found, str(folder))
    return find_encoding(qualified(found, TRAIN_IDS), taxonomy).name
