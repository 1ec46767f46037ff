"""The web server of the page: its address, and one process that answers until Ctrl-C."""

import errno
import ipaddress
import socket
from typing import Any

from dgkit.app.page import Page, build, style
from dgkit.app.request_guard import Application, RequestGuard
from dgkit.errors import UsageError
from dgkit.optional import require

GRACE_SECONDS = 2  # for open connections at the end


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; 0 is any free port.

    Raises UsageError if the port is in use or not allowed, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host} is not a host name or address", "use --host 127.0.0.1") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} of {host} is in use", "use --port 0 for any free port") from error
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}", "use --host 127.0.0.1 --port 7860"
        ) from error
    return listening


def is_local(host: str) -> bool:
    """Return whether only this machine reaches an address such as 127.0.0.1, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def application(page: Page, gradio: Any, local: bool) -> Application:
    """Return the page as an ASGI application behind its guard."""
    blocks = build(page, gradio)
    blocks.has_launched = True  # a mounted page is not checked for files outside Gradio's folder otherwise
    inner = gradio.mount_gradio_app(
        require("fastapi", "app").FastAPI(openapi_url=None), blocks, path="", ssr_mode=False, footer_links=[],
        run_history=False, mcp_server=False, pwa=False, enable_monitoring=False, show_error=False, **style(gradio),
    )  # fmt: skip
    return RequestGuard(inner, local)


def serve(app: Application, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM, which is then raised as KeyboardInterrupt."""
    uvicorn = require("uvicorn", "app")
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=GRACE_SECONDS, ws="none")
    uvicorn.Server(config).run(sockets=[listening])
