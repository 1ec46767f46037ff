"""Shortening a prompt keeps its style."""

from __future__ import annotations

import pytest

from dgkit.diffusion.prompt_length import fit_words


@pytest.mark.parametrize(
    ("prompt", "words", "expected", "shortened"),
    [
        ("road sky, in foggy weather.", 9, "road sky, in foggy weather.", False),
        ("road traffic light car, in foggy weather.", 6, "road traffic light, in foggy weather.", True),
        ("road traffic light, in foggy weather.", 5, "road, in foggy weather.", True),
        ("road sidewalk building", 2, "road sidewalk", True),
        (
            "A city street scene with road car, in snowy weather.",
            8,
            "A city street scene with, in snowy weather.",
            True,
        ),
        ("road car, in snowy weather.", 3, "in snowy weather.", True),
        ("", 0, "", False),
    ],
)
def test_prompts_lose_class_names_before_the_style(prompt: str, words: int, expected: str, shortened: bool) -> None:
    assert fit_words(prompt, lambda text: len(text.split()) <= words) == (expected, shortened)


def test_own_words_keep_what_follows_the_list_of_classes() -> None:
    names = ("road", "cars and vans", "sky")
    prompt = "Photo of road cars and vans sky, at dusk, long shadows"
    for most, expected in (
        (10, "Photo of road cars and vans, at dusk, long shadows"),
        (9, "Photo of road, at dusk, long shadows"),
        (6, "Photo of, at dusk, long shadows"),
    ):
        found = fit_words(prompt, lambda text, most=most: len(text.split()) <= most, names)  # type: ignore[misc]
        assert found == (expected, True)
