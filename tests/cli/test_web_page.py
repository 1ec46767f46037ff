"""``dgkit app`` on the command line; tests/app/test_page.py has the page itself."""

import socket
import subprocess
import sys

import pytest

from dgkit.cli.app import main
from dgkit.optional import install_command, require
from tests.conftest import ROOT


def test_without_gradio_the_command_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 1
    said = capsys.readouterr().err
    assert "extra 'app'" in said and f"hint: {install_command('app')}" in said and "Traceback" not in said


def test_a_port_in_use_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dgkit.app.page.require", lambda module, extra: require("json", extra))
    monkeypatch.setattr("dgkit.cli.web_page._open", lambda *values: pytest.fail("the model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 2
    assert (
        capsys.readouterr().err == f"error: port {port} of 127.0.0.1 is in use\nhint: use --port 0 for any free port\n"
    )


def test_another_host_is_warned_about(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dgkit.app.page.require", lambda module, extra: require("json", extra))
    monkeypatch.setattr("dgkit.cli.web_page._open", stop)
    assert main(["app", "--host", "0.0.0.0", "--port", "0"]) == 130
    assert "warning: everyone who reaches 0.0.0.0 can use this page" in capsys.readouterr().err
    assert main(["app", "--port", "0"]) == 130
    assert "warning" not in capsys.readouterr().err


def test_help_does_not_load_gradio() -> None:
    code = "import sys; from dgkit.cli.app import main; main(['app', '--help']); print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "False" and "--host" in done.stdout
