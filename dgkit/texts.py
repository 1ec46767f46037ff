"""Words for figures in messages."""


def count_of(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 image`` or ``1,200 images``; ``plural`` is for nouns that need more than an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
