"""Figures of earlier runs, and files in their place that are none."""

from pathlib import Path

import pytest

from dgkit.engines.speed_record import SpeedRecord


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    return tmp_path / "speeds"


def test_figures_are_kept_by_what_they_depend_on(cache: Path) -> None:
    record = SpeedRecord("cpu", {"model": "m", "size": (256, 256)})
    assert record.read("torch", "bf16") is None
    record.write("torch", "bf16", 2.0)
    record.write("torch", "bf16", 3.0)  # other work on the machine
    record.write("openvino", "bf16", 1.5)
    again = SpeedRecord("cpu", {"model": "m", "size": (256, 256)})
    assert again.read_all(["torch", "openvino", "compile"], "bf16") == {"torch": 2.0, "openvino": 1.5}
    assert again.read("torch", "fp32") is None
    assert SpeedRecord("cpu", {"model": "n", "size": (256, 256)}).read("torch", "bf16") is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"seconds": "2"}', b'{"seconds": -1}', b'{"seconds": NaN}', b'{"seconds": true}',
                b'{"time": 2}', b"\xff\xfe", b'{"seconds": 1e300}']
)  # fmt: skip
def test_a_damaged_file_is_ignored_and_replaced(cache: Path, content: bytes) -> None:
    record = SpeedRecord("cpu", {"model": "m"})
    record.write("torch", "bf16", 2.0)
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert record.read("torch", "bf16") is None
    record.write("torch", "bf16", 4.0)
    assert record.read("torch", "bf16") == 4.0


def test_without_a_cache_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "file"))
    record = SpeedRecord("cpu", {})
    record.write("torch", "fp32", 1.0)
    assert record.read("torch", "fp32") is None
