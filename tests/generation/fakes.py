"""Fakes for the tests of runs."""

from dgkit.generation.blocks import Block


def make_block(start: int, *wanted: int) -> Block:
    """A block whose jobs know only their numbers; ``wanted`` is the first one if not given."""

    class NumberedJob:
        index = start

    return Block((NumberedJob(),), wanted or (start,))  # type: ignore[arg-type]
