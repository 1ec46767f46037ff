"""``dgkit filter``: filtered labels, in which pixels that do not show their label are ignored."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
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
from dgkit.files import (
    atomic_write,
    digest_file,
    is_hidden,
    json_bytes,
    output_error,
    remove_stale_temporaries,
    user_path,
)
from dgkit.generation.filter_config import FilterConfig
from dgkit.generation.filter_measurement import (
    DIGESTS,
    SceneJudge,
    SceneMeasurement,
    canonical,
    list_reference,
    measure_scenes,
)
from dgkit.generation.generate_config import GenerateConfig
from dgkit.labels import IGNORE
from dgkit.locks import sole_writer
from dgkit.progress import Advance, Progress, within
from dgkit.taxonomies import Taxonomy

SUMMARY = "filter.json"
_REFERENCE, _WRITTEN = ".reference.jsonl", ".written.jsonl"


def filter_folder(
    out: Path | str, config: FilterConfig | None = None, *, progress: Progress | None = None, **settings: Any
) -> dict[str, Any]:
    """Write ``out/labels_filtered`` and return the content of its ``filter.json``.

    Pass a whole ``config``, or single settings of :class:`FilterConfig`. A pixel is ignored if the cross-entropy of the
    segmenter exceeds ``threshold`` times the mean of its class (FreeMask, arXiv 2310.15160). ``labels/`` is not
    changed. The same call again resumes a stopped one and filters scenes that were added. ``manifest.jsonl`` lists the
    scenes that are kept; it exists only if all their labels do.

    ``progress`` reports the stages "reference", "measure" and "filter", in scenes.

    Raises UsageError for settings without an effect, InputError for files that cannot be used, OutputError for a folder
    that is in use or cannot be written, EngineError if the segmenter fails, MissingDependency.
    """
    config = load_config(FilterConfig, **settings) if config is None else config
    _check(config)
    out = user_path(out)
    scenes = list_scenes(out)
    judge = SceneJudge(config.segmenter, scenes[0].taxonomy)
    folder = _prepare(out / FILTERED)
    with sole_writer(folder):
        remove_stale_temporaries(folder)
        measured = measure_scenes(scenes, judge, folder / MEASURED, within(progress, "measure"))
        rule = _Rule(config, judge, _class_means(config, judge, measured, folder, within(progress, "reference")))
        dropped = _dropped(config, scenes, measured)
        kept = [pair for pair in zip(scenes, measured, strict=True) if pair[0].id not in dropped]
        lines = _write_all(out, kept, rule, within(progress, "filter"))
        summary = _summary(rule, measured, lines, dropped)
        _finish(folder, lines, summary)
    return summary


def write_filtered_labels(out: Path, config: GenerateConfig, progress: Progress) -> None:
    """Write the filtered labels of a run if its settings ask for them. Raises as :func:`filter_folder`.

    A shard gets none, because mean losses and duplicates depend on all scenes of the run.
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


