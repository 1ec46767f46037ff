"""Runs a command line of dgkit and reports on stderr whatever it connects to outside this machine.

``python -m tests.app.watched ARGUMENTS``; such connections fail.
"""

from __future__ import annotations

import sys
from typing import Any

from dgkit.cli.app import main

_LOCAL = ("127.0.0.1", "localhost", "::1", None, "")


def watch(event: str, values: tuple[Any, ...]) -> None:
    """The audit hook."""
    host: Any = None
    if event == "socket.connect" and isinstance(values[1], tuple):
        host = values[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = values[0]
    if host not in _LOCAL:
        print(f"CONNECTED {host}", file=sys.stderr, flush=True)
        raise OSError("no network in this test")


if __name__ == "__main__":
    sys.addaudithook(watch)
    sys.exit(main(sys.argv[1:]))
