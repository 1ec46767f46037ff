"""Match the class names of a segmenter with those of a taxonomy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgkit.errors import InputError
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, class_key, mixed

_SHOWN = 8  # names in a note; a segmenter may have hundreds


@dataclass(frozen=True)
class ClassMatch:
    """Which channels of a segmenter are which classes of a taxonomy.

    ``channels``: the channels that are; ``train_ids``: uint8, the train id of each. ``spelled``: names that differ from
    the class in case, blanks, hyphens or underscores. ``others``: names of channels that are none of the classes;
    labels do not have them, so those channels cannot win a pixel. ``missing``: classes without a channel.
    """

    channels: list[int]
    train_ids: np.ndarray
    spelled: dict[str, str]
    others: tuple[str, ...]
    missing: tuple[str, ...]
    taxonomy: Taxonomy = CITYSCAPES19

    def notes(self) -> tuple[str, ...]:
        """Return sentences on names that are none of the classes, and on classes that the segmenter cannot predict."""
        notes = []
        if self.others:
            notes.append(f"ignored classes, which are none of the {self.taxonomy.size}: {_listed(self.others)}")
        if self.missing:
            notes.append(f"no channel is named {_listed(self.missing)}; these classes are never predicted")
        return tuple(notes)

    def facts(self) -> dict[str, dict[str, str]]:
        """Return what a digest must cover in addition to the names: nothing, if all are spelled as usual."""
        return {"class_names": self.spelled} if self.spelled else {}


def match_classes(
    names: Sequence[str], path: Path, taxonomy: Taxonomy = CITYSCAPES19, stated: Taxonomy | None = None
) -> ClassMatch:
    """Match names with the classes of ``taxonomy``, ignoring case, blanks, hyphens and underscores.

    ``path`` is the file that states them, and perhaps their taxonomy, ``stated``. Raises InputError if that is another
    one, if no name is known, or if two channels name one class.
    """
    if stated is None and tuple(names) == CITYSCAPES19.names:
        stated = CITYSCAPES19
    if stated not in (None, taxonomy):
        assert stated is not None
        raise mixed(taxonomy, stated, str(path))
    known = {class_key(name): number for number, name in enumerate(taxonomy.names)}
    found = {channel: known[class_key(name)] for channel, name in enumerate(names) if class_key(name) in known}
    if not found:
        raise InputError(
            f"{path} names none of the {taxonomy.size} classes: {', '.join(names[:5])}",
            f"use names such as {taxonomy.names[0]!r}",
        )
    ids = list(found.values())
    double = next((train_id for train_id in ids if ids.count(train_id) > 1), None)
    if double is not None:
        channels = [f"{channel} ({names[channel]!r})" for channel, train_id in found.items() if train_id == double]
        raise InputError(
            f"{path} names the class {taxonomy.names[double]!r} for the channels {', '.join(channels)}",
            "name each class once; rename the other channels, for example to 'unused'",
        )
    spelled = {names[channel]: taxonomy.names[number] for channel, number in found.items()}
    return ClassMatch(
        channels=list(found),
        train_ids=np.array(ids, np.uint8),
        spelled={name: usual for name, usual in spelled.items() if name != usual},
        others=tuple(name for channel, name in enumerate(names) if channel not in found),
        missing=tuple(name for number, name in enumerate(taxonomy.names) if number not in ids),
        taxonomy=taxonomy,
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
