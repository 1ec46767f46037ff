"""The type of a setting that names a taxonomy; importing it needs no numpy, so that ``--help`` stays fast."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator


def _document(value: Any) -> Any:
    """Return what records keep of a taxonomy that settings name; other values are left to the type to refuse."""
    if not isinstance(value, str | Path | Mapping):
        return value
    from dgkit.taxonomies import find_taxonomy

    return find_taxonomy(value).document()


TaxonomyChoice = Annotated[str | dict[str, Any] | None, BeforeValidator(_document)]
"""A built-in name, or a file, which is replaced by its content."""
