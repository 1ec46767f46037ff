"""Rows of a benchmark as bars in an SVG picture and as a table in Markdown."""

import html
import itertools
from collections.abc import Sequence

from dgkit.bench.bench_config import EVAL, IMAGE_SUBJECTS, OFFICIAL
from dgkit.bench.rows import BenchRow
from dgkit.markdown import markdown_table

WIDTH, BAR, GAP, LEFT, RIGHT = 760, 18, 6, 210, 190
_COLOURS = {OFFICIAL: "#8c8c8c", "torch": "#4c78a8", "compile": "#72b7b2", "ort": "#f2a541", "openvino": "#54a24b",
            "trt": "#b279a2"}  # fmt: skip
_OTHER = "#666666"
_TEXT = 'font-family="sans-serif" font-size="12" fill="#1a1a1a"'


def draw(rows: Sequence[BenchRow]) -> str:
    """Return an SVG document with a group of bars for each subject; lengths are proportional to samples per second."""
    shown = [row for row in rows if row.ms_sample]
    parts: list[str] = []
    y = GAP
    for subject, group in itertools.groupby(shown, key=lambda row: row.subject):
        bars = list(group)
        y += BAR
        parts.append(f'<text x="{GAP}" y="{y}" {_TEXT} font-weight="bold">{html.escape(_title(subject, bars))}</text>')
        y += GAP
        fastest = min(row.ms_sample for row in bars if row.ms_sample)
        for row in bars:
            parts.append(_bar(row, y, fastest))
            y += BAR + GAP
        y += GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>', *parts, "</svg>", ""])


def markdown(rows: Sequence[BenchRow]) -> str:
    """Return a table in Markdown, without columns that are empty in all rows.

    A configuration that failed has the reason in place of its figures.
    """
    heads = ("what", "engine", "dtype", "batch", "ms a sample", "images/hour", "x published", "x eager fp32",
             "share of matmul", "error", "outside networks", "peak RSS")  # fmt: skip
    lines = [_cells(row) for row in rows]
    kept = [place for place, _ in enumerate(heads) if any(line[place] for line in lines)]
    return markdown_table([heads[place] for place in kept], [[line[place] for place in kept] for line in lines])


def speed(row: BenchRow) -> str:
    """Return the main figure of a row as text: images per hour, or milliseconds per sample."""
    if row.images_per_hour:
        return f"{row.images_per_hour:,.0f} images/hour"
    return f"{row.ms_sample:.4g} ms" if row.ms_sample else "failed"


def _bar(row: BenchRow, y: int, fastest: float) -> str:
    assert row.ms_sample is not None
    length = max(1.0, (WIDTH - LEFT - RIGHT) * fastest / row.ms_sample)
    colour = _COLOURS.get(row.engine, _OTHER)
    baseline = y + BAR - 5
    gain = f", {row.x_official:.2f}x published" if row.x_official else ""
    gain = gain or (f", {row.x_fp32:.2f}x eager fp32" if row.x_fp32 else "")
    name = f"{_engine(row)} {row.dtype}, batch {row.batch}"
    return (
        f'<text x="{LEFT - GAP}" y="{baseline}" {_TEXT} text-anchor="end">{html.escape(name)}</text>\n'
        f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>\n'
        f'<text x="{LEFT + length + GAP:.1f}" y="{baseline}" {_TEXT}>{html.escape(speed(row) + gain)}</text>'
    )


def _title(subject: str, rows: Sequence[BenchRow]) -> str:
    unit = "images an hour" if subject in (*IMAGE_SUBJECTS, EVAL) else "samples a second"
    return f"{subject}, {rows[0].model}: {unit}, {rows[0].gpu or rows[0].cpu}"


def _engine(row: BenchRow) -> str:
    name = "published" if row.engine == OFFICIAL else row.engine
    return f"{name} ({row.note})" if row.note else name


def _cells(row: BenchRow) -> list[str]:
    what = f"{row.subject}, {row.preset}" if row.preset else row.subject
    extrapolated = " (extrapolated)" if row.method != "measured" else ""
    failed = f"failed: {row.error}"
    return [
        what,
        _engine(row),
        row.dtype,
        str(row.batch),
        f"{row.ms_sample:,.4g}{extrapolated}" if row.ms_sample else failed,
        f"{row.images_per_hour:,.0f}" if row.images_per_hour else "",
        f"{row.x_official:.2f}" if row.x_official else "",
        f"{row.x_fp32:.2f}" if row.x_fp32 else "",
        f"{row.share:.2f}" if row.share else "",
        f"{row.parity:.1e}".replace("0.0e+00", "0") if row.parity is not None else "",
        f"{row.outside:.1%}" if row.outside is not None else "",
        f"{row.rss_mib / 1024:.2f} GiB" if row.rss_mib else "",
    ]
