"""Write what benchmarks/results holds into docs/results/*.md and docs/images.

    python benchmarks/tables/build.py                    all tables, after any benchmark has added to its CSV file
    python benchmarks/tables/build.py bench presets      some of them, such as bench, gpu, classes
    python benchmarks/tables/build.py --check            write nothing; exit code 1 where a file is out of date

Runs in seconds on any machine. A table replaces what is between the lines ``<!-- NAME -->`` and ``<!-- /NAME -->`` of
its page; pictures are files of their own. One module of this folder makes each table.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# The tables name arms and cells as the studies do, which run as scripts and are no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))

import bench_table
import classes_table
import eval_table
import foundation_table
import generalisation_table
import gpu_table
import ideas_table
import preset_table

ROOT = Path(__file__).resolve().parents[2]
# Each returns texts by place, relative to the repository: a file, or ``PAGE#NAME`` for a part between two lines.
TABLES: dict[str, Callable[[Path], dict[str, str]]] = {
    "bench": bench_table.contents,
    "gpu": gpu_table.contents,
    "presets": preset_table.contents,
    "generalisation": generalisation_table.contents,
    "ideas": ideas_table.contents,
    "eval": eval_table.contents,
    "classes": classes_table.contents,
    "foundation": foundation_table.contents,
}


def main() -> int:
    """Return the exit code: 1 if ``--check`` finds a file out of date, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; default: all of them")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    if unknown := [name for name in given.tables if name not in TABLES]:
        parser.error(f"unknown table {unknown[0]!r}; known: {', '.join(TABLES)}")
    contents = {place: text for name in given.tables or TABLES for place, text in TABLES[name](ROOT).items()}
    files = fill(ROOT, contents)
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'differs' if given.check else 'written'}")
        if not given.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
    return int(given.check and bool(stale))


def fill(root: Path, contents: Mapping[str, str]) -> dict[Path, str]:
    """Return the text of each file that ``contents`` belongs to; SystemExit where a page has no place for it."""
    files: dict[Path, str] = {}
    for place, content in contents.items():
        name, _, mark = place.partition("#")
        path, text = root / name, content
        if mark:
            page = files.get(path) or (path.read_text(encoding="utf-8") if path.is_file() else "")
            found = re.search(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", page, re.DOTALL)
            if not found:
                sys.exit(f"{path} has no place for the table: add <!-- {mark} --> and <!-- /{mark} --> on lines of "
                         "their own")  # fmt: skip
            text = page[: found.start()] + content + page[found.end() :]
        files[path] = text
    return files


if __name__ == "__main__":
    sys.exit(main())
