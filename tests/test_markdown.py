"""Tables in Markdown."""

from __future__ import annotations

from dgkit.markdown import markdown_table


def test_cells_cannot_break_the_table() -> None:
    assert (
        markdown_table(("a", "b"), [(1, "x | y"), ("", 2.5)]) == "| a | b |\n| --- | --- |\n| 1 | x / y |\n|  | 2.5 |\n"
    )
