"""What the README promises works: its commands run in the order given, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
NEEDS_HUB = "swap"  # the one command that fetches weights; the tests run offline


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Words of the README's command lines that start with ``program``, comments removed, in order."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    parsed = [shlex.split(line, comments=True) for line in lines]
    return [words for words in parsed if words and words[0] == program]


def cheap(words: list[str]) -> list[str]:
    """The same command for one image of two steps: what is tested is that it works, not how long it takes."""
    if words[1] != "generate":
        return words
    return [*re.sub(r"--count \d+", "--count 1", " ".join(words)).split(), "--set", "steps=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working folder for all commands: later ones use what earlier ones wrote."""
    return tmp_path_factory.mktemp("readme")


def call(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "empty-hub")}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_readme_has_commands() -> None:
    # Every loop below is empty, and so passes, if the blocks are no longer found.
    assert len(commands("dgkit")) == 5 and len(commands("make")) == 2 and len(blocks("python")) == 1


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("words", commands("dgkit"), ids=" ".join)
def test_command_runs(words: list[str], folder: Path) -> None:
    result = call(cheap(words), folder)
    if words[1] == NEEDS_HUB:
        assert result.returncode == 1 and result.stderr.startswith("error: "), result.stderr
        assert words[2] in result.stderr and "Traceback" not in result.stderr
    else:
        assert result.returncode == 0, result.stderr


def test_python_block_runs(folder: Path) -> None:
    (block,) = blocks("python")
    quick = block.replace("count=2", "count=1, steps=2")
    assert quick != block
    result = subprocess.run([sys.executable, "-c", quick], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "images/" in result.stdout and "snowy" in result.stdout


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_target_exists(words: list[str], tmp_path: Path) -> None:
    # Run for real by continuous integration; here only that make knows how.
    result = subprocess.run(["make", "-n", *words[1:], f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "pip install" in result.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    targets += re.findall(r"<img[^>]+src=\"([^\"]+)\"", text)
    assert [target for target in targets if not leads_somewhere(page, target)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether a relative link leads to a file, and its anchor to a heading of that page."""
    path, _, anchor = target.partition("#")
    aim = page.parent / path if path else page
    return aim.exists() and (not anchor or anchor in map(slug, re.findall(r"^#+ (.+)$", aim.read_text(), re.MULTILINE)))


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
