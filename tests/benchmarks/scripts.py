"""Loads a script of benchmarks/ as a module, as if it was started from there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@contextmanager
def load_script(name: str) -> Iterator[ModuleType]:
    """Yield a fresh module of ``benchmarks/NAME.py``; the modules that it imports from benchmarks are fresh too."""
    path = BENCHMARKS / f"{name}.py"
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, path.stem, module)  # dataclasses look there for their annotations
        try:
            spec.loader.exec_module(module)
            yield module
        finally:
            for key in set(sys.modules) - before:
                if str(getattr(sys.modules[key], "__file__", "")).startswith(str(BENCHMARKS)):
                    sys.modules.pop(key)
