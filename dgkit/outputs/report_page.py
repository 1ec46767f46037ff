"""``dgkit report``: an HTML page about a generated folder, which needs no server and no network."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgkit.data.generated import GeneratedFolder, find_agreement, open_generated
from dgkit.data.labelmap import read_label
from dgkit.data.pictures import read_picture
from dgkit.errors import UsageError
from dgkit.files import atomic_write
from dgkit.outputs.card import describe
from dgkit.outputs.class_pixels import ClassPixels, count_classes
from dgkit.outputs.summary import Summary
from dgkit.progress import Advance, Progress, within
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

PAGE = "report.html"
THUMBNAIL = 256  # longer side of an embedded image in pixels
_BINS = 60
_SHORTEST_JUMP = 60.0  # seconds; smaller steps back of the clock are corrections
_PARTS = ("page.html", "page.css", "charts.js", "page.js")


@dataclass(frozen=True)
class ReportResult:
    """Result of :func:`report`.

    ``agreement`` is the mean over the scenes where it was measured, 0..1, or None; ``requested`` is the number of
    scenes of the finished folder, None if its settings do not say it.
    """

    page: Path
    scenes: int
    shown: int
    agreement: float | None
    requested: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``dgkit report --json`` prints."""
        facts = {"scenes": self.scenes, "requested": self.requested, "shown": self.shown, "agreement": self.agreement}
        return {"page": str(self.page), **facts}


