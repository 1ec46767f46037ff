"""What the README promises works: its commands run in the order given, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dgkit.cli.app import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
MAKERS = ("world", "generate")  # commands whose folders others use; a second run finds them complete
NEEDS_HUB = "swap"  # the one command that fetches weights; the tests run offline


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Words of the README's command lines that start with ``program``, comments removed, in order."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    parsed = [shlex.split(line, comments=True) for line in lines]
    return [words for words in parsed if words and words[0] == program]


def cheap(words: list[str]) -> list[str]:
    """The same command for fewer scenes, or one image of one step: what is tested is that it works, not how long."""
    line = " ".join(words)
    if words[1] == "generate":
        return [*re.sub(r"--count \d+", "--count 1", line).split(), "--set", "steps=1"]
    return re.sub(r"--count \d+", "--count 4", line).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working folder, with the results that other commands use: the commands can then run in any order."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands("dgkit"):
            assert words[1] not in MAKERS or main(cheap(words)[1:]) == 0
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in ``folder``, with an empty cache of the Hub."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "empty-hub"))


def test_readme_has_commands() -> None:
    # Every loop below is empty, and so passes, if the blocks are no longer found.
    assert len(commands("dgkit")) == 5 and len(commands("make")) == 2 and len(blocks("python")) == 1


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("words", commands("dgkit"), ids=" ".join)
def test_command_runs(words: list[str], inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(cheap(words)[1:])
    error = capsys.readouterr().err
    if words[1] == NEEDS_HUB:
        assert code == 1 and error.startswith("error: "), error
        assert words[2] in error and "Traceback" not in error
    else:
        assert code == 0, error


def test_python_block_runs(inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python")
    quick = block.replace("count=2", "count=1, steps=1")
    assert quick != block
    exec(quick, {})
    printed = capsys.readouterr().out
    assert "images/" in printed and "snowy" in printed


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
