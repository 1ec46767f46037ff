"""The report page in a real browser, opened as a file: what is shown, what clicks and keys do, and many scenes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgkit.data.labelmap import colorize
from dgkit.outputs.report_page import report
from tests.browsers import chromium
from tests.generated import make_generated, make_image, make_job

MANY = 10_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a file; the page must ask for nothing but files and report no error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    problems: list[str] = []

    def failed(request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # a picture that is no longer wanted
            problems.append(f"failed: {request.url}, {request.failure}")

    def show(path: Path) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("requestfailed", failed)
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url),
        )
        page.goto(path.as_uri())
        return page

    yield show
    context.close()
    assert problems == []


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = make_generated(tmp_path_factory.mktemp("browser") / "scenes", 11)
    return report(out, source_pixels=[100 * (i + 1) for i in range(19)]).page


def settle(page: Any) -> None:
    """Wait until every picture in view is decoded."""
    page.wait_for_function(
        "[...document.querySelectorAll('.cell:not([hidden]) img[src]')].every((i) => i.complete && i.naturalWidth)"
        " && document.querySelectorAll('.cell:not([hidden]) img[src]').length > 0"
    )


def shot(element: Any) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def test_scenes_are_seen_with_their_labels(open_page: Any, page_path: Path) -> None:
    page = open_page(page_path)
    settle(page)
    assert page.locator("#count").inner_text() == "11 of 11 scenes"
    page.locator(".cell").first.click()
    large = page.locator(".pair .frame").first
    page.wait_for_function("document.getElementById('large-image').complete")
    seen = shot(large)
    expected = np.asarray(Image.fromarray(make_image(0)).resize(seen.shape[1::-1], Image.Resampling.BILINEAR))
    assert np.abs(seen.astype(int) - expected)[8:-8, 8:-8].mean() < 4
    page.locator("#viewer-overlay").fill("100")
    labelled = shot(large)[8:-8, 8:-8]
    colours = {tuple(colour) for colour in colorize(make_job(0).label).reshape(-1, 3).tolist()}
    found = {tuple(colour) for colour in labelled.reshape(-1, 3).tolist()}
    assert found == colours  # exactly the palette: no mixed ids at the borders, none missing
    assert "000000_a-test.v1_car" in page.locator("#viewer-title").inner_text()
    assert "</script> & <b>road</b>" in page.locator("#details").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_overlay_covers_the_gallery(open_page: Any, page_path: Path) -> None:
    page = open_page(page_path)
    settle(page)
    frame = page.locator(".cell .frame").first
    before = shot(frame)
    page.locator("#overlay").fill("50")
    settle(page)
    half = shot(frame)
    page.locator("#overlay").fill("100")
    full = shot(frame)
    middle = (before.astype(int) + full) / 2
    assert np.abs(half - middle).mean() < 3 < np.abs(full.astype(int) - before).mean()


def test_filters_and_order(open_page: Any, page_path: Path) -> None:
    page = open_page(page_path)
    jobs = [make_job(index) for index in range(11)]
    count = page.locator("#count")
    page.select_option("#style", label="sunny (3)")
    assert count.inner_text() == "3 of 11 scenes"
    page.locator("#styles .row", has_text="sunny").click()  # the same filter again: off
    assert count.inner_text() == "11 of 11 scenes"
    trains = sum((job.label == 16).any() for job in jobs)
    page.locator("#classes .row", has_text="train").click()
    assert count.inner_text() == f"{trains} of 11 scenes" and 0 < trains < 11
    page.select_option("#order", "most")
    page.locator(".cell:not([hidden])").first.wait_for()
    most = max(jobs, key=lambda job: (job.label == 16).sum())
    page.locator(".cell:not([hidden])").first.click()
    assert page.locator("#viewer-title").inner_text() == most.id
    page.locator("#close").click()
    page.locator("#reset").click()
    assert count.inner_text() == "11 of 11 scenes"
    page.locator("#search").fill("in night weather")
    page.wait_for_function("document.getElementById('count').textContent.startsWith('2 of')")
    page.locator("#search").fill("no such thing")
    page.wait_for_selector("#empty")


def test_viewer_moves_with_the_keys(open_page: Any, page_path: Path) -> None:
    page = open_page(page_path)
    page.locator(".cell").first.click()
    for index in (1, 2, 1):
        page.keyboard.press(
            "ArrowRight" if index != 1 or page.locator("#viewer-title").inner_text()[5] == "0" else "ArrowLeft"
        )
        assert page.locator("#viewer-title").inner_text() == make_job(index).id


def test_an_embedded_page_shows_its_scenes_elsewhere(open_page: Any, page_path: Path, tmp_path: Path) -> None:
    sent = report(page_path.parent, embed=4, to=tmp_path / "sent.html").page
    page = open_page(sent)
    settle(page)
    assert page.locator("#count").inner_text() == "4 of 4 scenes (of 11 in the folder)"
    page.locator("#overlay").fill("100")
    settle(page)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 10,000 scenes: 40 scenes, linked under other names."""
    import json

    out = make_generated(tmp_path_factory.mktemp("many") / "scenes", 40)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    written = []
    for index in range(MANY):
        line = lines[index % 40]
        name = f"{index:06d}{line['id'][6:]}"
        prompt = (
            f"A city street scene with road sidewalk building pole vegetation sky person car {index}, in snowy weather."
        )
        record = {**line, "index": index, "id": name, "prompt": prompt, "agreement": 0.5 + 0.4 * np.sin(index)}
        for kind, path in (("image", f"images/{name}.png"), ("label", f"labels/{name}_labelTrainIds.png")):
            if index >= 40:
                os.link(out / line[kind], out / path)
            record[kind] = path
        written.append(json.dumps(record))
    (out / "manifest.jsonl").write_text("\n".join(written) + "\n")
    return report(out).page


@pytest.mark.slow
def test_ten_thousand_scenes_stay_quick(open_page: Any, many: Path) -> None:
    """Only scenes in view have elements, wherever one scrolls; what a filter costs is shown, not asserted."""
    page = open_page(many)
    settle(page)
    page.locator("#overlay").fill("60")
    for part in (0.1, 0.5, 0.99, 0.3):
        page.evaluate(f"window.scrollTo(0, {part} * document.body.scrollHeight)")
        page.wait_for_timeout(200)
        settle(page)
        assert page.evaluate("document.querySelectorAll('.cell').length") < 120
    took = page.evaluate(
        "() => { const style = document.getElementById('style'), start = performance.now(); style.value = '1';"
        " style.dispatchEvent(new Event('change')); return performance.now() - start; }"
    )
    assert page.locator("#count").inner_text().startswith("2,000 of 10,000")
    size = many.stat().st_size
    print(f"\n{MANY} scenes: page of {size / 1e6:.1f} MB, a filter takes {took:.0f} ms")
    assert size < 12_000_000
