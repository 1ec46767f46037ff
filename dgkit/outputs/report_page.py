"""``dgkit report``: one page to look at a generated folder, from a file and without a network."""

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
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
from dgkit.labels import CLASSES, NUM_CLASSES, PALETTE
from dgkit.outputs.card import describe
from dgkit.outputs.class_pixels import ClassPixels, count_classes
from dgkit.outputs.summary import Summary
from dgkit.progress import Advance, ignore

PAGE = "report.html"
THUMBNAIL = 256  # pixels of the longer side of an embedded picture
_BINS = 60
_SHORTEST_JUMP = 60.0  # seconds; below, a clock was put right and not back
_PARTS = ("page.html", "page.css", "charts.js", "page.js")


@dataclass(frozen=True)
class ReportResult:
    page: Path
    scenes: int
    shown: int
    agreement: float | None

    def to_json(self) -> dict[str, Any]:
        return {"page": str(self.page), "scenes": self.scenes, "shown": self.shown, "agreement": self.agreement}


def report(
    out: Path | str,
    *,
    source_pixels: Sequence[int] | None = None,
    embed: int | None = None,
    to: Path | None = None,
    workers: int = 0,
    progress: Callable[[str, float, float], None] | None = None,
) -> ReportResult:
    """Write ``report.html`` into the generated folder ``out``, and its card anew.

    The page shows the pictures that lie beside it. With ``embed`` it holds that many scenes itself, spread evenly over
    the run and at most 256 pixels wide, and may be moved anywhere; only then may ``to`` name another file.
    ``source_pixels`` as for :func:`dgkit.outputs.summary.summarise`. ``progress`` gets ("count" or "embed", done, all).

    Raises UsageError for settings that are not allowed, InputError where ``out`` is no generated folder, LabelError for
    a label that cannot be read, OutputError where the page cannot be written.
    """
    if embed is not None and embed < 1:
        raise UsageError(f"--embed {embed}; allowed: 1 or more scenes", "use for example --embed 200")
    if to is not None and embed is None:
        raise UsageError(
            "a page elsewhere than beside its pictures needs them inside", "add --embed 200, or leave the file out"
        )
    tell = progress or ignore
    folder = open_generated(out, partial=True)
    pixels = count_classes(folder, workers, lambda *done: tell("count", *done))
    data = page_data(folder, pixels, describe(folder, pixels, source_pixels))
    shown = len(folder.records)
    if embed is not None:
        shown = min(embed, shown)
        chosen = np.linspace(0, len(folder.records) - 1, shown).round().astype(int).tolist()
        data = embedded(folder, data, chosen, lambda *done: tell("embed", *done))
    page = folder.path / PAGE if to is None else to
    atomic_write(page, render(data).encode())
    known = [value for value in data["scenes"]["agreement"] or () if value is not None]
    return ReportResult(page, len(folder.records), shown, float(np.mean(known)) if known else None)


def page_data(folder: GeneratedFolder, pixels: ClassPixels, summary: Summary) -> dict[str, Any]:
    """What the page shows, as JSON: texts once each and scenes in columns, so that 10,000 of them stay small."""
    records = folder.records
    columns: dict[str, Any] = {"id": [str(record["id"]) for record in records]}
    texts: dict[str, list[str]] = {}
    for name in ("style", "class", "prompt", "source"):
        values = [str(record[name] or "") for record in records]
        texts[name] = list(dict.fromkeys(values))
        numbers = {text: number for number, text in enumerate(texts[name])}
        columns[name] = [numbers[value] for value in values]
    columns["seed"] = [str(record["seed"]) for record in records]  # JavaScript has no integers of 63 bits
    columns["crop"] = [record["crop"] for record in records]
    columns["pixels"] = pixels.classes.tolist()
    columns["agreement"] = find_agreement(folder)
    height, width = folder.size or (1, 1)
    return {
        "title": folder.name,
        "facts": _facts(summary),
        "classes": list(CLASSES),
        "palette": [list(map(int, colour)) for colour in PALETTE],
        "ratio": height / width,
        "texts": texts,
        "scenes": columns,
        "source": summary.source_pixels,
        "throughput": throughput(_times(folder)),
        "embedded": None,
    }


