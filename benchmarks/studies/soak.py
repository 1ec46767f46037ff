"""Memory of a long run: thousands of images of a tiny random model, with the resident memory along the way.

    python benchmarks/studies/soak.py --count 10000 --csv benchmarks/results/soak.csv      an hour or less on two cores
    python benchmarks/studies/soak.py --count 2000 --workers 2

Target: from the first tenth of the images on, memory grows only by the lines of the manifest, about 2 KiB per image,
and not with the pixels. The folder is verified at the end and removed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import psutil
from records import Row, write_rows

import dgkit
from dgkit.generation.verification import verify
from dgkit.provenance import cpu_name, git_commit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--model", default="random:tiny")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--workers", default="0")
    parser.add_argument("--rows", type=int, default=50, help="number of measurements, evenly spaced")
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    fixed = {"workers": given.workers, "model": given.model, "steps": given.steps}
    fixed |= {"commit": git_commit() or "", "cpu": cpu_name()}
    rows: list[Row] = []
    started = time.perf_counter()

    def measure(stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "generate" and done >= len(rows) * total / given.rows:
            row = {"images": int(done), "seconds": round(time.perf_counter() - started, 1), "rss_mib": round(rss(), 1)}
            rows.append(row | fixed)
            print(f"{row['images']:7} images {row['seconds']:8.1f} s {row['rss_mib']:8.1f} MiB", flush=True)

    settings = {"model": given.model, "steps": given.steps, "preset": "one-pass", "workers": given.workers}
    settings |= {"engine": "torch", "dtype": "fp32", "batch": 8}
    with tempfile.TemporaryDirectory(prefix="dgkit-soak-") as folder:
        result = dgkit.generate(Path(folder, "out"), count=given.count, progress=measure, **settings)
        found = verify(result.out)
        print(
            f"{len(result.records)} images, {result.images_per_hour:,.0f} an hour, problems: {found.counts or 'none'}"
        )
    tenth = next(row for row in rows if row["images"] >= given.count / 10)
    growth = 1024 * (rows[-1]["rss_mib"] - tenth["rss_mib"])
    print(f"growth after the first tenth: {growth / (0.9 * given.count):.2f} KiB an image")
    if given.csv:
        write_rows(given.csv, rows)


def rss() -> float:
    """Return the resident memory of this process in MiB, without workers."""
    return float(psutil.Process().memory_info().rss / 2**20)


if __name__ == "__main__":
    main()
