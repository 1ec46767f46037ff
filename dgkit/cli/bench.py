"""``dgkit bench``: how fast the networks and the whole sampler run on each engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import console, print_json

if TYPE_CHECKING:
    from dgkit.bench.rows import BenchRow

WHAT, RUN, OUT = "What to run", "How long", "Output"


def _option(names: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


def bench(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUBJECT", help="denoiser (default), vae, condition, sampler, generate, eval."),
    ] = None,
    engines: Annotated[
        str | None, _option("--engines", "torch, compile, ort, openvino, trt; separated by commas.", WHAT, "E,E")
    ] = None,
    dtypes: Annotated[
        str | None, _option("--dtypes", "fp32, bf16, fp16, int8; separated by commas.", WHAT, "D,D")
    ] = None,
    batches: Annotated[str | None, _option("--batches", "Samples of a network call (default: 2).", WHAT, "B,B")] = None,
    model: Annotated[
        str | None, _option("--model", "Diffusers model folder or hub id; by default the embedded model.", WHAT, "M")
    ] = None,
    random: Annotated[
        str | None, _option("--random", "Random weights instead: sd15, city or tiny.", WHAT, "NAME")
    ] = None,
    device: Annotated[str | None, _option("--device", "auto, cpu, cuda or cuda:N.", WHAT, "D")] = None,
    preset: Annotated[str | None, _option("--preset", "Sampler preset of sampler and generate.", WHAT, "P")] = None,
    steps: Annotated[int | None, _option("--steps", "Denoising steps instead of the preset's.", WHAT, "N")] = None,
    count: Annotated[int | None, _option("--count", "Images of one call of sampler (default: 1).", WHAT, "N")] = None,
    segmenter: Annotated[
        Path | None, _option("--segmenter", "Segmenter of eval: what dgkit eval takes.", WHAT, "FILE")
    ] = None,
    on: Annotated[str | None, _option("--on", "Labelled pictures of eval.", WHAT, "NAME=DIR")] = None,
    protocol: Annotated[
        str | None, _option("--protocol", "Protocol of eval: dginstyle (default), hrda, half, whole.", WHAT, "P")
    ] = None,
    against: Annotated[
        str | None, _option("--against", "official: the published schedule as published.", WHAT, "official")
    ] = None,
    cuda_graph: Annotated[
        bool | None, _option("--cuda-graph/--no-cuda-graph", "CUDA graphs where the engine offers them.", WHAT)
    ] = None,
    ceilings: Annotated[
        bool | None, _option("--ceilings/--no-ceilings", "What the device can do at most (default: on).", WHAT)
    ] = None,
    repeats: Annotated[int | None, _option("--repeats", "Timed calls at most (default: 50).", RUN, "N")] = None,
    seconds: Annotated[
        float | None,
        _option("--seconds", "Timed calls stop after so many seconds, three at least (default: 20).", RUN, "S"),
    ] = None,
    official_seconds: Annotated[
        float | None,
        _option(
            "--official-seconds", "An image of the published schedule that takes longer is extrapolated.", RUN, "S"
        ),
    ] = None,
    together: Annotated[
        bool | None,
        _option("--together", "All batches of an engine and dtype in one process: quicker, memory adds up.", RUN),
    ] = None,
    timeout: Annotated[float | None, _option("--timeout", "Bound on each process (default: 3600).", RUN, "S")] = None,
    threads: Annotated[int | None, _option("--threads", "CPU threads.", RUN, "N")] = None,
    rebuild: Annotated[
        str | None, _option("--rebuild", "never, auto (default) or always: engines that are missing.", RUN, "POLICY")
    ] = None,
    parity: Annotated[
        bool | None,
        _option("--parity/--no-parity", "Compare with torch in fp32 and count operations (default: on).", RUN),
    ] = None,
    references: Annotated[
        Path | None, _option("--references", "Keep the outputs of torch in fp32 here, for other runs.", RUN, "DIR")
    ] = None,
    csv: Annotated[Path | None, _option("--csv", "Add the rows to this CSV file.", OUT, "FILE")] = None,
    plot: Annotated[Path | None, _option("--plot", "Draw bars into this SVG file.", OUT, "FILE")] = None,
    note: Annotated[str | None, _option("--note", "A remark for every row of the CSV file.", OUT, "TEXT")] = None,
    as_json: Annotated[bool, _option("--json", "Print the rows as JSON on stdout.", OUT)] = False,
) -> None:
    """Measure networks and whole images on each engine, in each dtype, at each batch.

    Every configuration runs in a process of its own; one that fails is a row that says why.
    """
    from dgkit.bench.bench_config import BenchConfig
    from dgkit.config import load_config
    from dgkit.errors import UsageError

    if random is not None and model is not None:
        raise UsageError(f"--model {model} and --random {random} are given, allowed is one", "drop one of them")
    lists = {"engines": engines, "dtypes": dtypes, "batches": batches}
    settings: dict[str, Any] = {key: value.split(",") for key, value in lists.items() if value is not None}
    settings |= {
        "subjects": subjects or None, "model": model if random is None else f"random:{random}", "device": device,
        "preset": preset, "steps": steps, "count": count, "segmenter": segmenter, "on": on, "protocol": protocol,
        "against": against, "cuda_graph": cuda_graph,
        "ceilings": ceilings, "repeats": repeats, "seconds": seconds, "official_seconds": official_seconds,
        "together": together, "timeout": timeout, "threads": threads, "rebuild": rebuild,
        "parity": parity, "references": references, "csv": csv, "plot": plot, "note": note,
    }  # fmt: skip
    config = load_config(BenchConfig, **settings)
    from dgkit.bench.benchmark import bench as run

    shown = console()
    with shown.status("") as status:
        rows = run(
            config,
            progress=lambda stage, done, total, note="": status.update(f"{done + 1:.0f}/{total:.0f} {note}"),
            show=lambda row: shown.print(_line(row), markup=False),
        )
    if as_json:
        print_json({"rows": [dataclasses.asdict(row) for row in rows]})
    else:
        _print_table(rows)


def _line(row: BenchRow) -> str:
    from dgkit.bench.bars import speed

    if row.subject == "ceiling":
        figure = f"{row.tflops:.3g} TFLOP/s" if row.tflops else f"{row.gbytes:.3g} GB/s" if row.gbytes else "failed"
        return f"ceiling {row.network} {row.dtype}: {figure}{f'; {row.error}' if row.error else ''}"
    return f"{row.label}: {speed(row)}{f'; {row.error}' if row.error else ''}"


def _print_table(rows: list[BenchRow]) -> None:
    from rich.console import Console
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
    shown = Console(highlight=False)
    if not shown.is_terminal:
        shown.width = 220
    shown.print(table)


def _numbers(*values: float | None) -> list[str]:
    return ["" if value is None else f"{value:.4g}" if value < 1e4 else f"{value:.0f}" for value in values]
