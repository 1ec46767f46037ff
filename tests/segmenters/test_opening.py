"""The engine and number format of a segmenter that none was stated for."""

import pytest

from dgkit.segmenters import opening


@pytest.mark.parametrize(
    ("present", "engine"),
    [(("ort", "openvino"), "ort"), (("ort",), "ort"), (("openvino",), "openvino"), ((), "ort")],
)
def test_an_onnx_file_runs_on_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], engine: str
) -> None:
    opened: list[tuple[object, ...]] = []
    monkeypatch.setattr(opening, "installed", lambda name, build: name in present)
    monkeypatch.setattr(opening, "OnnxSegmenter", lambda *given, taxonomy: opened.append(given))
    opening.open_segmenter("net.onnx", device="cpu")
    opening.open_segmenter("net.onnx", "openvino", "fp32", "cpu")
    assert [given[1:] for given in opened] == [(engine, "fp32", "cpu"), ("openvino", "fp32", "cpu")]
