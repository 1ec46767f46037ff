"""Figures of a generated folder: the content of its ``dataset.json`` and of its dataset card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgkit import __version__
from dgkit.config import read_recipe
from dgkit.data.generated import GeneratedFolder
from dgkit.files import json_bytes, parse_json, read_file, write_changed
from dgkit.outputs.class_pixels import ClassPixels
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from dgkit.wording import TEMPLATE

SUMMARY = "dataset.json"
_EMBEDDED = "the model that dgkit ships"


@dataclass(frozen=True)
class Summary:
    """Figures of a generated folder.

    For each class of ``taxonomy``, ``pixels`` are its pixels, ``scenes`` the scenes that show it, and ``source_pixels``
    its pixels in the label maps that crops were taken from (None if unknown). ``drawn`` counts the crops chosen for
    each class. Nothing depends on when, where or how often the run was started: a folder that is generated again
    elsewhere has the same figures.
    """

    images: int
    size: tuple[int, int] | None
    styles: dict[str, int]
    drawn: dict[str, int]
    pixels: tuple[int, ...]
    scenes: tuple[int, ...]
    ignored_share: float
    source_pixels: tuple[int, ...] | None
    source: str
    model: str
    settings: dict[str, Any]
    taxonomy: Taxonomy = CITYSCAPES19

    @property
    def words(self) -> dict[str, Any]:
        """The settings of prompts that differ from the published wording."""
        keys = ("styles", "prompt_template", "class_words", "class_limit", "negative_prompt")
        usual: tuple[Any, ...] = (None, "", {}, TEMPLATE)
        return {key: self.settings[key] for key in keys if self.settings.get(key) not in usual}

    @property
    def licence(self) -> str | None:
        """``apache-2.0`` if model and label maps both come with dgkit; None if other terms apply."""
        own = not any(self.settings.get(name) for name in ("model", "controlnet", "lora"))
        return "apache-2.0" if own and self.settings.get("world") is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``dataset.json``."""
        loras = ("lora", "lora_digest") if self.settings.get("lora") else ()
        shown = ("preset", "steps", "guidance_scale", "engine", "dtype", "seed", "rare", "style_mix", "label_scale",
                 "model_digest", "source_digest", "spacing", *loras)  # fmt: skip
        classes = [
            {"name": name, "pixels": self.pixels[i], "images": self.scenes[i],
             "source_pixels": None if self.source_pixels is None else self.source_pixels[i]}
            for i, name in enumerate(self.taxonomy.names)
        ]  # fmt: skip
        return {
            "images": self.images,
            "height": None if self.size is None else self.size[0],
            "width": None if self.size is None else self.size[1],
            "styles": self.styles,
            "drawn_for": self.drawn,
            "ignored_share": round(self.ignored_share, 6),
            "classes": classes,
            **({} if self.taxonomy.is_default else {"taxonomy": self.taxonomy.document()}),
            "source": self.source,
            "model": self.model,
            "licence": self.licence,
            "settings": {key: self.settings[key] for key in shown if key in self.settings} | self.words,
            "dgkit": __version__,
        }


def summarise(folder: GeneratedFolder, pixels: ClassPixels, source_pixels: Sequence[int] | None = None) -> Summary:
    """Collect the figures of a folder.

    ``source_pixels``: pixels of each class in all label maps of the source; None takes them from an earlier card of
    this folder.
    """
    known = source_pixels if source_pixels is not None else _recorded(folder.path, folder.settings)
    known = None if known is None or len(known) != folder.taxonomy.size else known
    return Summary(
        images=len(folder.records),
        size=folder.size,
        styles=folder.styles,
        drawn=folder.crop_classes,
        pixels=tuple(pixels.totals),
        scenes=tuple(pixels.scenes),
        ignored_share=pixels.ignored_share,
        source_pixels=None if known is None else tuple(int(count) for count in known),
        source=_source(folder.settings),
        model=_model(folder.settings),
        settings=folder.settings,
        taxonomy=folder.taxonomy,
    )


def write_summary(summary: Summary, folder: Path) -> None:
    """Write ``dataset.json``, unless it has this content already."""
    write_changed(folder / SUMMARY, json_bytes(summary.to_json()))


def known_source(parts: Sequence[Path]) -> list[int] | None:
    """Return the source pixels that the card of one of these folders recorded; None if none did."""
    found = (_recorded(part, read_recipe(part / "config.yaml")) for part in parts)
    return next((counts for counts in found if counts is not None), None)


def _recorded(path: Path, settings: dict[str, Any]) -> list[int] | None:
    """Return the source pixels in the dataset.json of a folder, if it is complete and of the same label maps."""
    try:
        found = parse_json(read_file(path / SUMMARY))
        same = found["settings"].get("source_digest") == settings.get("source_digest")
        counts = [int(entry["source_pixels"]) for entry in found["classes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return counts if same else None


def _source(settings: dict[str, Any]) -> str:
    """Describe the label maps. Folders are given without their parents, which say nothing on other machines."""
    if settings.get("dataset") is not None:
        name, _, root = str(settings["dataset"]).partition("=")
        return f"data set {name}, folder {Path(root).name}" if root else f"data set {name}"
    if settings.get("jobs") is not None:
        return f"label maps in a table of jobs {Path(str(settings['jobs'])).name}"
    if settings.get("arrays") is not None:
        return f"{settings['arrays']} label maps passed as arrays"
    if settings.get("labels") is not None:
        return f"label maps in a folder {Path(str(settings['labels'])).name}"
    return f"{settings.get('world')} scenes of the procedural city of dgkit, seed {settings.get('seed')}"


def _model(settings: dict[str, Any]) -> str:
    model, controlnet = settings.get("model"), settings.get("controlnet")
    name = _EMBEDDED if model is None else _short(str(model))
    loras = [f"LoRA {_short(str(lora))}" for lora in settings.get("lora") or ()]
    return ", ".join([name, *(() if controlnet is None else (f"ControlNet {_short(str(controlnet))}",)), *loras])


def _short(place: str) -> str:
    """Return a hub id unchanged, and of a folder its name."""
    return Path(place).name if Path(place).is_absolute() else place
