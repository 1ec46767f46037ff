"""Table of docs/results/evaluation.md, from results/eval_speed.csv of studies/eval_speed.py."""

from pathlib import Path

from records import Row, read_rows

from dgkit.markdown import markdown_table

HEAD = ("variant", "images/s", "times the loop", "mIoU, points off", "peak memory, MiB")
LOOPS = {"mmsegmentation": "mmsegmentation's test loop", "transformers": "transformers' pipeline, DINOv2-S"}


def contents(root: Path) -> dict[str, str]:
    """Return the table, empty without a CSV file."""
    rows = read_rows(root / "benchmarks" / "results" / "eval_speed.csv")
    table = markdown_table(HEAD, [line(row) for row in rows])
    return {"docs/results/evaluation.md#eval": f"\n{table}\n" if rows else ""}


def line(row: Row) -> tuple[str, ...]:
    """Return the cells of a variant; rows of a loop are the ones that the others are compared with."""
    loop = row["engine"] in LOOPS
    dtype = "" if row["dtype"] == "fp32" else f" --dtype {row['dtype']}"
    network = ", DINOv2-S" if row["way"].startswith("vit-") else ""
    name = LOOPS[row["engine"]] if loop else f"`--engine {row['engine']}{dtype}`{network}"
    off = "" if loop else row["miou_off"]
    return name, f"{float(row['images_per_second']):.2f}", f"{float(row['x_mmseg']):.1f}", off, row["peak_mib"]
