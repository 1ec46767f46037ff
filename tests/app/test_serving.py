"""The address of the page."""

import socket

import pytest

from dgkit.app.serving import bind, is_local
from dgkit.errors import UsageError


def test_a_port_in_use_is_one_line() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=f"^port {port} of 127.0.0.1 is in use$") as caught:
            bind("127.0.0.1", port)
        assert caught.value.hint == "use --port 0 for any free port"


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "a" * 100])
def test_addresses_of_other_machines_are_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo

    def numeric(name: str, port: int, **options: int) -> object:
        return found(name, port, **{**options, "flags": socket.AI_NUMERICHOST})  # asks no name server

    monkeypatch.setattr(socket, "getaddrinfo", numeric)
    with pytest.raises(UsageError, match=r"host|listen") as caught:
        bind(host, 0)
    assert "--host 127.0.0.1" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_local_addresses(host: str, local: bool) -> None:
    assert is_local(host) == local
