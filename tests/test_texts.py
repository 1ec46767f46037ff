"""Words for figures."""

from dgkit.texts import count_of


def test_singular_and_plural() -> None:
    assert [count_of(count, "image") for count in (0, 1, 2, 1200)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,200 images",
    ]
    assert [count_of(count, "batch", "batches") for count in (1, 2)] == ["1 batch", "2 batches"]