def report(
    out: Path | str,
    *,
    source_pixels: Sequence[int] | None = None,
    embed: int | None = None,
    to: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> ReportResult:
    """Write ``report.html`` into the generated folder ``out``, and update its dataset card.

    The page shows the images in its own folder. With ``embed`` it contains that many scenes, spread evenly over the run
    and at most 256 pixels wide, and may be moved anywhere; only then may ``to`` name another file. ``source_pixels`` is
    as for :func:`dgkit.outputs.summary.summarise`. ``progress`` reports the stages "count" and "embed" in scenes.

    Raises UsageError for settings that are not allowed, InputError if ``out`` is not a generated folder, LabelError for
    a label that cannot be read, OutputError if the page cannot be written.
    """
    if embed is not None and embed < 1:
        raise UsageError(f"--embed {embed}; allowed: 1 or more scenes", "use for example --embed 200")
    if to is not None and embed is None:
        raise UsageError(f"a page outside {out} needs embedded images", "add --embed 200, or omit the file name")
    folder = open_generated(out, partial=True)
    pixels = count_classes(folder, workers, within(progress, "count"))
    data = page_data(folder, pixels, describe(folder, pixels, source_pixels))
    shown = len(folder.records)
    if embed is not None:
        shown = min(embed, shown)
        chosen = np.linspace(0, len(folder.records) - 1, shown).round().astype(int).tolist()
        data = embedded(folder, data, chosen, within(progress, "embed"))
    page = folder.path / PAGE if to is None else to
    atomic_write(page, render(data, folder.taxonomy).encode("utf-8", "backslashreplace"))
    known = [value for value in data["scenes"]["agreement"] or () if value is not None]
    agreement = float(np.mean(known)) if known else None
    return ReportResult(page, len(folder.records), shown, agreement, _requested(folder.settings))


def _requested(settings: Mapping[str, Any]) -> int | None:
    """Return the number of scenes of a run; None for a part of one."""
    count = None if settings.get("shard") else settings.get("count")
    return count if isinstance(count, int) else None


def page_data(folder: GeneratedFolder, pixels: ClassPixels, summary: Summary) -> dict[str, Any]:
    """Return the data of the page: each text once and scenes in columns, so that 10,000 scenes stay small."""
    records = folder.records
    columns: dict[str, Any] = {"id": [str(record["id"]) for record in records]}
    texts: dict[str, list[str]] = {}
    for name in ("style", "class", "prompt", "source"):
        values = [_text(record, name) for record in records]
        texts[name] = list(dict.fromkeys(values))
        numbers = {text: number for number, text in enumerate(texts[name])}
        columns[name] = [numbers[value] for value in values]
    columns["seed"] = [str(record["seed"]) for record in records]  # JavaScript has no 63-bit integers
    columns["crop"] = [record["crop"] for record in records]
    columns["pixels"] = pixels.classes.tolist()
    columns["agreement"] = find_agreement(folder)
    height, width = folder.size or (1, 1)
    return {
        "title": folder.name,
        "facts": _facts(summary),
        "classes": list(folder.taxonomy.names),
        "palette": [list(map(int, colour)) for colour in folder.taxonomy.palette],
        "ratio": height / width,
        "texts": texts,
        "scenes": columns,
        "source": summary.source_pixels,
        "throughput": throughput(_times(folder), _first_images(folder.settings)),
        "embedded": None,
    }


def _text(record: dict[str, Any], name: str) -> str:
    """Return a text of a scene; the prompt with the negative prompt, so that the search finds both."""
    negative = record.get("negative_prompt") if name == "prompt" else None
    return f"{record[name] or ''}{f' | negative prompt: {negative}' if negative else ''}"


def throughput(times: Sequence[float], first: int = 1) -> dict[str, Any] | None:
    """Return the throughput over the run, from the times [s] at which images were complete, in job order.

    The result is {"seconds": length of the run, "rates": images per hour in equal parts of it}. Images that are
    complete at the same time as the first, at most ``first`` of them, only start the clock. It is None for fewer
    than two more images, or if all were complete at once. A system clock that was set back during the run is corrected
    as far as the job order shows it; one that was set forward looks like a pause.
    """
    ordered = np.sort(_without_jumps_back(np.asarray(times, np.float64)))
    ordered = ordered[_burst(ordered, first) - 1 :]
    if len(ordered) < 3 or ordered[-1] - ordered[0] < 1e-3:
        return None
    seconds = float(ordered[-1] - ordered[0])
    bins = int(min(_BINS, max(1, (len(ordered) - 1) // 4)))
    counts, _ = np.histogram(ordered[1:] - ordered[0], bins, (0.0, seconds))
    return {"seconds": round(seconds, 3), "rates": [round(float(c) * 3600 * bins / seconds, 1) for c in counts]}


def _burst(ordered: np.ndarray, most: int) -> int:
    """Return how many of the first images, at least 1, follow each other far faster than images do on average."""
    gaps = np.diff(ordered)
    slow = np.flatnonzero(gaps[: most - 1] >= 0.1 * gaps.mean()) if len(gaps) else gaps
    return int(slow[0]) + 1 if len(slow) else min(most, len(ordered))


def _without_jumps_back(times: np.ndarray) -> np.ndarray:
    """Return ``times`` as if the clock had never been set back: times after a jump continue where the run was.

    Workers finish out of order, and single images may be generated again later, after which the times continue as
    before. A step back therefore counts as a jump only if it leads before the end of every stretch so far, by more than
    a minute and more than a tenth of the run until then.
    """
    found: list[float] = []
    ends: list[float] = []  # of stretches without a large step
    ahead = passed = 0.0
    for time in times.tolist():
        now = time + ahead
        least = max(_SHORTEST_JUMP, 0.1 * passed)
        if found and abs(now - found[-1]) > least:
            ends.append(found[-1])
            if all(now < end - least for end in ends):
                now = found[-1]
                ahead = now - time
        found.append(now)
        passed = max(passed, now - found[0])
    return np.asarray(found)


def embedded(folder: GeneratedFolder, data: dict[str, Any], chosen: Sequence[int], advance: Advance) -> dict[str, Any]:
    """Return ``data`` of the ``chosen`` scenes only, with their images embedded; figures of the run stay complete."""
    pictures: dict[str, list[str]] = {"image": [], "label": []}
    for done, number in enumerate(chosen, 1):
        record = folder.records[number]
        image = Image.fromarray(read_picture(folder.path / record["image"]))
        label = Image.fromarray(np.array(read_label(folder.path / record["label"], taxonomy=folder.taxonomy)))
        scale = min(1.0, THUMBNAIL / max(image.size))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        pictures["image"].append(_uri(image.resize(size, Image.Resampling.LANCZOS), "jpeg", quality=88))
        pictures["label"].append(_uri(label.resize(size, Image.Resampling.NEAREST), "png", optimize=True))
        advance(done, len(chosen))
    columns = {
        name: None if column is None else [column[number] for number in chosen]
        for name, column in data["scenes"].items()
    }
    return {**data, "scenes": columns, "embedded": pictures, "all": len(folder.records)}


def render(data: dict[str, Any], taxonomy: Taxonomy = CITYSCAPES19) -> str:
    """Return the page with style, script and ``data`` inlined; it refers to nothing but the images in its folder."""
    page, style, charts, script = (
        resources.files("dgkit.outputs").joinpath(name).read_text(encoding="utf-8") for name in _PARTS
    )
    # Escaped, so that no prompt or file name can end the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = data["title"].replace("&", "&amp;").replace("<", "&lt;")
    filled = {"TITLE": title, "STYLE": style, "SCRIPT": charts + script, **_tables(taxonomy), "DATA": text}
    return re.sub(r"@([A-Z]+)@", lambda place: filled[place[1]], page)


def _tables(taxonomy: Taxonomy) -> dict[str, str]:
    """Return the colours of label maps for an SVG filter: the values of 256 ids for each channel."""
    table = np.zeros((256, 3))
    table[: taxonomy.size] = np.minimum(
        1, (taxonomy.palette + 0.3) / 255
    )  # the same colour whether a browser rounds or truncates
    return {name: " ".join(f"{value:.4g}" for value in table[:, i]) for i, name in enumerate(("RED", "GREEN", "BLUE"))}


def _facts(summary: Summary) -> list[list[str]]:
    rows = [("scenes", f"{summary.images:,}"), ("model", summary.model), ("label maps", summary.source)]
    if summary.size:
        rows.append(("pixels", f"{summary.size[1]} x {summary.size[0]}"))
    keys = ("preset", "steps", "engine", "dtype", "seed")
    rows += [(key, str(summary.settings[key])) for key in keys if summary.settings.get(key) is not None]
    rows.append(("ignored pixels", f"{summary.ignored_share:.2%}"))
    return [list(row) for row in rows]


def _first_images(settings: Mapping[str, Any]) -> int:
    """Return how many images are complete at about the same time as the first: a block of each worker."""
    batch, workers = (settings.get(name) for name in ("batch", "workers"))
    block = max(1, batch // 2) if isinstance(batch, int) else 1
    return block * (workers if isinstance(workers, int) and workers > 0 else 1)


def _times(folder: GeneratedFolder) -> list[float]:
    """Return the modification time of each image [s]; a copied folder has them only if the copy kept times."""
    paths = [folder.path / record["image"] for record in folder.records]
    return [path.stat().st_mtime for path in paths if path.is_file()]


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