@dataclass(frozen=True, eq=False)
class _Rule:
    """What determines a filtered label, given image and label; ``means`` float64 [K] is the mean loss by class."""

    config: FilterConfig
    judge: SceneJudge
    means: np.ndarray

    def digest(self) -> str:
        means = [repr(float(mean)) for mean in self.means]
        values = [self.judge.identity, self.config.threshold, self.config.boundary, means]
        return hashlib.sha256(canonical(values).encode()).hexdigest()[:16]

    def apply(self, scene: SceneFiles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the label uint8 [H,W] of a scene, and bool [H,W]: doubtful pixels, pixels of the boundary band."""
        label, loss = self.judge.loss(scene)
        doubt = doubtful(label, loss, self.means, self.config.threshold)
        return label, doubt, boundary_band(label, self.config.boundary) & ~doubt


def _check(config: FilterConfig) -> None:
    if config.segmenter is None:
        given = [name for name in ("min_agreement", "reference") if getattr(config, name) is not None]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} needs a segmenter", "add --segmenter FILE.onnx")
        if not config.boundary and config.duplicates is None:
            raise UsageError("nothing to filter by", "add --segmenter FILE.onnx, or --boundary 2")


def _prepare(folder: Path) -> Path:
    """Create the folder of the filtered labels if needed. Raises OutputError if it holds other files."""
    try:
        names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
        if not all(is_hidden(name) for name in names) and MEASURED not in names:
            raise OutputError(f"{folder} holds files that dgkit filter did not write", "rename or remove the folder")
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    return folder


def _class_means(
    config: FilterConfig, judge: SceneJudge, measured: Sequence[SceneMeasurement], folder: Path, advance: Advance
) -> np.ndarray:
    """Return the mean loss of each class, float64 [K], nan for a class that does not occur."""
    if config.reference is not None:
        scenes = list_reference(config.reference, judge.taxonomy)
        measured = measure_scenes(scenes, judge, folder / _REFERENCE, advance, keep_losses=False)
    pixels, losses = np.zeros(judge.taxonomy.size, np.int64), np.zeros(judge.taxonomy.size)
    for scene in measured:  # in a fixed order, which the rounding of the sum depends on
        pixels += scene.pixels
        losses += scene.losses
    return class_means(pixels, losses)


def _dropped(
    config: FilterConfig, scenes: Sequence[SceneFiles], measured: Sequence[SceneMeasurement]
) -> dict[str, str]:
    """Return the id of each scene that is left out, with the reason."""
    reasons: dict[str, str] = {}
    for scene, found in zip(scenes, measured, strict=True):
        required = config.min_agreement
        if required is not None and found.agreement is not None and found.agreement < required:
            reasons[scene.id] = f"agreement {found.agreement:.4f} < {required}"
    if config.duplicates is not None:
        rest = [(s.id, m.hash) for s, m in zip(scenes, measured, strict=True) if s.id not in reasons]
        originals = near_duplicates([code for _, code in rest], config.duplicates)
        reasons |= {
            rest[i][0]: f"near-duplicate of {rest[first][0]}" for i, first in enumerate(originals) if first is not None
        }
    return reasons


def _write_all(
    out: Path, scenes: Sequence[tuple[SceneFiles, SceneMeasurement]], rule: _Rule, advance: Advance
) -> list[dict[str, Any]]:
    """Write the filtered label of each scene unless it exists by the same rule; return the manifest lines."""
    folder = out / FILTERED
    journal = Manifest(folder / _WRITTEN)
    if (folder / MANIFEST).exists():  # the manifest is for complete folders only; the journal takes its lines over
        try:
            (folder / MANIFEST).replace(journal.path)
        except OSError as error:
            raise output_error(journal.path, error) from error
    journal.repair()
    known = {str(line.get("id")): line for line in journal.read()}
    digest = rule.digest()
    lines = []
    for scene, found in scenes:
        line = known.get(scene.id)
        if line is None or not _is_written(out, scene, line, digest, found):
            line = _write(out, scene, found, rule) | {"rule": digest}
            journal.append(line)
        lines.append(line)
        advance(len(lines), len(scenes))
    return lines


def _is_written(out: Path, scene: SceneFiles, line: dict[str, Any], rule: str, found: SceneMeasurement) -> bool:
    wanted = {"rule": rule, **{key: found.digests.get(key) for key in DIGESTS}, **_description(out, scene, found)}
    names = scene.taxonomy.names
    counted = all(_are_counts(line.get(key), names) for key in ("pixels", "doubtful", "boundary"))
    if not counted or any(line.get(key) != value for key, value in wanted.items()):
        return False
    try:
        return digest_file(out / wanted["label"]) == line.get("label_sha256")
    except OSError:
        return False


def _description(out: Path, scene: SceneFiles, found: SceneMeasurement) -> dict[str, Any]:
    """Return what the line of a scene repeats of the scene and its measurement."""
    return {
        "id": scene.id,
        "image": scene.image.relative_to(out).as_posix(),
        "label": f"{FILTERED}/{_path_in_labels(out, scene)}",
        "style": scene.style,
        "agreement": found.agreement,
        "mean_loss": found.mean_loss,
    }


def _are_counts(values: Any, names: Sequence[str]) -> bool:
    return isinstance(values, dict) and all(
        name in names and type(count) is int and count > 0 for name, count in values.items()
    )


def _write(out: Path, scene: SceneFiles, found: SceneMeasurement, rule: _Rule) -> dict[str, Any]:
    label, doubt, band = rule.apply(scene)
    described = _description(out, scene, found)
    path = described["label"]
    write_label(out / path, np.where(doubt | band, IGNORE, label).astype(np.uint8), scene.taxonomy)
    return {
        **{key: described[key] for key in ("id", "image", "label")},
        **found.digests,
        "label_sha256": digest_file(out / path),
        **{key: described[key] for key in ("style", "agreement", "mean_loss")},
        "pixels": _by_class(label, scene.taxonomy),
        "doubtful": _by_class(label[doubt], scene.taxonomy),
        "boundary": _by_class(label[band], scene.taxonomy),
    }


def _path_in_labels(out: Path, scene: SceneFiles) -> str:
    """Return the path of a label relative to ``labels/``; its name if the manifest names another folder."""
    labels = out / "labels"
    return scene.label.relative_to(labels).as_posix() if scene.label.is_relative_to(labels) else scene.label.name


def _by_class(ids: np.ndarray, taxonomy: Taxonomy) -> dict[str, int]:
    counts = np.bincount(ids.ravel(), minlength=256)[: taxonomy.size]
    return {taxonomy.names[i]: int(counts[i]) for i in np.flatnonzero(counts).tolist()}


def _summary(
    rule: _Rule, measured: Sequence[SceneMeasurement], lines: Sequence[dict[str, Any]], dropped: dict[str, str]
) -> dict[str, Any]:
    names = rule.judge.taxonomy.names
    counts = {
        key: [sum(line[key].get(name, 0) for line in lines) for name in names]
        for key in ("pixels", "doubtful", "boundary")
    }
    pixels, ignored = sum(counts["pixels"]), sum(counts["doubtful"]) + sum(counts["boundary"])
    agreement = [scene.agreement for scene in measured if scene.agreement is not None]
    return {
        "settings": rule.config.model_dump(mode="json"),
        "segmenter_sha256": rule.judge.digest,
        **({"segmenter_notes": list(rule.judge.notes)} if rule.judge.notes else {}),
        "scenes": len(measured),
        "kept": len(lines),
        "left_out": dropped,
        "agreement": {"mean": fmean(agreement), "median": median(agreement), "least": min(agreement)}
        if agreement
        else None,
        "ignored_share": ignored / pixels if pixels else 0.0,
        "classes": {
            name: {
                "pixels": counts["pixels"][i],
                "mean_loss": float(rule.means[i]) if np.isfinite(rule.means[i]) else None,
                "doubtful": counts["doubtful"][i],
                "boundary": counts["boundary"][i],
            }
            for i, name in enumerate(names)
        },
    }


def _finish(folder: Path, lines: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write summary and manifest; remove labels of scenes that are left out, and the journal."""
    kept = {folder.parent / line["label"] for line in lines}
    for path in folder.rglob("*.png"):
        if path not in kept:
            path.unlink(missing_ok=True)
    atomic_write(folder / SUMMARY, json_bytes(summary))
    Manifest(folder / MANIFEST).rewrite(lines)
    (folder / _WRITTEN).unlink(missing_ok=True)
