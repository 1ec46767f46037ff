"""Progress over blocks in flight."""

from dgkit.generation.flow import ImageProgress
from tests.generation.fakes import make_block


def test_progress_never_decreases() -> None:
    reported: list[float] = []
    images = ImageProgress(2, 6, lambda done, total: reported.append(done))
    images.update(make_block(2, 2, 3), 0.5)
    images.update(make_block(4, 4, 5), 0.75)
    images.update(make_block(2, 2, 3), 0.0)  # its worker died
    images.finish(make_block(4, 4, 5))
    images.finish(make_block(2, 2, 3))
    assert reported == [3.0, 4.5, 4.5, 4.5, 6.0]
