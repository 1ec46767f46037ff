"""``dgkit filter``: a second label folder, in which pixels that do not show what their label says are ignored."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from dgkit.config import load_config
from dgkit.data.filtering import boundary_band, class_means, doubtful, near_duplicates
from dgkit.data.generated import FILTERED, MANIFEST, MEASURED, SceneFiles, list_scenes
from dgkit.data.labelmap import write_label
from dgkit.data.manifest import Manifest
from dgkit.errors import OutputError, UsageError
from dgkit.files import atomic_write, digest_file, output_error, remove_stale_temporaries
from dgkit.generation.filter_config import FilterConfig
from dgkit.generation.filter_pairs import Judge, Measured, canonical, list_reference, measure_all
from dgkit.generation.generate_config import GenerateConfig
from dgkit.labels import CLASSES, IGNORE, NUM_CLASSES
from dgkit.locks import sole_writer

SUMMARY = "filter.json"
_REFERENCE, _WRITTEN = ".reference.jsonl", ".written.jsonl"
Progress = Callable[[str, float, float], None]  # "reference", "measure" or "filter", done, total


def filter_folder(
    out: Path | str, config: FilterConfig | None = None, *, progress: Progress | None = None, **settings: Any
) -> dict[str, Any]:
    """Write ``out/labels_filtered`` and return what ``filter.json`` in it holds.

    Pass a whole ``config``, or single settings of :class:`FilterConfig`. A pixel is ignored where the cross-entropy of
    the segmenter exceeds ``threshold`` times the mean of its class (FreeMask, arXiv 2310.15160). ``labels/`` stays as
    it is. The same call again goes on where the last ended; scenes that were added are filtered, too. A
    ``manifest.jsonl`` lists the scenes that are kept; it is there only when all labels are.

    Raises UsageError for settings without an effect, InputError for files that cannot be used, OutputError for a folder
    that cannot be written, EngineError where the segmenter fails, MissingDependency.
    """
    config = load_config(FilterConfig, **settings) if config is None else config
    _check(config)
    report = progress or (lambda stage, done, total: None)
    out = Path(out).expanduser()
    scenes, judge = list_scenes(out), Judge(config.segmenter)
    second = _prepared(out / FILTERED)
    with sole_writer(second):
        remove_stale_temporaries(second)
        measured = measure_all(scenes, judge, second / MEASURED, lambda *done: report("measure", *done))
        means = _means(config, judge, measured, second, report)
        left_out = _left_out(config, scenes, measured)
        kept = [i for i, scene in enumerate(scenes) if scene.id not in left_out]
        lines = _write_all(
            out, [scenes[i] for i in kept], [measured[i] for i in kept], judge, means, config,
            lambda *done: report("filter", *done),
        )  # fmt: skip
        summary = _summary(config, judge, means, measured, lines, left_out)
        _finish(second, lines, summary)
    return summary


def write_filtered_labels(out: Path, config: GenerateConfig, progress: Progress) -> None:
    """Second labels of a run, where its settings ask for them; raises as :func:`filter_folder`.

    A shard gets none, since mean losses and duplicates are those of all scenes.
    """
    if config.shard is not None or (config.judge is None and not config.boundary and config.duplicates is None):
        return
    rules = FilterConfig(
        segmenter=config.judge,
        boundary=config.boundary,
        min_agreement=config.min_agreement,
        duplicates=config.duplicates,
    )
    filter_folder(out, rules, progress=progress)


def _check(config: FilterConfig) -> None:
    if config.segmenter is None:
        given = [name for name in ("min_agreement", "reference") if getattr(config, name) is not None]
        if given:
            raise UsageError(f"{given[0]} needs a segmenter", "add --segmenter FILE.onnx")
        if not config.boundary and config.duplicates is None:
            raise UsageError("nothing to filter by", "add --segmenter FILE.onnx, or --boundary 2")


def _prepared(second: Path) -> Path:
    """The folder of the second labels, made if needed. Raises OutputError where it was not made here."""
    try:
        names = [entry.name for entry in second.iterdir()] if second.exists() else []
        if any(not name.startswith(".") for name in names) and MEASURED not in names:
            raise OutputError(f"{second} holds other files", "rename or remove it")
        second.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(second, error) from error
    return second


def _means(
    config: FilterConfig, judge: Judge, measured: Sequence[Measured], second: Path, report: Progress
) -> np.ndarray:
    """float64 [19]: mean loss of each class, nan where a class does not occur."""
    if config.reference is not None:
        scenes, journal = list_reference(config.reference), second / _REFERENCE
        measured = measure_all(scenes, judge, journal, lambda *done: report("reference", *done), hold=False)
    pixels, losses = np.zeros(NUM_CLASSES, np.int64), np.zeros(NUM_CLASSES)
    for scene in measured:  # in order: a float sum depends on it
        pixels += scene.pixels
        losses += scene.losses
    return class_means(pixels, losses)


def _left_out(config: FilterConfig, scenes: Sequence[SceneFiles], measured: Sequence[Measured]) -> dict[str, str]:
    """Id of each scene that is left out, and why."""
    reasons: dict[str, str] = {}
    for scene, found in zip(scenes, measured, strict=True):
        least = config.min_agreement
        if least is not None and found.agreement is not None and found.agreement < least:
            reasons[scene.id] = f"agreement {found.agreement:.4f} < {least}"
    if config.duplicates is not None:
        rest = [(s.id, m.hash) for s, m in zip(scenes, measured, strict=True) if s.id not in reasons]
        alike = near_duplicates([code for _, code in rest], config.duplicates)
        reasons |= {
            rest[i][0]: f"near-duplicate of {rest[first][0]}" for i, first in enumerate(alike) if first is not None
        }
    return reasons


def _write_all(
    out: Path,
    scenes: Sequence[SceneFiles],
    measured: Sequence[Measured],
    judge: Judge,
    means: np.ndarray,
    config: FilterConfig,
    report: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The second label of every scene, and its line of the manifest. Labels that are there by the same rule stay."""
    journal = Manifest(out / FILTERED / _WRITTEN)
    if (out / FILTERED / MANIFEST).exists():  # it speaks of complete folders only: what it knows goes on in the journal
        os.replace(out / FILTERED / MANIFEST, journal.path)
    journal.repair()
    known = {line["id"]: line for line in journal.read()}
    rule = _rule(judge, means, config)
    lines = []
    for scene, found in zip(scenes, measured, strict=True):
        line = known.get(scene.id)
        if line is None or not _is_written(out, line, rule, found):
            line = _write(out, scene, found, judge, means, config) | {"rule": rule}
            journal.append(line)
        lines.append(line)
        report(len(lines), len(scenes))
    return lines


