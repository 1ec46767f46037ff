"""The report page, parsed; test_report_browser.py opens it in a browser."""

import base64
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.errors import InputError, UsageError
from dgkit.labels import CLASSES, PALETTE
from dgkit.outputs.packing import pack
from dgkit.outputs.report_page import report, throughput
from tests.generated import HEIGHT, WIDTH, make_generated, make_job


class Page(HTMLParser):
    """Tags with attributes, and the text of each script element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open[: len(self.open) - 1 - self.open[::-1].index(tag)]

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def out(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "scenes"
    shutil.copytree(generated, folder)
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    result = report(out, source_pixels=[10] * 19)
    assert (result.page, result.scenes, result.shown, result.agreement) == (out / "report.html", 7, 7, None)
    return Page(result.page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(page: Page) -> dict:
    return json.loads(page.scripts[0])


def test_nothing_is_loaded_but_images_of_the_folder(page: Page, out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    addresses = re.findall(r"https?://[^\s\"'<>)]+", text)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}  # the namespace of SVG, never fetched
    for tag, attributes in page.tags:
        assert not {"src", "href", "srcset"} & set(attributes), tag
    assert len(page.scripts) == 2  # no prompt ended one of them


def test_scenes_are_those_of_the_manifest(data: dict) -> None:
    scenes, texts = data["scenes"], data["texts"]
    assert {len(column) for column in scenes.values() if column is not None} == {7}
    for index in range(7):
        job = make_job(index)
        assert scenes["id"][index] == job.id and scenes["seed"][index] == str(job.seed)
        assert texts["prompt"][scenes["prompt"][index]] == job.prompt
        assert texts["style"][scenes["style"][index]] == job.style
        assert texts["class"][scenes["class"][index]] == (job.class_name or "")
        assert scenes["pixels"][index] == np.bincount(job.label.ravel(), minlength=256)[:19].tolist()
    assert data["source"] == [10] * 19 and data["classes"] == list(CLASSES)
    assert data["ratio"] == HEIGHT / WIDTH


def test_ids_get_the_colours_of_the_palette(page: Page) -> None:
    tables = [attributes["tablevalues"] for tag, attributes in page.tags if tag.startswith("fefunc")]
    colours = np.array([[float(value) for value in str(table).split()] for table in tables]).T * 255
    assert colours.shape == (256, 3)
    for whole in (np.round, np.floor):  # browsers differ
        assert np.array_equal(whole(colours[:19]).astype(np.uint8), PALETTE)
    assert not colours[19:].any()


def test_every_element_that_the_script_looks_for_is_there(page: Page) -> None:
    wanted = set(re.findall(r"(?:find|getElementById)\(\"([\w-]+)\"\)", page.scripts[1])) - {"empty"}
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert len(wanted) > 20 and wanted <= ids


def test_agreement_comes_from_the_manifest(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 3)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    for line, value in zip(lines, (0.5, None, 0.75), strict=True):
        line["agreement"] = value
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = report(out)
    assert result.agreement == 0.625
    data = json.loads(Page(result.page.read_text()).scripts[0])
    assert data["scenes"]["agreement"] == [0.5, None, 0.75]


def test_agreement_comes_from_the_filter_too(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 3)
    (out / "labels_filtered").mkdir()
    measured = [{"id": make_job(index).id, "agreement": 0.25 * (index + 1)} for index in range(2)]
    text = "".join(json.dumps(line) + "\n" for line in measured)
    (out / "labels_filtered" / ".measured.jsonl").write_text(text)
    data = json.loads(Page(report(out).page.read_text()).scripts[0])
    assert data["scenes"]["agreement"] == [0.25, 0.5, None]


def test_the_first_blocks_only_start_the_clock() -> None:
    """Four images of a block are complete together: 16 in 4 minutes, of which the first minute is not seen."""
    times = [60.0 * (number // 4) + 0.01 * (number % 4) for number in range(16)]
    found = throughput(times, first=4)
    assert found is not None
    assert np.mean(found["rates"]) == pytest.approx(240, rel=0.01)


def test_throughput_is_counted_from_the_first_image() -> None:
    found = throughput([100.0, 110, 120, 130, 140, 240, 250, 260, 270])
    assert found is not None and found["seconds"] == 170
    # 8 images after the first, in two halves of 85 s: four and four.
    assert found["rates"] == [pytest.approx(4 * 3600 / 85, abs=0.1)] * 2
    long = throughput(np.arange(0, 36_000, 3.6).tolist())
    assert long is not None and len(long["rates"]) == 60 and np.allclose(long["rates"], 1000, rtol=0.01)
    pause = throughput([*range(100), *range(1000, 1100)])
    assert pause is not None and 0 in pause["rates"]


def test_a_clock_that_was_set_back_is_corrected() -> None:
    steady = np.arange(0, 36_000, 36.0)
    expected = throughput(steady.tolist())
    for hours in (2, 5, 30, 8760):
        back = np.where(np.arange(1000) < 400, steady, steady - 3600 * hours)
        found = throughput(back.tolist())
        assert found is not None and expected is not None
        assert found["seconds"] == pytest.approx(expected["seconds"], abs=40)
        assert np.allclose(found["rates"], expected["rates"], rtol=0.1)
    twice = np.where(np.arange(1000) < 700, back, back - 3600 * 24)
    found = throughput(twice.tolist())
    assert found is not None and found["seconds"] == pytest.approx(35_964, abs=80)


def test_regenerated_images_and_workers_out_of_step_are_not_a_jump() -> None:
    steady = np.arange(0, 36_000, 36.0)
    repaired = np.where(np.arange(1000) % 7 == 3, steady + 24 * 3600, steady)
    found = throughput(repaired.tolist())
    assert found is not None and found["seconds"] == pytest.approx(repaired.max() - repaired.min())
    jitter = steady.reshape(-1, 4)[:, ::-1].ravel()  # the last of four is complete first
    found = throughput(jitter.tolist())
    assert found is not None and found["seconds"] == pytest.approx(35_964)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 2.0], [5.0] * 40])
def test_no_throughput_from_times_that_say_nothing(times: list[float]) -> None:
    assert throughput(times) is None


def test_times_come_from_the_files(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 5)
    for number, path in enumerate(sorted((out / "images").iterdir())):
        os.utime(path, (0, 1000 + 36 * number))
    data = json.loads(Page(report(out).page.read_text()).scripts[0])
    assert data["throughput"] == {"seconds": 144.0, "rates": [100.0]}


def test_embedded_scenes_need_no_files(out: Path, tmp_path: Path) -> None:
    result = report(out, embed=3, to=tmp_path / "sent.html")
    assert (result.page, result.scenes, result.shown) == (tmp_path / "sent.html", 7, 3)
    data = json.loads(Page(result.page.read_text()).scripts[0])
    assert data["scenes"]["id"] == [make_job(index).id for index in (0, 3, 6)] and data["all"] == 7
    for place, index in enumerate((0, 3, 6)):
        kind, _, text = data["embedded"]["label"][place].partition(";base64,")
        label = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        assert kind == "data:image/png" and np.array_equal(label, make_job(index).label)
        assert data["embedded"]["image"][place].startswith("data:image/jpeg;base64,")


def test_what_cannot_be_reported(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder of dgkit generate"):
        report(tmp_path)
    with pytest.raises(UsageError, match="--embed 0"):
        report(out, embed=0)
    with pytest.raises(UsageError, match="needs embedded images"):
        report(out, to=tmp_path / "page.html")


def test_folders_whose_names_are_not_utf8(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 2).rename(tmp_path / os.fsdecode(b"stra\xdfe"))
    assert report(out, embed=1).scenes == 2
    assert b"stra\\udcdfe" in (out / "report.html").read_bytes()
    pack(out, tmp_path / os.fsdecode(b"\xdf"), "webdataset")
