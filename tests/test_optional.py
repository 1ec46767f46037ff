"""Missing optional packages are reported with the command that installs them."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dgkit.errors import MissingDependency
from dgkit.optional import CHECKOUT, first_line, install_command, openvino_core, require

ROOT = Path(__file__).resolve().parents[1]


def test_present_module_is_returned() -> None:
    assert require("json", "cpu") is sys.modules["json"]
    assert require("xml.dom", "cpu").__name__ == "xml.dom"


@pytest.mark.parametrize("module", ["package_nobody_has", "package_nobody_has.part"])
def test_a_missing_module_names_package_and_command(module: str) -> None:
    with pytest.raises(MissingDependency) as caught:
        require(module, "seg")
    assert module in caught.value.message and "not installed" in caught.value.message
    assert caught.value.hint == install_command("seg")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libnvinfer.so.11: cannot open shared object file\\nmany\\nlines')", "libnvinfer.so.11"),
        ("import another_absent_package", "another_absent_package"),
    ],
)
def test_a_broken_module_is_not_reported_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "broken_backend.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency) as caught:
        require("broken_backend", "gpu")
    assert "does not load" in caught.value.message and reason in caught.value.message
    assert "\n" not in caught.value.message


def test_first_line_of_an_empty_error_is_its_class() -> None:
    assert first_line(OSError()) == "OSError"
    assert first_line(OSError("\n one\ntwo")) == "one"


def test_openvino_has_one_core() -> None:
    """Two in one process may end it at the next signal."""
    pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")
    assert openvino_core() is openvino_core()
    files = [path for folder in ("dgkit", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    makers = [path.name for path in files if re.search(r"\.Core\(\)", path.read_text(encoding="utf-8"))]
    assert sorted(makers) == ["optional.py"]


@pytest.mark.parametrize(
    ("origin", "installer", "expected"),
    [
        ({}, "pip", "pip install 'dgkit[cpu]'"),
        ({}, "uv\n", "uv pip install 'dgkit[cpu]'"),
        ({"url": "FOLDER", "dir_info": {"editable": True}}, "pip", "pip install -e '{folder}[cpu]'"),
        ({"url": "FOLDER", "dir_info": {}}, "uv", "uv pip install '{folder}[cpu]'"),
        ({"url": "file:///gone", "dir_info": {}}, "pip", "pip install 'dgkit[cpu]'"),
        ({"url": "https://a.b/dgkit.git", "vcs_info": {"vcs": "git"}}, "pip",
         "pip install 'dgkit[cpu] @ git+https://a.b/dgkit.git'"),
        (None, "", "pip install -e '{checkout}[cpu]'"),
    ],
)  # fmt: skip
def test_extras_are_installed_the_way_the_package_was(
    origin: dict[str, Any] | None, installer: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir("/")
    text = json.dumps(origin).replace("FOLDER", tmp_path.as_uri())
    files = {"direct_url.json": text if origin else None, "INSTALLER": installer}

    def distribution(name: str) -> Any:
        if origin is None:
            raise metadata.PackageNotFoundError(name)
        return SimpleNamespace(read_text=files.get)

    monkeypatch.setattr(metadata, "distribution", distribution)
    assert install_command("cpu") == expected.format(folder=tmp_path, checkout=CHECKOUT)
    monkeypatch.chdir(tmp_path)
    if "{folder}" in expected:
        assert install_command("cpu") == expected.format(folder=".")
