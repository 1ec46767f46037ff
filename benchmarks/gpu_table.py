"""Tables of what gpu_check.py measured, from its bench.csv, for README.md and docs/gpu.md (readme_table.py)."""

from collections.abc import Sequence

from dgkit.benchmarks.config import CEILING, OFFICIAL
from dgkit.benchmarks.rows import Row

EAGER, GRAPH = "eager", "CUDA graph"  # notes of gpu_measure.py


def tables(rows: Sequence[Row]) -> str:
    """Conditions, ceilings, one table for each model's denoiser, and one of images; empty without rows."""
    if not rows:
        return ""
    peaks = {row.network: row for row in rows if row.subject == CEILING}
    models = dict.fromkeys(row.model for row in rows if row.subject == "denoiser")
    parts = [_conditions(rows[-1], peaks)]
    parts += [
        _denoiser(model, [row for row in rows if (row.subject, row.model) == ("denoiser", model)]) for model in models
    ]
    parts.append(_images([row for row in rows if row.images]))
    return "\n" + "\n".join(parts) + "\n"


def sentence(rows: Sequence[Row]) -> str:
    """Two lines for the README; empty where a figure that they give was not measured."""
    published = _find(rows, "sampler", OFFICIAL, "")
    eager, graph, command = (_find(rows, *what) for what in (
        ("sampler", "torch", EAGER), ("sampler", "torch", GRAPH), ("generate", "torch", GRAPH)
    ))  # fmt: skip
    large = [row for row in rows if row.subject == "denoiser" and row.model != "embedded" and row.ms_sample]
    if not (published and eager and graph and command and large):
        return ""
    pairs = [(row, other) for row in large for other in large
             if (row.note, other.note, row.batch) == (EAGER, GRAPH, other.batch)]  # fmt: skip
    first, last = pairs[0], pairs[-1]
    return (
        f"\nOn one {graph.gpu}, {graph.dtype}, preset `{graph.preset}`, batch {graph.batch}: "
        f"{_hour(graph)} images an hour with the denoiser as a CUDA graph, {_hour(eager)} without,\n"
        f"{_hour(published)} as published; {_hour(command)} by the command `dgkit generate`, with all that it writes. "
        f"Of Stable Diffusion 1.5 the\ndenoiser is {_times(*first)} times as fast with the graph at batch "
        f"{first[0].batch}, {_times(*last)} times at batch {last[0].batch} ([docs/gpu.md](docs/gpu.md)).\n\n"
    )


def _conditions(row: Row, peaks: dict[str, Row]) -> str:
    versions = dict(zip(row.versions.split()[::2], row.versions.split()[1::2], strict=True))
    text = f"{row.gpu}, driver {row.driver}, {row.cpu}, torch {versions['torch']}, {row.run[:10]}."
    found = [f"{name} {peak.tflops:.0f} TFLOP/s" for name, peak in peaks.items() if peak.tflops]
    found += [f"{name} {peak.gbytes:,.0f} GB/s" for name, peak in peaks.items() if peak.gbytes]
    return f"{text} Ceilings: {', '.join(found)}.\n"


def _denoiser(model: str, rows: Sequence[Row]) -> str:
    """Milliseconds of a call, eager and as a graph side by side."""
    heads = ("batch", "eager, ms", "CUDA graph, ms", "times as fast", "TFLOP/s", "share of matmul", "error")
    lines = []
    for batch in dict.fromkeys(row.batch for row in rows):
        both = {row.note: row for row in rows if row.batch == batch and row.ms_median}
        eager, graph = both.get(EAGER), both.get(GRAPH)
        best = graph or eager
        if best is None:
            continue
        lines.append((
            str(batch), f"{eager.ms_median:.4g}" if eager else "", f"{graph.ms_median:.4g}" if graph else "",
            _times(eager, graph) if eager and graph else "", f"{best.tflops:.3g}" if best.tflops else "",
            f"{best.share:.3f}" if best.share else "", f"{best.parity:.1e}" if best.parity is not None else "",
        ))  # fmt: skip
    return (
        f"Denoiser of `{model}`, {rows[0].dtype}; rate and error are those of the last column with a time.\n\n"
        + _table(heads, lines)
    )


def _images(rows: Sequence[Row]) -> str:
    heads = ("whole images", "engine", "dtype", "batch", "images/hour", "x published", "PSNR, dB", "outside networks")
    lines = [
        (
            row.subject, "as published" if row.engine == OFFICIAL else f"{row.engine}, {row.note}", row.dtype,
            str(row.batch), _hour(row), f"{row.x_official:.1f}" if row.x_official else "",
            f"{row.psnr:.1f}" if row.psnr else "", f"{row.outside:.0%}" if row.outside is not None else "",
        )
        for row in rows if row.images_per_hour
    ]  # fmt: skip
    return "Images of the embedded model, preset `exact`.\n\n" + _table(heads, lines)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ["---"] * len(heads), *lines))


def _find(rows: Sequence[Row], subject: str, engine: str, note: str) -> Row | None:
    """The first row of a kind that has a figure; ``note`` empty for any."""
    for row in rows:
        if (row.subject, row.engine) == (subject, engine) and note in ("", row.note) and row.images_per_hour:
            return row
    return None


def _times(slow: Row, quick: Row) -> str:
    return f"{(slow.ms_median or 0) / (quick.ms_median or 1):.2f}"


def _hour(row: Row) -> str:
    return f"{row.images_per_hour:,.0f}"
