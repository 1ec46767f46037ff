"""The page in a real browser, served by a process of its own: one server for all tests here, since Gradio loads slowly.

Needs the extra ``app``, playwright and Chromium.
"""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgkit.data.labelmap import colorize
from dgkit.processes import child_environment
from tests.browsers import chromium
from tests.conftest import ROOT
from tests.scenes import make_label, make_labels

pytest.importorskip("gradio", reason="needs the extra app: pip install 'dgkit[app]'")
START, WAIT = 300, 60  # seconds, for a machine with other work
SECRET = "a file that the page must not serve"


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    log: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves four label maps with the embedded model at two steps; ends it by Ctrl-C."""
    folder = tmp_path_factory.mktemp("page")
    make_labels(folder / "labels")
    (folder / "secret.txt").write_text(SECRET)
    command = [sys.executable, "-m", "tests.app.watched", "app", "--port", "0", "--labels", str(folder / "labels"),
               "--preset", "one-pass:steps=2", "--engine", "torch", "--dtype", "fp32", "--device", "cpu"]  # fmt: skip
    log = folder / "log"
    environment = child_environment({"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"})
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stderr=stream, stdout=stream, stdin=subprocess.DEVNULL,
            # A shell that starts tests in the background may have told them to ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
    try:
        yield Server(process, wait_for_address(process, log), folder, log)
    finally:
        process.kill()
        process.wait()


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    ends = time.monotonic() + START
    while time.monotonic() < ends and process.poll() is None:
        if match := re.search(r"Open (http://127\.0\.0\.1:\d+) ", log.read_text()):
            return match[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    """The page, opened at 1280 pixels; it must ask nothing of other hosts and report no error."""
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(1000 * WAIT)
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda text: problems.append(text.text) if text.type == "error" else None)
        opened.on(
            "request",
            lambda asked: None if asked.url.startswith((server.url, "data:", "blob:")) else problems.append(asked.url),
        )
        opened.goto(server.url)
        opened.wait_for_function("window.dgkitDrawing && window.dgkitDrawing()")
        yield opened
        assert problems == []


def drawn(page: Any) -> np.ndarray:
    """The label map on the canvas."""
    from dgkit.app.drawing import unpack_label

    return unpack_label(page.evaluate("window.dgkitDrawing()"))


def generate(page: Any, scenes: int) -> str:
    """Press the button, wait for so many scenes, and return the command lines."""
    page.evaluate("document.querySelectorAll('.dg-label').forEach((label) => label.remove())")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function(
        "(count) => document.querySelectorAll('.dg-frame .dg-label').length == count"
        " && !document.querySelector('.dg-wait') && document.querySelector('.dg-commands textarea').value",
        arg=scenes,
    )
    return str(page.locator(".dg-commands textarea").input_value())


def test_two_styles_of_a_picked_and_changed_map(page: Any, server: Server, tmp_path: Path) -> None:
    before = page.evaluate("window.dgkitDrawing()")
    page.locator("[data-map]").nth(2).click()
    page.wait_for_function("(before) => window.dgkitDrawing() != before", arg=before)
    picked = drawn(page)
    page.locator(".dg-class", has_text="bus").click()
    page.locator("#dg-canvas").click(position={"x": 200, "y": 300})
    changed = drawn(page)
    assert changed.shape == (256, 256) and set(changed[changed != picked].tolist()) == {15}
    assert 50 < (changed != picked).sum() < 200  # a disc of 12 pixels
    text = generate(page, 2)
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    titles = page.locator(".dg-card figcaption").all_inner_texts()
    assert titles == ["snowy one-pass:steps=2, seed 0", "night one-pass:steps=2, seed 0"]
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("dgkit generate ")]
    assert len(commands) == 3 and str(server.folder / "labels") in commands[2]
    kept = Path(commands[0][commands[0].index("--labels") + 1])
    assert kept.is_relative_to(server.folder / "dgkit-app")
    assert np.array_equal(np.asarray(Image.open(next(kept.iterdir()))), changed)


def test_undo_fill_and_overlay(page: Any) -> None:
    before = drawn(page)
    page.locator("#dg-fill").check()
    page.locator(".dg-class", has_text="terrain").click()
    page.locator("#dg-canvas").click(position={"x": 20, "y": 20})
    assert (drawn(page) == 9).sum() > (before == 9).sum() + 500
    page.locator("#dg-undo").click()
    assert np.array_equal(drawn(page), before)
    page.locator("#dg-fill").uncheck()
    page.locator("#dg-overlay").fill("100")
    generate(page, 2)
    shot = np.asarray(Image.open(io.BytesIO(page.locator(".dg-frame").first.screenshot())).convert("RGB"))[8:-8, 8:-8]
    colours = {tuple(colour) for colour in colorize(before).reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in shot.reshape(-1, 3).tolist()} <= colours


def test_uploads_and_their_refusals(page: Any) -> None:
    def send(name: str, content: bytes) -> None:
        page.locator("#dg-file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})

    buffer = io.BytesIO()
    Image.fromarray(make_label(9)).save(buffer, "PNG")
    send("mine.png", buffer.getvalue())
    page.get_by_text("uploaded map, window 1.").wait_for()
    send("<b>text</b>.png", b"no picture")
    page.get_by_text("<b>text</b>.png cannot be read as an image").wait_for()
    page.locator("[data-map]").first.click()
    page.get_by_text("0, window 1.").wait_for()


def test_a_style_set_and_an_own_style(page: Any) -> None:
    page.get_by_label("driving", exact=True).check()
    page.get_by_label("tunnel", exact=True).wait_for()
    own = page.get_by_label("Own styles")
    own.fill("hail=in a hailstorm")
    text = generate(page, 3)
    titles = page.locator(".dg-card figcaption b").all_inner_texts()
    assert titles == ["dusk", "heavy-rain", "hail"] and "--style 'hail=in a hailstorm'" in text
    warning = page.locator(".dg-card").last.get_by_role("status").inner_text()
    assert (
        "was trained on the styles sunny, snowy, rainy, foggy, night; it does not know these words: hail (" in warning
    )
    own.fill("hail=")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("style 'hail': the clause is empty").wait_for()
    own.fill("")
    page.get_by_label("published", exact=True).check()
    page.get_by_label("sunny", exact=True).wait_for()


def test_wrong_settings_are_explained(page: Any) -> None:
    seeds = page.get_by_label("Seeds")
    seeds.fill("one")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("seed='one' is not allowed").wait_for()
    seeds.fill("0")


def test_the_page_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def status(server: Server, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(server.url + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_no_file_is_served(server: Server) -> None:
    secret = server.folder / "secret.txt"
    for path in (f"/gradio_api/file={secret}", f"/file={secret}", "/gradio_api/file=secret.txt",
                 f"/static/..%2f..%2f..%2f..{secret}", f"/assets/%2e%2e/%2e%2e/..{secret}",
                 "/gradio_api/file=https://example.org/", "/gradio_api/proxy=https://example.org/"):  # fmt: skip
        code, content = status(server, path)
        assert code in (403, 404), path
        assert SECRET.encode() not in content
    assert status(server, "/", Host="evil.example")[0] == 403


def test_a_file_cannot_be_named_in_place_of_a_drawing(server: Server) -> None:
    config = json.loads(status(server, "/config")[1])
    file = {"path": str(server.folder / "secret.txt"), "meta": {"_type": "gradio.FileData"}}
    with_inputs = [dependency for dependency in config["dependencies"] if dependency["inputs"]]
    assert len(with_inputs) > 3
    for dependency in with_inputs:
        data = [file] * len(dependency["inputs"])
        body = json.dumps({"data": data, "fn_index": dependency["id"], "session_hash": "test"}).encode()
        assert status(server, "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})[0] == 403


def test_ctrl_c_ends_the_server_and_nothing_was_sent_elsewhere(server: Server) -> None:
    """Last in this file: it ends the server."""
    os.kill(server.process.pid, signal.SIGINT)
    assert server.process.wait(WAIT) == 130
    said = server.log.read_text()
    assert "stopped; the label maps of the scenes are in dgkit-app; to open the page again: dgkit app --port 0" in said
    assert "CONNECTED" not in said and "Traceback" not in said, said