def _rule(judge: Judge, means: np.ndarray, config: FilterConfig) -> str:
    values = [judge.identity, config.threshold, config.boundary, [repr(float(mean)) for mean in means]]
    return hashlib.sha256(canonical(values).encode()).hexdigest()[:16]


def _is_written(out: Path, line: dict[str, Any], rule: str, found: Measured) -> bool:
    if line["rule"] != rule or any(line[key] != value for key, value in found.digests.items()):
        return False
    try:
        return digest_file(out / line["label"]) == line["label_sha256"]
    except OSError:
        return False


def _write(
    out: Path, scene: SceneFiles, found: Measured, judge: Judge, means: np.ndarray, config: FilterConfig
) -> dict[str, Any]:
    label, loss = judge.loss(scene)
    doubt = doubtful(label, loss, means, config.threshold)
    band = boundary_band(label, config.boundary) & ~doubt
    path = f"{FILTERED}/{_below_labels(out, scene)}"
    write_label(out / path, np.where(doubt | band, IGNORE, label).astype(np.uint8))
    return {
        "id": scene.id,
        "image": scene.image.relative_to(out).as_posix(),
        "label": path,
        **found.digests,
        "label_sha256": digest_file(out / path),
        "style": scene.style,
        "agreement": found.agreement,
        "mean_loss": found.mean_loss,
        "pixels": _by_class(label),
        "doubtful": _by_class(label[doubt]),
        "boundary": _by_class(label[band]),
    }


def _below_labels(out: Path, scene: SceneFiles) -> str:
    """Path of a label below ``labels/``, for which a manifest may name another folder."""
    labels = out / "labels"
    return scene.label.relative_to(labels).as_posix() if scene.label.is_relative_to(labels) else scene.label.name


def _by_class(ids: np.ndarray) -> dict[str, int]:
    counts = np.bincount(ids.ravel(), minlength=256)[:NUM_CLASSES]
    return {CLASSES[i]: int(counts[i]) for i in np.flatnonzero(counts).tolist()}


def _summary(
    config: FilterConfig,
    judge: Judge,
    means: np.ndarray,
    measured: Sequence[Measured],
    lines: Sequence[dict[str, Any]],
    left_out: dict[str, str],
) -> dict[str, Any]:
    counts = {key: [sum(line[key].get(name, 0) for line in lines) for name in CLASSES]
              for key in ("pixels", "doubtful", "boundary")}  # fmt: skip
    pixels, ignored = sum(counts["pixels"]), sum(counts["doubtful"]) + sum(counts["boundary"])
    agreement = [scene.agreement for scene in measured if scene.agreement is not None]
    return {
        "settings": config.model_dump(mode="json"),
        "segmenter_sha256": judge.digest,
        "scenes": len(measured),
        "kept": len(lines),
        "left_out": left_out,
        "agreement": {"mean": fmean(agreement), "median": median(agreement), "least": min(agreement)}
        if agreement else None,
        "ignored_share": ignored / pixels if pixels else 0.0,
        "classes": {
            name: {
                "pixels": counts["pixels"][i],
                "mean_loss": float(means[i]) if np.isfinite(means[i]) else None,
                "doubtful": counts["doubtful"][i],
                "boundary": counts["boundary"][i],
            }
            for i, name in enumerate(CLASSES)
        },
    }  # fmt: skip


def _finish(second: Path, lines: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Summary and manifest; labels of scenes that are left out, and the journal of this step, go."""
    wanted = {second.parent / line["label"] for line in lines}
    for path in second.rglob("*.png"):
        if path not in wanted:
            path.unlink(missing_ok=True)
    atomic_write(second / SUMMARY, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    atomic_write(second / MANIFEST, text.encode())
    (second / _WRITTEN).unlink(missing_ok=True)
