"""Tables of a GPU for docs/results/gpu.md, from results/gpu_check*.csv: the bench.csv of gpu/check.py."""

from collections.abc import Sequence
from pathlib import Path

from dgkit.bench.bench_config import CEILING, OFFICIAL
from dgkit.bench.rows import BenchRow, latest, read
from dgkit.markdown import markdown_table

EAGER, GRAPH = "eager", "CUDA graph"  # notes of gpu/measure.py
COMPILED = "AOTInductor and CUDA graph"
MODES = (EAGER, GRAPH, COMPILED)


def contents(root: Path) -> dict[str, str]:
    """Return summary and tables of docs/results/gpu.md."""
    files = sorted((root / "benchmarks" / "results").glob("gpu_check*.csv"))
    measured = [latest(read(path)) for path in files if not path.stem.endswith("_steps")]
    parts = {"gpu-summary": summary, "gpu": tables}
    return {f"docs/results/gpu.md#{name}": "".join(map(part, measured)) for name, part in parts.items()}


def tables(rows: Sequence[BenchRow]) -> str:
    """Return conditions, ceilings, a table for the denoiser of each model, and one of images; empty without rows."""
    if not rows:
        return ""
    peaks = {row.network: row for row in rows if row.subject == CEILING}
    peak = peaks["matmul"].tflops if "matmul" in peaks else None
    single = [row for row in rows if row.subject != CEILING and not row.images]
    denoisers = [row for row in single if row.subject == "denoiser"]
    parts, shown = [_conditions(rows[-1], peaks)], list[BenchRow]()
    for model in dict.fromkeys(row.model for row in denoisers):
        mine = [row for row in denoisers if row.model == model]
        parts.append(_denoiser(model, mine, peak))
        shown += [row for row in mine if row.dtype == mine[0].dtype]
    parts.append(_others([row for row in single if row not in shown], peak))
    parts.append(_images([row for row in rows if row.images]))
    return "\n" + "\n".join(filter(None, parts)) + "\n"


def summary(rows: Sequence[BenchRow]) -> str:
    """Return a few lines above the tables; empty if one of their figures was not measured."""
    published = _find(rows, "sampler", OFFICIAL, "")
    eager, graph, command = (_find(rows, *what) for what in (
        ("sampler", "torch", EAGER), ("sampler", "torch", GRAPH), ("generate", "torch", GRAPH)
    ))  # fmt: skip
    large = [row for row in rows if row.subject == "denoiser" and row.model != "embedded" and row.ms_median]
    timed = {(_mode(row), row.batch): row for row in large if row.dtype == large[0].dtype}
    batches = [batch for mode, batch in timed if mode == EAGER and (GRAPH, batch) in timed]
    if not (published and eager and graph and command and batches):
        return ""
    first, last = batches[0], batches[-1]
    at_first, at_last = (_times(timed[EAGER, batch], timed[GRAPH, batch]) for batch in (first, last))
    text = (
        f"\nOne {graph.gpu}, {graph.dtype}, preset `{graph.preset}`, batch {graph.batch}: "
        f"{_hour(graph)} images/hour with the denoiser as a CUDA graph,\n{_hour(eager)} without it, "
        f"{_hour(published)} with the published schedule. "
        f"The command `dgkit generate`, which also writes the files, makes {_hour(command)}.\n"
        "Compared with eager PyTorch, a CUDA graph makes the denoiser of Stable Diffusion 1.5 "
        f"{at_first} times as fast at batch {first}\nand {at_last} times as fast at batch {last}"
    )
    if (COMPILED, first) in timed and (COMPILED, last) in timed:
        at_first, at_last = (_times(timed[EAGER, batch], timed[COMPILED, batch]) for batch in (first, last))
        text += f"; compiled by AOTInductor, {at_first} and {at_last} times as fast"
    return f"{text}.\n\n"


