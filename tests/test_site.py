"""The documentation site builds strictly, its pages name what the code has, and its commands can be typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.core

import dgkit
from dgkit import errors
from dgkit.cli.app import app
from dgkit.generation.generate_config import GenerateConfig

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*/README.md"))]
FAQ = (DOCS / "reference" / "faq.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs-site` builds it: any broken link or anchor is an error."""
    pytest.importorskip("material", reason="needs MkDocs Material: pip install 'dgkit[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(out)]
    found = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return out


def test_site_asks_for_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        parts = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\"\s>]+)", text)
        parts += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|icon|preload|preconnect)[^>]*href=\"?([^\"\s>]+)", text)
        assert parts and not [part for part in parts if "//" in part], page


def test_site_has_the_notebook_the_results_and_files_outside_of_docs(site: Path) -> None:
    assert "dgkit.generate" in re.sub(r"<[^>]+>", "", (site / "start" / "notebook.html").read_text(encoding="utf-8"))
    assert (site / "repository" / "benchmarks" / "results" / "ideas.csv").is_file()
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert "Generate <code>count</code> images" in python and ":class:" not in python and ":func:" not in python


def test_home_answers_five_questions() -> None:
    home = (DOCS / "index.md").read_text(encoding="utf-8")
    first, _, picture = home.partition("![")
    assert picture
    for question in (
        "What is it?",
        "How do I install it?",
        "How do I use my data?",
        "How fast is it?",
        "How good is it?",
    ):
        card = first.partition(question)[2].partition("-   **")[0]
        assert re.search(r"\]\([\w/-]+\.md", card), question


def test_python_page_documents_every_public_name() -> None:
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    documented = dict(reversed(line.rsplit(".", 1)) for line in re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    for name in set(dgkit.__all__) - {"__version__"}:
        assert name in documented, f"add ::: {getattr(dgkit, name).__module__}.{name} to docs/reference/python.md"
    assert set(documented) <= set(dgkit.__all__)


def error_classes(base: type[errors.DgkitError] = errors.DgkitError) -> Iterator[type[errors.DgkitError]]:
    yield base
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from error_classes(kind)


@pytest.mark.parametrize("kind", list(error_classes()), ids=lambda kind: kind.__name__)
def test_faq_explains_every_error(kind: type[errors.DgkitError]) -> None:
    found = re.search(rf"^### {kind.__name__}\n(.*?)(?=^##)", FAQ, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/faq.md has no section {kind.__name__}"
    stated = re.search(r"[Ee]xit\s+code (\d+)", found[1])
    assert stated and int(stated[1]) == kind.exit_code


def test_messages_in_the_faq_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "dgkit").rglob("*.py")))
    cells = re.findall(r"^\| (`[^|]+`) \|", FAQ, re.MULTILINE)
    assert len(cells) > 15
    parts = [
        part.strip() for cell in cells for quoted in re.findall(r"`([^`]+)`", cell) for part in quoted.split("...")
    ]
    assert [part for part in parts if part and part not in code] == []


def test_faq_lists_every_exit_code() -> None:
    from dgkit.cli import common, defects

    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", FAQ, re.MULTILINE)]
    signals = [common.INTERRUPTED, common.BROKEN_PIPE, common.TERMINATED]
    assert listed == [0, 1, 2, defects.INTERNAL_ERROR, *signals]


def test_files_page_lists_every_setting() -> None:
    text = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    table = text.partition("## config.yaml")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    expected = {}
    for name, field in GenerateConfig.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        shown = "" if default in (None, "", (), {}) else f"`{default}`"
        expected[name] = f"{shown} | {field.description}"
    assert rows == expected, "docs/reference/files.md, config.yaml: one row per setting: | `name` | `default` | help |"


def test_files_page_lists_every_field_of_a_record() -> None:
    import dataclasses

    from dgkit.data.records import Record

    text = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    table = text.partition("## manifest.jsonl")[2].partition("\n## ")[0]
    listed = [
        name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]
    fields = {"class" if field.name == "class_name" else field.name for field in dataclasses.fields(Record)}
    assert set(listed) == {*fields, "agreement"} and len(listed) == len(set(listed))


def shell_lines(page: Path) -> Iterator[list[str]]:
    """Words after ``dgkit`` of each of its command lines in the code blocks of a page."""
    language, kept = None, []
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = re.match(r"\s*```(\w*)", line)
        if fence:
            language = fence[1] if language is None else None
        elif language in ("", "bash"):
            kept.append(line)
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        if re.match(r"\s*dgkit \S", line):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_typed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Everything but the command itself runs: unknown commands, options and choices end here.
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda command, context: None)
    wrong = {}
    for words in shell_lines(page):
        try:
            app(args=words, prog_name="dgkit", standalone_mode=False)
        except Exception as error:
            wrong[shlex.join(words)] = str(getattr(error, "message", error))
    assert wrong == {}


def test_tutorial_has_commands_for_every_step() -> None:
    used = {words[0] for words in shell_lines(DOCS / "start" / "tutorial.md")}
    assert used >= {"swap", "stats", "build-engines", "generate", "verify", "train", "filter", "eval"}


@pytest.mark.filterwarnings("default")  # of the libraries that run it
def test_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install 'dgkit[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'dgkit[docs]'")
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert len([output for output in shown if "image/png" in output.get("data", {})]) == 2
    assert len(list((tmp_path / "scenes" / "images").glob("*.png"))) == 2
