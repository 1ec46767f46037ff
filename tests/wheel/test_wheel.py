"""The built distributions hold what a user needs, and work from a clean environment in another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "dgkit" / "models" / "city"


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that must succeed, run without the variables that point Python at this checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    result = subprocess.run([*map(str, command)], cwd=cwd, env=kept, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source archive, built from this tree into a temporary folder."""
    pytest.importorskip("hatchling", reason="needs hatchling: pip install 'dgkit[dev]'")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def clean_python(distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment that holds the wheel; its dependencies come from the environment of this test."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    wheel = distributions["wheel"]
    install = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, *install, cwd=folder)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # Stands after the wheel's own folder; .pth files in it, such as that of an editable dgkit, are not read.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_wheel_holds_the_package_alone(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
        entry_points = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert {name.partition("/")[0] for name in names} == {"dgkit", metadata.partition("/")[0]}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "dgkit").rglob("*.py")}
    assert sources <= names and "dgkit/py.typed" in names
    page = {f"dgkit/outputs/{name}" for name in ("page.html", "page.css", "page.js", "charts.js")}
    page |= {f"dgkit/app/{name}" for name in ("canvas.html", "canvas.js", "style.css")}
    assert page <= names
    assert not [name for name in names if "__pycache__" in name]
    assert fields["Requires-Python"] == ">=3.11" and fields["License-Expression"] == "Apache-2.0"
    assert set(fields.get_all("Provides-Extra", [])) == EXTRAS
    assert "dgkit = dgkit.cli.app:main" in entry_points


def test_wheel_holds_the_whole_model(distributions: dict[str, Path]) -> None:
    files = {str(path.relative_to(ROOT)): path for path in MODEL.rglob("*") if path.is_file()}
    with zipfile.ZipFile(distributions["wheel"]) as archive:
        assert {name for name in archive.namelist() if name.startswith("dgkit/models/city/")} == set(files)
        assert all(archive.read(name) == path.read_bytes() for name, path in files.items())
    assert sum(path.stat().st_size for path in files.values()) <= 25_000_000


def test_source_archive_can_be_built_and_tested(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "dgkit/labels.py"]
    assert {*needed, "tests/conftest.py", "docs/reference/cli.md"} <= names
    assert not [name for name in names if name.startswith((".git/", ".venv/", "demo/")) or name.endswith(".pyc")]


def test_installed_wheel_runs_elsewhere(clean_python: Path, tmp_path: Path) -> None:
    where = run(clean_python, "-c", "import dgkit; print(dgkit.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(clean_python.parents[1])
    found = json.loads(run(clean_python.parent / "dgkit", "doctor", "--json", cwd=tmp_path))
    assert found["commit"] is None  # a wheel is no checkout
    assert found["embedded_model"] is not None


def test_installed_wheel_generates(clean_python: Path, tmp_path: Path) -> None:
    quick = ("--preset", "one-pass", "--set", "steps=1")
    run(clean_python.parent / "dgkit", "generate", "scenes", "--count", "2", *quick, cwd=tmp_path)
    assert len(list((tmp_path / "scenes" / "images").glob("*.png"))) == 2
    assert len(list((tmp_path / "scenes" / "labels").glob("*.png"))) == 2
    assert (tmp_path / "scenes" / "contact_sheet.png").is_file()
