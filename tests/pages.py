"""Code blocks of the documentation, so that what a test runs is what the page shows."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def guide(name: str) -> str:
    """Return the text of a guide."""
    return (DOCS / "guides" / f"{name}.md").read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """Return what a page says under a heading of the second level."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines(text: str) -> list[str]:
    """Return the command lines of all shell blocks, in order."""
    return [line for block in blocks(text, "bash") for line in block.splitlines() if line]
