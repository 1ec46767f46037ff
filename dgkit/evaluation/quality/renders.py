"""Renders of the city as a reference for generated images: a judge's score on them is the upper bound."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dgkit.config import read_recipe
from dgkit.data.crops import CropBox, anchor_box, crop
from dgkit.data.generated import SETTINGS, LabelledImage, SceneFiles
from dgkit.errors import DgkitError, InputError, UsageError, shown
from dgkit.files import parse_json, read_file
from dgkit.labels import CLASSES
from dgkit.prompts import STYLE_NAMES
from dgkit.world import ROLES, Scene, render
from dgkit.world.disk_layouts import SPLITS, scene_index
from dgkit.world.write import SETTINGS as WORLD

PAIRED = "paired"
_PAIRED_NAMES = (PAIRED, "twins")  # the second is the name in dgkit 0.1
TRIES = 8  # scenes searched for one that contains the class of a crop
SEED = 9_000  # of reference scenes: neither the shipped generator nor the judge was trained on it
_WORLD_SOURCE = re.compile(r"^(?:(train|val|test)_)?(\d{5,})$")  # files of role source in a folder of dgkit world
_CITY_SOURCE = re.compile(r"^city(\d+)-(\d+)$")  # how dgkit generate names the scenes that it renders itself


def is_paired(reference: str) -> bool:
    """Return whether ``reference`` names the paired renders."""
    return reference in _PAIRED_NAMES


def city_sources(out: Path, scenes: Sequence[SceneFiles]) -> Sequence[SceneFiles]:
    """Return ``scenes``, with the names that dgkit generate gives to city scenes if they come from such a folder.

    ``out`` is the folder of the scenes. Its settings name the folder of label maps, which ``dgkit world`` describes in
    its world.json.
    """
    try:
        settings = read_recipe(out / SETTINGS)
        given = str(settings.get("dataset") or "").partition("=")[2] or settings.get("labels")
        folders = [Path(str(given)), Path(str(given)).parent]
        path = next(folder / WORLD for folder in folders if (folder / WORLD).is_file())
        world = parse_json(read_file(path))
        role, seed = world["role"], int(world["seed"])
    except (DgkitError, OSError, ValueError, KeyError, TypeError, StopIteration):
        return scenes
    if role != "source":
        return scenes
    return [replace(files, source=_city_name(files.source, seed, settings.get("split"))) for files in scenes]


def _city_name(source: str, seed: int, split: str | None) -> str:
    match = _WORLD_SOURCE.match(source)
    if match is None:
        return source
    split = match[1] or (split if split in SPLITS else None)
    return f"city{seed}-{scene_index(split, int(match[2]) - 1):06d}"


def render_reference(name: str, scenes: Sequence[SceneFiles], size: tuple[int, int]) -> "RoleRenders | PairedRenders":
    """Return renders of role ``name``, or the paired renders, to compare ``scenes`` of ``size`` (height, width) with.

    Raises UsageError for another name, InputError if ``scenes`` have no paired renders.
    """
    if is_paired(name):
        return PairedRenders(scenes, _scene_height(scenes, size))
    if name not in ROLES:
        raise UsageError(
            f"reference {name!r} is neither a folder, nor '{PAIRED}', nor a role of the city: {', '.join(ROLES)}",
            f"use --reference prior, --reference {PAIRED}, or a folder with images/ and labels/",
        )
    return RoleRenders(name, scenes, size, max(size[0], -(-size[1] // 2), 256))


@dataclass(frozen=True)
class RoleRenders:
    """Unseen scenes of ``role``: as many as ``scenes``, of the same size and crop classes.

    Role ``prior`` also takes the styles of ``scenes``; the other roles have their own looks. Full scenes are ``height``
    pixels high. The same arguments give the same images.
    """

    role: str
    scenes: Sequence[SceneFiles]
    size: tuple[int, int]
    height: int

    def __len__(self) -> int:
        return len(self.scenes)

    def __iter__(self) -> Iterator[LabelledImage]:
        for number, files in enumerate(self.scenes):
            rng = np.random.default_rng([SEED, number])
            class_id = CLASSES.index(files.class_name) if files.class_name in CLASSES else None
            scene = self._scene(number, class_id, files.style if self.role == "prior" else None)
            y, x = _anchor(scene.label, class_id, rng)
            box = anchor_box(y, x, scene.label.shape[0], scene.label.shape[1], self.size)
            yield _cut(f"{self.role}-{number}", scene, box, scene.style)

    def _scene(self, number: int, class_id: int | None, style: str | None) -> Scene:
        """Return the first of :data:`TRIES` scenes that contains the class, else the last of them."""
        for attempt in range(TRIES):
            index = number * TRIES + attempt
            scene = _render(self.role, SEED, index, self.height, style)
            if class_id is None or (scene.label == class_id).any():
                break
        return scene


@dataclass(frozen=True)
class PairedRenders:
    """For each of ``scenes``, a render of the scene that its label map was cut from, in the requested style.

    Labels and styles are equal, so only the images differ. Full scenes are ``height`` pixels high.
    """

    scenes: Sequence[SceneFiles]
    height: int

    def __len__(self) -> int:
        return len(self.scenes)

    def __iter__(self) -> Iterator[LabelledImage]:
        for files in self.scenes:
            scene, box = _source_scene(files, self.height)
            yield _cut(f"{PAIRED}-{files.id}", scene, box, files.style)


def _source_scene(files: SceneFiles, height: int) -> tuple[Scene, CropBox]:
    found = _CITY_SOURCE.match(files.source)
    if found is None or files.crop is None:
        raise InputError(
            f"{files.image} was not made from a scene of the city (source {files.source!r}): it has no paired render",
            "use --reference prior",
        )
    seed, index = int(found[1]), int(found[2])
    return _render("source", seed, index, height, files.style), CropBox(*files.crop)


def _render(role: str, seed: int, index: int, height: int, style: str | None) -> Scene:
    if style is not None and style not in STYLE_NAMES:
        raise InputError(
            f"the city has no renders of the style {shown(style)}, only of {', '.join(STYLE_NAMES)}",
            "omit --reference, or use a folder with images/ and labels/",
        )
    return render(role, seed, index, height=height, width=2 * height, style=style)


def _scene_height(scenes: Sequence[SceneFiles], size: tuple[int, int]) -> int:
    """Return the height at which the scenes were rendered: the one that gives the first label map again."""
    label = scenes[0].read().label
    for height in dict.fromkeys((256, size[0], 512, 2 * size[0], -(-size[1] // 2))):
        scene, box = _source_scene(scenes[0], height)
        if np.array_equal(crop(scene.label, box), label):
            return height
    raise InputError(
        f"this version of the city does not render {scenes[0].label} identically",
        "use --reference prior, or generate the folder again",
    )


def _anchor(label: np.ndarray, class_id: int | None, rng: np.random.Generator) -> tuple[int, int]:
    """Return a random pixel (y, x) of the class if there is one, else any pixel."""
    places = np.flatnonzero(label == class_id) if class_id is not None else np.empty(0, int)
    place = int(rng.choice(places)) if len(places) else int(rng.integers(label.size))
    return divmod(place, label.shape[1])


def _cut(name: str, scene: Scene, box: CropBox, style: str) -> LabelledImage:
    image = scene.image[box.y : box.y + box.height, box.x : box.x + box.width]
    label = crop(scene.label, box)[: image.shape[0], : image.shape[1]]
    return LabelledImage(name, np.ascontiguousarray(image), label, style)
