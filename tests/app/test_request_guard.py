"""What the guard of the page passes on, and what it refuses."""

import asyncio
import json
from typing import Any

import pytest

from dgkit.app import request_guard
from dgkit.app.request_guard import RequestGuard

JOIN = "/gradio_api/queue/join"


def ask(
    path: str,
    *,
    method: str = "GET",
    host: str = "127.0.0.1:7860",
    body: tuple[bytes, ...] = (b"",),
    local: bool = True,
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status and headers of the answer, and the body that the page behind the guard received."""
    received: list[bytes] = []
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        received.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts[-1]["more_body"] = False

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(RequestGuard(inner, local)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(received)


@pytest.mark.parametrize("path", ["/", "/assets/index-abc.js", "/theme.css", "/gradio_api/heartbeat/abc"])
def test_the_page_is_open_and_loads_nothing_from_elsewhere(path: str) -> None:
    status, headers, _ = ask(path)
    assert status == 200
    assert headers[b"content-security-policy"].startswith(b"default-src 'self' ")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=https://example.org/", "/file=/etc/passwd",
        "/gradio_api/file/etc/passwd", "/gradio_api/proxy=https://example.org", "/gradio_api/upload",
        "/gradio_api/stream/a/b/1/playlist-file", "/gradio_api/vibe-edit", "/gradio_api/run/predict", "/login",
        "/gradio_api/component_server", "/gradio_api/call/make", "/monitoring", "/docs", "/openapi.json",
        "/static/../../etc/passwd", "/assets/..%2f..%2fetc/passwd", "/assets/..\\..\\secret",
    ],
)  # fmt: skip
def test_routes_to_files_and_urls_are_closed(path: str) -> None:
    assert ask(path)[0] == ask(path, method="POST", body=(b"{}",))[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:7860", 200), ("[::1]:7860", 200), ("LOCALHOST", 200), ("evil.example:7860", 403), ("", 403)],
)
def test_other_host_names_are_refused_on_a_local_page(host: str, status: int) -> None:
    assert ask("/", host=host)[0] == status
    assert ask("/", host=host, local=False)[0] == 200


@pytest.mark.parametrize(
    "value",
    [
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]},
        {"event_data": {"deep": [[{"path": "https://example.org/a.png"}]]}},
    ],
)
def test_bodies_that_name_files_are_refused(value: Any) -> None:
    text = json.dumps(value)
    for body in (text, text.replace("path", "p\\u0061th")):
        assert ask(JOIN, method="POST", body=(body.encode(),))[0] == 403
    assert ask(JOIN, method="POST", body=(b"[" * 100_000,))[0] == 403
    assert ask(JOIN, method="POST", body=(b"--boundary\r\n",))[0] == 403


def test_other_bodies_arrive_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(JOIN, method="POST", body=(b'{"da', b'ta": [1]}'))[::2] == (200, b'{"data": [1]}')
    monkeypatch.setattr(request_guard, "MAX_BODY", 10)
    assert ask(JOIN, method="POST", body=(b'"1234', b'5678"'))[0] == 200
    assert ask(JOIN, method="POST", body=(b'"1234', b'56789"'))[::2] == (413, b"")
