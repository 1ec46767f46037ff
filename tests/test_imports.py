"""Garbage collection is paused while large libraries are imported, and only then."""

from __future__ import annotations

import gc

import pytest

from dgkit.imports import collection_paused


def test_collection_resumes_after_the_block() -> None:
    assert gc.isenabled()
    with pytest.raises(InterruptedError), collection_paused():
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise InterruptedError
    assert gc.isenabled()
