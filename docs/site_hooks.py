"""Hooks of mkdocs.yml: files of the repository outside of docs/, the notebook as a page, search without a server.

Pages link to scripts and CSV files by their place in the repository, so that the links work there too. The site has a
copy of each such file below ``repository/``, and the links lead to the copies.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIES = "repository"  # folder of the site for files outside of docs/
NOTEBOOK, PAGE = "quickstart.ipynb", "start/notebook.md"
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):<code>~?(?:[\w.]+\.)?(\w+)</code>")
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the notebook as a page, and the files outside of docs/ that the navigation or any page names."""
    files.append(File.generated(config, PAGE, content=notebook_page(ROOT / "docs" / NOTEBOOK)))
    names = re.findall(rf"{COPIES}/([^\s'\"]+)", json.dumps(config.nav))
    waiting = {
        *names,
        *(name for page in files.documentation_pages() for name in outside(page.content_string, place(page))),
    }
    added: set[str] = set()
    while waiting:
        name = waiting.pop()
        added.add(name)
        copy = File.generated(config, f"{COPIES}/{name}", abs_src_path=str(ROOT / name))
        files.append(copy)
        # Only pages of the navigation bring further files with them; other Markdown files are copied as they are.
        if copy.is_documentation_page():
            waiting |= set(outside(copy.content_string, name)) - added
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files outside of docs/ to their copies."""
    here = place(page.file)

    def moved(found: re.Match[str]) -> str:
        path, mark, anchor = found[2].partition("#")
        target = resolve(path, here)
        if target is None:
            return found[0]
        new = target.removeprefix("docs/") if target.startswith("docs/") else f"{COPIES}/{target}"
        if new == NOTEBOOK and page.file.src_uri != PAGE:
            new = PAGE
        link = os.path.relpath(new, os.path.dirname(page.file.src_uri) or ".")  # noqa: PTH120
        return f"{found[1]}{link}{mark}{anchor}{found[3]}"

    return LINK.sub(moved, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show the roles of Sphinx in docstrings as code."""
    return ROLE.sub(r"<code>\1</code>", html)


def on_post_build(config: Any) -> None:
    """Write the search index as a script too, since pages that are opened as files cannot fetch the JSON file."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


def place(file: File) -> str:
    """Return the path of a page's text in the repository."""
    if file.src_uri == PAGE:
        return f"docs/{NOTEBOOK}"
    inside = file.src_uri.removeprefix(f"{COPIES}/")
    return inside if inside != file.src_uri else f"docs/{inside}"


def outside(text: str, here: str) -> Iterator[str]:
    """Yield the paths outside of docs/ that a page links to."""
    for _, target, _ in LINK.findall(text):
        path = resolve(target.partition("#")[0], here)
        if path and not path.startswith("docs/"):
            yield path


def resolve(target: str, here: str) -> str | None:
    """Return the path in the repository that a relative link leads to; None for any other link, or if none is there."""
    if not target or "://" in target or target.startswith(("mailto:", "/")):
        return None
    path = os.path.normpath(os.path.join(os.path.dirname(here), target))  # noqa: PTH118, PTH120
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def notebook_page(path: Path) -> str:
    """Return the cells of a notebook as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    blocks = [text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
              for cell, text in zip(cells, texts, strict=True)]  # fmt: skip
    head, *rest = blocks
    return "\n\n".join([head, f"[Download the notebook]({NOTEBOOK})", *rest])
