"""Named points over a logarithmic axis as an SVG picture of stacked panels."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, TOP, GAP = 860, 300, 60, 30, 60
INSET, NAMES = 20, 150  # pixels without points: at the left, and at the right for their names
MARGIN = 0.05  # of the range of the values, above and below
_PLAIN, _STRONG = "#4c78a8", "#c44e52"
_TEXT = 'font-family="sans-serif" font-size="11" fill="#1a1a1a"'


@dataclass(frozen=True)
class Point:
    """A named point with ``x`` above 0; a ``strong`` one has another colour."""

    x: float
    y: float
    name: str
    strong: bool = False


def scatter(panels: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Return an SVG document with a panel for each (title, points); all panels share the range of x."""
    places = [math.log10(point.x) for _, points in panels for point in points] or [0.0]
    span = (min(places), max(places))
    height = TOP + len(panels) * (HEIGHT + GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    parts = [head, f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>']
    for number, (title, points) in enumerate(panels):
        parts += _panel(title, points, TOP + number * (HEIGHT + GAP), span)
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, points: Sequence[Point], top: int, span: tuple[float, float]) -> list[str]:
    values = [point.y for point in points] or [0.0]
    margin = MARGIN * (max(values) - min(values)) or 1.0
    low, high = min(values) - margin, max(values) + margin
    frame = f'width="{WIDTH - LEFT - INSET}" height="{HEIGHT}" fill="none" stroke="#999999"'
    parts = [
        f'<text x="{LEFT}" y="{top - 10}" {_TEXT} font-weight="bold">{html.escape(title)}</text>',
        f'<rect x="{LEFT}" y="{top}" {frame}/>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + HEIGHT * (1 - share)
        label = f"{low + share * (high - low):.4g}"
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" {_TEXT} text-anchor="end">{label}</text>')
    for point in points:
        x = LEFT + INSET + (WIDTH - LEFT - INSET - NAMES) * (math.log10(point.x) - span[0]) / (span[1] - span[0] or 1.0)
        y = top + HEIGHT * (1 - (point.y - low) / (high - low))
        colour = _STRONG if point.strong else _PLAIN
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}" {_TEXT}>{html.escape(point.name)}</text>')
    return parts