def _conditions(row: BenchRow, peaks: dict[str, BenchRow]) -> str:
    versions = dict(zip(row.versions.split()[::2], row.versions.split()[1::2], strict=True))
    text = f"{row.gpu}, driver {row.driver}, {row.cpu}, torch {versions['torch']}, {row.run[:10]}."
    found = [f"{name} {peak.tflops:.0f} TFLOP/s" for name, peak in peaks.items() if peak.tflops]
    found += [f"{name} {peak.gbytes:,.0f} GB/s" for name, peak in peaks.items() if peak.gbytes]
    return f"{text} Ceilings: {', '.join(found)}.\n"


def _denoiser(model: str, rows: Sequence[BenchRow], peak: float | None) -> str:
    """Return milliseconds of a call in the dtype that was measured first, with a column for each mode."""
    mine = [row for row in rows if row.dtype == rows[0].dtype and row.ms_median]
    shown = [mode for mode in MODES if any(_mode(row) == mode for row in mine)]
    heads = ("batch", *(f"{mode}, ms" for mode in shown), "times as fast", "TFLOP/s", "share of matmul", "error")
    lines = []
    for batch in dict.fromkeys(row.batch for row in mine):
        found = {_mode(row): row for row in mine if row.batch == batch}
        times = [f"{found[mode].ms_median:.4g}" if mode in found else "" for mode in shown]
        both = [found[mode] for mode in shown if mode in found]
        gain = _times(both[0], both[-1]) if len(both) > 1 else ""
        lines.append((str(batch), *times, gain, *_rate(both[-1], peak)))
    return (
        f"Denoiser of `{model}`, {rows[0].dtype}; rate and error are those of the last column with a time.\n\n"
        + markdown_table(heads, lines)
    )


def _others(rows: Sequence[BenchRow], peak: float | None) -> str:
    """Return the table of all other single networks."""
    heads = ("network", "model", "dtype", "run as", "batch", "ms", "TFLOP/s", "share of fp16 matmul", "error")
    lines = []
    for row in rows:
        if row.ms_median:
            what = (row.network, f"`{row.model}`", row.dtype, _mode(row), str(row.batch), f"{row.ms_median:.4g}")
            lines.append((*what, *_rate(row, peak)))
    return "The VAE decoder, and the denoiser in other dtypes.\n\n" + markdown_table(heads, lines) if lines else ""


def _rate(row: BenchRow, peak: float | None) -> tuple[str, str, str]:
    """Return TFLOP/s, the share of ``peak``, and the error against fp32."""
    share = f"{row.tflops / peak:.3f}" if row.tflops and peak else ""
    error = f"{row.parity:.1e}" if row.parity is not None else ""
    return f"{row.tflops:.3g}" if row.tflops else "", share, error


def _mode(row: BenchRow) -> str:
    """Return how a row was run: eagerly, or as a CUDA graph of PyTorch's kernels or of compiled ones."""
    return COMPILED if row.engine == "compile" else row.note


def _images(rows: Sequence[BenchRow]) -> str:
    heads = ("whole images", "model", "preset", "run as", "dtype", "batch", "images/hour", "x published", "PSNR, dB",
             "outside networks")  # fmt: skip
    lines = []
    for row in rows:
        if row.images_per_hour:
            mode = "as published" if row.engine == OFFICIAL else _mode(row)
            what = (row.subject, f"`{row.model}`", f"`{row.preset}`", mode, row.dtype, str(row.batch), _hour(row))
            gain, psnr = (f"{value:.1f}" if value else "" for value in (row.x_official, row.psnr))
            lines.append((*what, gain, psnr, f"{row.outside:.0%}" if row.outside is not None else ""))
    return "Whole images.\n\n" + markdown_table(heads, lines)


def _find(rows: Sequence[BenchRow], subject: str, engine: str, note: str) -> BenchRow | None:
    """Return the first row of a kind that has a figure; an empty ``note`` matches any."""
    for row in rows:
        if (row.subject, row.engine) == (subject, engine) and note in ("", row.note) and row.images_per_hour:
            return row
    return None


def _times(slow: BenchRow, quick: BenchRow) -> str:
    return f"{(slow.ms_median or 0) / (quick.ms_median or 1):.2f}"


def _hour(row: BenchRow) -> str:
    return f"{row.images_per_hour:,.0f}"
