"""Renders of the city as a reference for generated pictures: what a judge says of real ones is the most to expect."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgkit.data.crops import CropBox, anchor_box, crop
from dgkit.data.generated import LabelledImage, SceneFiles
from dgkit.errors import InputError, UsageError
from dgkit.labels import CLASSES
from dgkit.world import ROLES, Scene, render

TWINS = "twins"
TRIES = 8  # scenes looked through for one that holds the class that a crop was drawn for
SEED = 9_000  # of the scenes of a reference role: neither the shipped generator nor the judge was trained on it
_CITY_SOURCE = re.compile(r"^city(\d+)-(\d+)$")  # how dgkit generate names the scenes that it draws itself


def render_reference(name: str, entries: Sequence[SceneFiles], size: tuple[int, int]) -> "Like | Twins":
    """Renders to compare ``entries`` of ``size`` (height, width) with: of a role, or their :class:`Twins`.

    Raises UsageError for a name that is neither, InputError where ``entries`` have no twins.
    """
    if name == TWINS:
        return Twins(entries, _scene_height(entries, size))
    if name not in ROLES:
        raise UsageError(
            f"reference {name!r} is neither a folder nor a role of the city; roles: {', '.join(ROLES)}",
            f"give --reference prior, --reference {TWINS}, or a folder with images/ and labels/",
        )
    return Like(name, entries, size, max(size[0], -(-size[1] // 2), 256))


@dataclass(frozen=True)
class Like:
    """Unseen scenes of ``role``: as many as ``entries``, as large, of the same styles and drawn classes.

    The styles are those of the entries for the role ``prior`` alone; the other roles have looks of their own. Scenes
    are ``height`` pixels high. The same arguments give the same pictures.
    """

    role: str
    entries: Sequence[SceneFiles]
    size: tuple[int, int]
    height: int

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[LabelledImage]:
        for number, entry in enumerate(self.entries):
            rng = np.random.default_rng([SEED, number])
            class_id = CLASSES.index(entry.class_name) if entry.class_name in CLASSES else None
            scene = self._scene(number, class_id, entry.style if self.role == "prior" else None)
            y, x = _anchor(scene.label, class_id, rng)
            box = anchor_box(y, x, scene.label.shape[0], scene.label.shape[1], self.size)
            yield _cut(f"{self.role}-{number}", scene, box, scene.style)

    def _scene(self, number: int, class_id: int | None, style: str | None) -> Scene:
        """The first of some scenes that holds the class, else the last of them."""
        for attempt in range(TRIES):
            index = number * TRIES + attempt
            scene = render(self.role, SEED, index, height=self.height, width=2 * self.height, style=style)
            if class_id is None or (scene.label == class_id).any():
                break
        return scene


@dataclass(frozen=True)
class Twins:
    """For each entry the very scene that its label map was cut from, drawn in the style that was asked for.

    Labels and styles are those of the entries, so that nothing but the picture differs.
    """

    entries: Sequence[SceneFiles]
    height: int

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[LabelledImage]:
        for entry in self.entries:
            scene, box = _twin(entry, self.height)
            yield _cut(f"twin-{entry.id}", scene, box, entry.style)


def _twin(entry: SceneFiles, height: int) -> tuple[Scene, CropBox]:
    found = _CITY_SOURCE.match(entry.source)
    if found is None or entry.crop is None:
        raise InputError(
            f"{entry.image} was not made from a scene of the city (source {entry.source!r}): it has no twin",
            "use --reference prior",
        )
    seed, index = int(found[1]), int(found[2])
    return render("source", seed, index, height=height, width=2 * height, style=entry.style), CropBox(*entry.crop)


def _scene_height(entries: Sequence[SceneFiles], size: tuple[int, int]) -> int:
    """The height at which the scenes were drawn: the one that gives the first entry's own label map."""
    label = entries[0].read().label
    for height in dict.fromkeys((256, size[0], 512, 2 * size[0], -(-size[1] // 2))):
        scene, box = _twin(entries[0], height)
        if np.array_equal(crop(scene.label, box), label):
            return height
    raise InputError(
        f"the city of this version does not draw {entries[0].label} again",
        "use --reference prior, or make the folder anew",
    )


def _anchor(label: np.ndarray, class_id: int | None, rng: np.random.Generator) -> tuple[int, int]:
    """A pixel of the class, where there is one, else any pixel."""
    places = np.flatnonzero(label == class_id) if class_id is not None else np.empty(0, int)
    place = int(rng.choice(places)) if len(places) else int(rng.integers(label.size))
    return divmod(place, label.shape[1])


def _cut(name: str, scene: Scene, box: CropBox, style: str) -> LabelledImage:
    image = scene.image[box.y : box.y + box.height, box.x : box.x + box.width]
    label = crop(scene.label, box)[: image.shape[0], : image.shape[1]]
    return LabelledImage(name, np.ascontiguousarray(image), label, style)
