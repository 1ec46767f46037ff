"""What the page answers: the few routes it needs, of requests of bounded size that name no file."""

import json
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dgkit.app.uploads import MAX_UPLOAD
from dgkit.files import parse_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY = 2 * MAX_UPLOAD  # bytes of a request: an upload in base64, and the rest of the form
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
# Gradio also serves files, fetches URLs and runs shell commands for other kinds of pages; those routes stay closed.
_PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
_FOLDERS = ("/assets/", "/static/")
_EVENTS = ("queue/join", "queue/data", "cancel", "reset", "app_id", "startup-events", "theme.css", "info")
_HEARTBEAT = "/gradio_api/heartbeat/"
# The page loads nothing from other hosts, and other sites cannot embed it.
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class RequestGuard:
    """An ASGI application that passes on to ``app`` what the page needs, and refuses the rest.

    ``local``: answer only requests to the names of this machine, so that a foreign site whose name resolves to
    127.0.0.1 cannot use the page of a visitor.
    """

    def __init__(self, app: Application, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self.local and _host(headers.get(b"host", "")) not in LOCAL_NAMES:
            return await _refuse(send, 403, "open this page as 127.0.0.1 or localhost")
        if not _is_open(scope["path"]):
            return await _refuse(send, 404, "not found")
        body = await _read(receive) if scope["method"] == "POST" else b""
        if body is None:
            return await _refuse(send, 413, f"the request has more than {MAX_BODY >> 20} MiB")
        if _names_a_file(body):
            return await _refuse(send, 403, "this page takes no files by path or URL")
        return await self.app(scope, _replay(body, receive), _with_headers(send))


def _host(value: str) -> str:
    """Return the host of a ``Host`` header without its port."""
    name, colon, port = value.rpartition(":")
    return name.lower() if colon and port.isdecimal() else value.lower()


def _is_open(path: str) -> bool:
    if ".." in urllib.parse.unquote(path).replace("\\", "/").split("/"):
        return False
    api = tuple(f"/gradio_api/{name}" for name in _EVENTS)
    return path in (*_PAGES, *api) or path.startswith((*_FOLDERS, _HEARTBEAT))


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request, None if it is longer than :data:`MAX_BODY`."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _names_a_file(body: bytes) -> bool:
    """Return whether a JSON body holds an object with a ``path``, as Gradio writes files, or is no JSON."""
    if not body:
        return False
    try:
        left = [parse_json(body)]
    except ValueError:
        return True
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "path" in value:
                return True
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives the body that was read, and then what the client does next."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _with_headers(send: Send) -> Send:
    async def extended(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return extended


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
