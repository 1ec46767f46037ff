"""``dgkit bench``: how fast the networks and the whole sampler run on each engine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import chosen_model, inform, interruptible, print_json, print_table, progress_bars
from dgkit.cli.options import Json, Random, options_of

if TYPE_CHECKING:
    from pathlib import Path

    from dgkit.bench.rows import BenchRow

PANELS = {
    "What to run": "engines dtypes batches model lora random device preset steps count segmenter on protocol against "
    "cuda_graph ceilings",
    "How long": "repeats seconds official_seconds together timeout threads rebuild parity references",
    "Output": "csv plot note as_json",
}


@options_of("dgkit.bench.bench_config:BenchConfig", PANELS)
def bench(
    flags: dict[str, Any],
    subjects: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUBJECT", help="denoiser (default), vae, condition, sampler, generate or eval"),
    ] = None,
    random: Random = None,
    as_json: Json = False,
) -> None:
    """Measure networks and whole images on each engine, in each dtype, at each batch.

    Every configuration runs in its own process; one that fails becomes a row with the reason.
    """
    from dgkit.bench.bench_config import BenchConfig
    from dgkit.config import load_config

    model = chosen_model(flags.pop("model", None), random)
    config = load_config(BenchConfig, subjects=subjects, model=model, **flags)
    from dgkit.bench.benchmark import bench as run

    with interruptible(_kept(config.csv)), progress_bars({"bench": ("Measuring", "configurations")}) as progress:
        rows = run(config, progress=progress, show=lambda row: inform(_line(row)))
    if as_json:
        print_json({"rows": [dataclasses.asdict(row) for row in rows]})
    else:
        _print_table(rows)


def _kept(csv: Path | None) -> str:
    return "rows so far are lost, add --csv FILE to keep them" if csv is None else f"rows so far are in {csv}"


def _line(row: BenchRow) -> str:
    from dgkit.bench.bars import speed

    if row.subject == "ceiling":
        figure = f"{row.tflops:.3g} TFLOP/s" if row.tflops else f"{row.gbytes:.3g} GB/s" if row.gbytes else "failed"
        return f"ceiling {row.network} {row.dtype}: {figure}{f'; {row.error}' if row.error else ''}"
    return f"{row.label}: {speed(row)}{f'; {row.error}' if row.error else ''}"


def _print_table(rows: list[BenchRow]) -> None:
    from rich.table import Table

    heads = ("subject", "engine", "dtype", "batch", "ms a call", "p95", "ms a sample", "images/hour", "x published",
             "x fp32", "TFLOP/s", "share", "error", "RSS MiB", "GPU MiB", "build s", "load s")  # fmt: skip
    table = Table()
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:3] else "right", overflow="fold")
    for row in rows:
        if row.subject == "ceiling":
            table.add_row(f"ceiling {row.network}", "", row.dtype, "", *_numbers(row.ms_median, row.ms_p95), "", "", "",
                          "", *_numbers(row.tflops), "", "", "", "", "", "")  # fmt: skip
            continue
        figures = (row.ms_median, row.ms_p95, row.ms_sample, row.images_per_hour, row.x_official, row.x_fp32,
                   row.tflops, row.share, row.parity, row.rss_mib, row.gpu_mib, row.build_s, row.load_s)  # fmt: skip
        table.add_row(row.subject, row.engine, row.dtype, str(row.batch), *_numbers(*figures))
    print_table(table)


def _numbers(*values: float | None) -> list[str]:
    return ["" if value is None else f"{value:.4g}" if value < 1e4 else f"{value:.0f}" for value in values]
