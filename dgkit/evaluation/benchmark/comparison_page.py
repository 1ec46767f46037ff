"""The page of a comparison: scores, differences with their intervals, and pictures under all segmenters."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from dgkit.evaluation.benchmark.comparison_report import (
    FEW,
    excludes_zero,
    figure_headings,
    interval_text,
    p_text,
    signed,
)
from dgkit.evaluation.benchmark.comparison_strip import ComparedScene, change_map, class_map, error_map
from dgkit.evaluation.benchmark.page_parts import STYLE, document, legend, picture_tag
from dgkit.evaluation.benchmark.score_report import figure, percent
from dgkit.taxonomies import Taxonomy, find_taxonomy

_AXIS = 160  # pixels, width of the drawn intervals
_OWN_STYLE = """
svg { display: block; } circle { fill: currentColor; }
.scores td:nth-child(2), .scores th:nth-child(2) { text-align: left; }
.scores td { white-space: nowrap; }
.scores tr.last td { border-bottom: 1px solid #888; }
.axis { stroke: #8888; } .span { stroke: #888; stroke-width: 3; } .sure { stroke: #16865f; }
.sure.below { stroke: #cc2626; }
td.sure { color: #16865f; font-weight: 600; } td.sure.below { color: #cc2626; }
.cards { display: grid; gap: 4px; overflow-x: auto; }
.cards div { min-width: 200px; }
.cards img { width: 100%; display: block; }
.cards b { font-weight: 600; } .cards small { color: #888; }
.key i { display: inline-block; width: 12px; height: 12px; margin: 0 4px 0 12px; border: 1px solid #888; }
"""


def comparison_page(result: dict[str, Any], scenes: Mapping[str, Sequence[ComparedScene]]) -> str:
    """Return the HTML page in one file; ``scenes`` are the pictures of each data set."""
    names, taxonomy = [*result["segmenters"]], find_taxonomy(result.get("taxonomy"))
    title = f"{' / '.join(names)}, protocol {result['protocol']['name']}"
    parts = [f"<h1>{html.escape(title)}</h1>", _facts(result), _score_table(result), legend(taxonomy)]
    for dataset, shown in scenes.items():
        parts += [f"<h2>{html.escape(dataset)}</h2>", _class_table(result, dataset)]
        if shown:
            parts.append(_KEY)
        parts += [_figure(scene, names, taxonomy) for scene in shown]
    return document(title, parts, STYLE + _OWN_STYLE)


_KEY = (
    '<p class="key">Images that differ most in mIoU first. Errors:<i style="background:#cc2626"></i>wrong. '
    'Changes against the first:<i style="background:#168660"></i>gained<i style="background:#cc2626"></i>lost'
    '<i style="background:#a8aeb8"></i>wrong in both<i style="background:#ecf0f4"></i>right in both'
    '<i style="background:#000"></i>ignored</p>'
)


def _facts(result: dict[str, Any]) -> str:
    skipped = sum(part["count"] for part in result["bad_files"]["skipped"])
    drawn = result["bootstrap"]
    lines = [
        f"Protocol: {result['protocol']['description']}.",
        f"Differences to {result['reference']} in percent points, with 95 % intervals and two-sided p of a paired "
        f"bootstrap over the images ({drawn['resamples']} resamples, seed {drawn['seed']}).",
        *([FEW] if any(one["low"] is None for one in _all_mious(result)) else []),
        *(f"{name}: {facts['path']}, {facts['engine']}." for name, facts in result["segmenters"].items()),
        *(f"Labels of {name}: {'; '.join(facts['labels'])}." for name, facts in result["sets"].items()),
        *([f"Test-time augmentation: {result['test_time_augmentation']}."] if result["test_time_augmentation"] else []),
        *([f"{skipped} bad files were skipped; report.json lists them."] if skipped else []),
    ]
    return "<p>" + "<br>".join(html.escape(line) for line in lines) + "</p>"


def _score_table(result: dict[str, Any]) -> str:
    """Return the table with a row for each data set (condition, mean) and segmenter."""
    figures = figure_headings(result)
    limit = max((abs(value) for one in _all_mious(result) for value in (one["low"], one["high"]) if value), default=0)
    heads = (
        "data set",
        "segmenter",
        "images",
        "mIoU",
        "difference",
        "95 % interval",
        f"±{100 * limit:.1f}" if limit else "",
        "p",
        *figures.values(),
    )
    rows = ["<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    for group, content in result["groups"].items():
        for number, (name, scores) in enumerate(content["scores"].items()):
            found = content["differences"].get(name, {}).get("miou")
            cells = [
                html.escape("" if number else group),
                html.escape(name),
                "" if number else str(content["images"]),
                f"<b>{percent(scores['miou'])}</b>",
                *(("", "", "", "") if found is None else _difference_cells(found, limit)),
                *(figure(scores.get(key)) for key in figures),
            ]
            last = ' class="last"' if name == [*content["scores"]][-1] else ""
            rows.append(f"<tr{last}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return '<div class="scroll"><table class="scores">' + "\n".join(rows) + "</table></div>"


def _all_mious(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [one["miou"] for group in result["groups"].values() for one in group["differences"].values()]


def _difference_cells(found: Mapping[str, Any], limit: float) -> tuple[str, ...]:
    return signed(found["difference"]), interval_text(found), _drawn(found, limit), p_text(found["p"])


def _drawn(found: Mapping[str, Any], limit: float) -> str:
    """Return the interval as a line on an axis from -``limit`` to ``limit``, with zero in its middle."""
    if found["low"] is None or not limit:
        return ""
    low, middle, high = (round(_AXIS / 2 * (1 + 0.95 * found[key] / limit), 1) for key in ("low", "difference", "high"))
    return (
        f'<svg width="{_AXIS}" height="16">'
        f'<line class="axis" x1="{_AXIS / 2:.0f}" x2="{_AXIS / 2:.0f}" y1="0" y2="16"/>'
        f'<line class="span{_mark(found)}" x1="{low}" x2="{high}" y1="8" y2="8"/>'
        f'<circle cx="{middle}" cy="8" r="4"/></svg>'
    )


def _mark(found: Mapping[str, Any]) -> str:
    """Return the style of a difference whose interval excludes zero, and of one that is below zero."""
    if not excludes_zero(found):
        return ""
    return " sure" if found["low"] > 0 else " sure below"


def _class_table(result: dict[str, Any], dataset: str) -> str:
    """Return the table of class IoUs, each segmenter but the first with its difference; coloured: excludes zero."""
    content = result["groups"][dataset]
    others = content["differences"]
    heads = ["class", result["reference"], *(head for name in others for head in (name, "difference", "95 % interval"))]
    rows = ["<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    for class_name, share in content["scores"][result["reference"]]["iou"].items():
        cells = [f"<td>{html.escape(class_name)}</td>", f"<td>{percent(share)}</td>"]
        for name, one in others.items():
            found = one["iou"][class_name]
            cells += [
                f"<td>{percent(content['scores'][name]['iou'][class_name])}</td>",
                f'<td class="{_mark(found).strip()}">{signed(found["difference"])}</td>',
                f"<td>{interval_text(found)}</td>",
            ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = f'<div class="scroll"><table>{"".join(rows)}</table></div>'
    return f"<details open><summary>Classes</summary>{table}</details>"


def _figure(scene: ComparedScene, names: Sequence[str], taxonomy: Taxonomy) -> str:
    """Return a picture with its label, and below each segmenter's name its prediction and errors or changes."""
    first = scene.predictions[0]
    cells = ["<div><b>photograph, label</b></div>"]
    for number, (name, score) in enumerate(zip(names, scene.scores, strict=True)):
        gain = f"{signed(score - scene.scores[0])}, prediction, changes" if number else "prediction, errors"
        cells.append(f"<div><b>{html.escape(name)}</b> {percent(score)} <small>{gain}</small></div>")
    cells.append(f"<div>{picture_tag(scene.photograph, 'JPEG')}</div>")
    cells += [f"<div>{picture_tag(class_map(one, taxonomy), 'PNG')}</div>" for one in scene.predictions]
    cells.append(f"<div>{picture_tag(class_map(scene.label, taxonomy), 'PNG')}</div>")
    for number, one in enumerate(scene.predictions):
        shown = change_map(scene.label, first, one) if number else error_map(scene.label, one)
        cells.append(f"<div>{picture_tag(shown, 'PNG')}</div>")
    caption = html.escape(f"{scene.files.id} {scene.files.condition}".strip())
    columns = f"grid-template-columns: repeat({len(names) + 1}, minmax(200px, 1fr))"
    cards = f'<div class="cards" style="{columns}">{"".join(cells)}</div>'
    return f"<figure>{cards}<figcaption>{caption}</figcaption></figure>"
