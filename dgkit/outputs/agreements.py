"""How far each scene shows its label, where that was measured."""

from typing import Any

from dgkit.data import manifest
from dgkit.outputs.generated_folder import FILTERED, GeneratedFolder

# What `dgkit filter` notes of each scene: the first file holds those it left out, too.
_FILTER = (f"{FILTERED}/.measured.jsonl", f"{FILTERED}/manifest.jsonl")


def find_agreement(folder: GeneratedFolder) -> list[float | None] | None:
    """Share of the pixels that a segmenter calls as the label does, 0..1 for each scene: what the manifest says, else
    what ``dgkit filter`` measured.

    None for a scene that was not measured, and None altogether where no scene was. Raises InputError for a file of the
    filter that is damaged.
    """
    lines = (line for name in _FILTER for line in manifest.read(folder.path / name))
    filtered = {line.get("id"): line.get("agreement") for line in lines if "agreement" in line}
    values = [_share(record.get("agreement", filtered.get(record["id"]))) for record in folder.records]
    return values if any(value is not None for value in values) else None


def _share(value: Any) -> float | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return round(float(value), 4) if fine else None