def throughput(times: Sequence[float]) -> dict[str, Any] | None:
    """Images an hour over the run, from the times [s] at which images were complete, in the order of the jobs.

    Returns {"seconds": length of the run, "rates": images an hour in each of equal parts of it}; the first image only
    starts the clock. None for fewer than three images, or all at once. A system clock that was put back meanwhile does
    not count, as far as the order of the jobs tells; one that was put forward looks like a pause.
    """
    ordered = np.sort(_continued(np.asarray(times, np.float64)))
    if len(ordered) < 3 or ordered[-1] - ordered[0] < 1e-3:
        return None
    seconds = float(ordered[-1] - ordered[0])
    bins = int(min(_BINS, max(1, (len(ordered) - 1) // 4)))
    counts, _ = np.histogram(ordered[1:] - ordered[0], bins, (0.0, seconds))
    return {"seconds": round(seconds, 3), "rates": [round(float(c) * 3600 * bins / seconds, 1) for c in counts]}


def _continued(times: np.ndarray) -> np.ndarray:
    """``times`` as of a clock that was never put back: what follows a jump goes on where the run was.

    Workers finish out of order, and single images are made again later, after which the others go on where they had
    been. So a step back is a jump where it leads to before the end of every stretch so far, and by more than a minute
    and a tenth of the run until then.
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
    """``data`` of the ``chosen`` scenes alone, with their pictures inside; what is said of the run stays whole."""
    pictures: dict[str, list[str]] = {"image": [], "label": []}
    for done, number in enumerate(chosen, 1):
        record = folder.records[number]
        image = Image.fromarray(read_picture(folder.path / record["image"]))
        label = Image.fromarray(np.array(read_label(folder.path / record["label"])))
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


def render(data: dict[str, Any]) -> str:
    """The page with its style, its script and ``data`` inside: it refers to nothing but pictures beside it."""
    page, style, charts, script = (
        resources.files("dgkit.outputs").joinpath(name).read_text(encoding="utf-8") for name in _PARTS
    )
    # "<" cannot end the script element from inside a string, whatever a prompt or a file name holds.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = data["title"].replace("&", "&amp;").replace("<", "&lt;")
    filled = {"TITLE": title, "STYLE": style, "SCRIPT": charts + script, **_tables(), "DATA": text}
    return re.sub(r"@([A-Z]+)@", lambda place: filled[place[1]], page)


def _tables() -> dict[str, str]:
    """Colours of label maps in the browser: for each channel the values of 256 ids, as an SVG filter takes them."""
    table = np.zeros((256, 3))
    table[:NUM_CLASSES] = np.minimum(1, (PALETTE + 0.3) / 255)  # the same colour whether a browser rounds or cuts off
    return {name: " ".join(f"{value:.4g}" for value in table[:, i]) for i, name in enumerate(("RED", "GREEN", "BLUE"))}


def _facts(summary: Summary) -> list[list[str]]:
    rows = [("scenes", f"{summary.images:,}"), ("model", summary.model), ("label maps", summary.source)]
    if summary.size:
        rows.append(("pixels", f"{summary.size[1]} x {summary.size[0]}"))
    keys = ("preset", "steps", "engine", "dtype", "seed")
    rows += [(key, str(summary.settings[key])) for key in keys if summary.settings.get(key) is not None]
    rows.append(("ignored pixels", f"{summary.ignored_share:.2%}"))
    return [list(row) for row in rows]


def _times(folder: GeneratedFolder) -> list[float]:
    """When each image was complete, by its file; copies keep that only where they keep times."""
    paths = [folder.path / record["image"] for record in folder.records]
    return [path.stat().st_mtime for path in paths if path.is_file()]


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
