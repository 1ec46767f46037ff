"""The picture and the table contain every row, and nothing that breaks their formats."""

from __future__ import annotations

from xml.etree import ElementTree

from dgkit.bench.bars import draw, markdown
from dgkit.bench.rows import BenchRow

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    BenchRow(
        "r", "denoiser", engine="official", dtype="fp32", batch=2, model="a <b> & c", ms_sample=40.0, cpu="some CPU"
    ),
    BenchRow(
        "r", "denoiser", engine="torch", dtype="bf16", batch=2, ms_sample=10.0, x_official=4.0, share=0.5, parity=0.01
    ),
    BenchRow("r", "denoiser", engine="ort", dtype="bf16", batch=2, error="build: this | that"),
    BenchRow(
        "r",
        "generate",
        engine="torch",
        dtype="bf16",
        batch=8,
        preset="exact",
        ms_sample=1e3,
        images_per_hour=3600.0,
        method="extrapolated: 5 x 2",
        rss_mib=1536.0,
    ),
]


def test_lengths_of_bars_are_proportional_to_speed() -> None:
    root = ElementTree.fromstring(draw(ROWS))
    bars = [float(item.get("width", 0)) for item in root.iter(f"{SVG}rect")][1:]  # the first is the background
    assert len(bars) == 3 and bars[1] == bars[2] == 4 * bars[0]
    texts = [item.text or "" for item in root.iter(f"{SVG}text")]
    assert "denoiser, a <b> & c: samples a second, some CPU" in texts
    assert "10 ms, 4.00x published" in texts and "3,600 images/hour" in texts
    assert not any("ort" in text for text in texts)
    assert max(float(item.get("y", 0)) for item in root.iter(f"{SVG}rect")) < float(root.get("height", 0))


def test_no_rows_give_a_valid_picture() -> None:
    assert ElementTree.fromstring(draw([])).tag.endswith("svg")


def test_table() -> None:
    lines = markdown(ROWS).splitlines()
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads == ["what", "engine", "dtype", "batch", "ms a sample", "images/hour", "x published",
                     "share of matmul", "error", "peak RSS"]  # fmt: skip
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert all(len(row) == len(heads) for row in cells)
    assert cells[0][1] == "published" and cells[1][6:9] == ["4.00", "0.50", "1.0e-02"]
    assert cells[2][4] == "failed: build: this / that"
    assert cells[3][0] == "generate, exact" and cells[3][4] == "1,000 (extrapolated)" and cells[3][-1] == "1.50 GiB"
