"""Table of docs/guides/own-classes.md, from results/own_classes.csv of studies/own_classes.py."""

from pathlib import Path

from records import read_rows

from dgkit.markdown import markdown_table

HEAD = ("segmenter trained on", "mIoU, %", "pixel accuracy, %")
SETS = ("photographs", "photographs and scenes")


def contents(root: Path) -> dict[str, str]:
    """Return the table with its settings, empty without a CSV file."""
    rows = read_rows(root / "benchmarks" / "results" / "own_classes.csv")
    if not rows:
        return {"docs/guides/own-classes.md#classes": ""}
    values = {row["figure"]: float(row["value"]) for row in rows}
    cells = [(name, *(f"{values[f'{name}: {figure}']:.1f}" for figure in ("mIoU", "pixel accuracy"))) for name in SETS]
    exact, scenes = values["scenes whose label is a crop of its source, bit for bit"], values["scenes"]
    text = f"{rows[0]['settings']}, on {rows[0]['cpu']}. {exact:.0f} of {scenes:.0f} labels are bit-exact crops."
    return {"docs/guides/own-classes.md#classes": f"\n{markdown_table(HEAD, cells)}\n{text}\n\n"}
