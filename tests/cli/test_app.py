"""The ``dgkit`` command itself: start-up, help, exit codes."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dgkit
from dgkit.cli import app, common
from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.errors import DgkitError, OutputError, UsageError
from dgkit.generation.generate_config import GenerateConfig

URL = "s3://bucket/x"
ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffusers", "transformers", "cv2", "onnx", "onnxruntime", "numpy")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize("arguments", ["--help", "--version", "stats --help", "generate --help", "eval --help",
                                       "bench --help", "filter --help"])  # fmt: skip
def test_help_imports_nothing_heavy(arguments: str) -> None:
    """Help takes under half a second on any machine."""
    found = python(
        f"import sys; from dgkit.cli.app import main; code = main({arguments.split()!r});"
        f"print('CODE', code, 'HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert "CODE 0 HEAVY []" in found


def test_the_list_of_commands_does_not_load_their_config_classes() -> None:
    found = python("import sys; from dgkit.cli.app import main; main(['--help']); print('pydantic' in sys.modules)")
    assert found.splitlines()[-1] == "False"


def test_import_dgkit_imports_nothing_heavy() -> None:
    found = python(
        f"import sys, dgkit; dir(dgkit); print([name for name in {(*HEAVY, 'pydantic')!r} if name in sys.modules])"
    )
    assert found.strip() == "[]"


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "dgkit", "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"dgkit {dgkit.__version__}\n")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in app.app.registered_commands:
        assert command.name and command.name in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "Missing argument"),
        (["generat"], "No such command"),
        (["generate", "out", "--cuont", "3"], "No such option"),
        (["generate", "out", "--count", "three"], "--count"),
        (["stats", "--workers", "many"], "--workers"),
    ],
)
def test_a_wrong_command_line_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    error, hint = captured.err.splitlines()
    assert error.startswith("error: ") and message in error
    assert hint.startswith("hint: dgkit") and "--help" in hint
    assert captured.out == ""


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) in (0, 2)  # click 8.1 and 8.2 differ
    captured = capsys.readouterr()
    assert "generate" in captured.out + captured.err


@pytest.mark.parametrize(
    ("raised", "code", "lines"),
    [
        (UsageError("bad", "good"), 2, ["error: bad", "hint: good"]),
        (OutputError("a\nb", "c\n d"), 1, ["error: a b", "hint: c d"]),
        (DgkitError("alone"), 1, ["error: alone"]),
        (KeyboardInterrupt(), 130, ["error: stopped"]),
    ],
)
def test_errors_are_two_lines_and_an_exit_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int,
    lines: list[str],
) -> None:
    def command(**kwargs: object) -> None:
        raise raised

    monkeypatch.setattr(app, "app", command)
    assert main(["generate"]) == code
    assert capsys.readouterr().err.splitlines() == lines


def test_an_internal_error_is_reported_with_a_log_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def command(**kwargs: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(app, "app", command)
    assert main(["generate", "a b"]) == 70
    (log,) = (tmp_path / "errors").iterdir()
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: internal error in dgkit {dgkit.__version__}: ZeroDivisionError: a b"
    assert "please report" in hint and str(log) in hint
    text = log.read_text()
    assert "command: dgkit generate 'a b'" in text and "Traceback" in text and 'ZeroDivisionError("a\\nb")' in text


def test_a_log_file_is_written_elsewhere_if_the_cache_is_not_writable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def command(**kwargs: object) -> None:
        raise RecursionError

    (tmp_path / "file").touch()
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(app, "app", command)
    assert main(["generate"]) == 70
    (log,) = tmp_path.glob("*.log")
    assert str(log) in capsys.readouterr().err and "RecursionError" in log.read_text()


def test_out_of_memory_is_no_internal_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(**kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(app, "app", command)
    assert main(["generate"]) == 1
    assert capsys.readouterr().err.startswith("error: out of memory\nhint: ")


COMMANDS = ["engines list --json", "engines list", "stats --help", "--version"]


def in_shell(line: str) -> tuple[int, str]:
    """Exit code of the program on the left of a pipe, and what it said on stderr."""
    dgkit = f"{shlex.quote(sys.executable)} -m dgkit"
    script = line.replace("dgkit", dgkit, 1)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", COMMANDS)
def test_a_reader_that_closes_the_pipe(words: str) -> None:
    """``head`` may read nothing at all before it ends, so that the program's first byte fails."""
    code, said = in_shell(f"dgkit {words} | (exec <&-; sleep 0.1); exit ${{PIPESTATUS[0]}}")
    assert (code, said) == (141, "")


@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_standard_output(words: str) -> None:
    code, said = in_shell(f"dgkit {words} > /dev/full")
    assert code == 1
    error, _ = said.splitlines()
    assert error == "error: cannot write standard output: the disk is full"


def test_a_closed_standard_output(tmp_path: Path) -> None:
    code, said = in_shell("dgkit engines list --json >&-")
    assert code == 1 and said.splitlines()[0] == "error: cannot print the result: standard output is closed"
    assert in_shell("dgkit engines list >&-") == (0, "")
    assert in_shell("dgkit engines list --json >&- 2>&-")[0] == 1


def stop(*arguments: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("dgkit.generation.run.generate", ["generate", "out"], "run the same command again to resume out"),
        ("dgkit.outputs.packing.pack", ["pack", "out", "dest"], "run the same command again to resume dest"),
        ("dgkit.evaluation.benchmark.evaluate.evaluate", ["eval", "a.onnx", "--on", "a=b"], "again to resume eval"),
        ("dgkit.bench.benchmark.bench", ["bench", "--csv", "rows.csv"], "rows so far are in rows.csv"),
        ("dgkit.data.datasets.open_source", ["stats", "--labels", "x"], "error: stopped"),
    ],
)
def test_sigterm_ends_a_command_as_ctrl_c_does(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    target: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "dgkit.segmenters.opening.open_segmenter", lambda *arguments, **options: SimpleNamespace(notes=())
    )
    monkeypatch.setattr(target, stop)
    assert main(arguments) == 143
    assert message in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def path_arguments() -> list[list[str]]:
    """A command line for each argument and option of each command, with a URL as its value."""
    import typer.main

    found: list[list[str]] = []

    def visit(command: Any, words: list[str]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            visit(child, [*words, name])
        if words and not hasattr(command, "commands"):
            for parameter in command.get_params(command.make_context("x", [], resilient_parsing=True)):
                if parameter.param_type_name == "argument":
                    found.append([*words, URL])
                elif not parameter.is_flag and parameter.opts[0] not in {"--ray", "--note", "--set"}:
                    found.append([*words, parameter.opts[0], URL])

    visit(typer.main.get_command(app.app), [])
    return found


@pytest.mark.parametrize("url", [URL, "hf://me/ds", "file:///data/x", "HTTPS://host/x", "gta=gs://bucket/x"])
def test_urls_are_refused_in_every_path_argument(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = path_arguments()
    assert len(lines) > 150 and {line[0] for line in lines} >= {"generate", "pack", "eval", "train", "engines"}
    for line in lines:
        assert main([url if word == URL else word for word in line]) == 2
        error, hint = capsys.readouterr().err.splitlines()
        assert "is a URL" in error and url.removeprefix("gta=").lower() in error.lower() and hint, line
    assert not list(tmp_path.iterdir())
    assert main(["generate", "out", f"--labels={url}"]) == 2
    assert main(["generate", "out", "--set", f"dataset=gta={url.removeprefix('gta=')}"]) == 2
    assert main(["generate", "out", "--set", f"judge={url.removeprefix('gta=')}"]) == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "named"),
    [(["out", "--labels", ""], "--labels"), (["out", "--labels="], "--labels"), ([""], "an argument")],
)
def test_empty_arguments_are_not_the_current_folder(
    capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    assert main(["generate", *words]) == 2
    assert f"error: {named} is empty" in capsys.readouterr().err


def test_a_ray_address_is_no_path(tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["generate", "out", "--ray", "ray://host:1", "--ray=ray://host:1", "--set", "ray=ray://host:1"]
    assert common.check_paths(given) == given
    assert load_config(GenerateConfig, None, ["ray=ray://host:1"]).ray == "ray://host:1"


def test_a_quoted_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert common.check_paths(["~/a b", "~", "--note", "~/x", "x~/y"]) == [
        f"{tmp_path}/a b", str(tmp_path), "--note", "~/x", "x~/y",
    ]  # fmt: skip
    assert main(["world", "~/city", "--count", "1", "--height", "48", "--workers", "1"]) == 0
    assert (tmp_path / "city/labels/00001.png").is_file()


@pytest.mark.parametrize("path", ["x" * 400, "~nobody-here/x"])
@pytest.mark.parametrize(
    "command", ["generate out --model PATH", "generate out --jobs PATH", "report PATH", "verify PATH",
                "stats --labels PATH", "stats --labels PATH/*.png", "stats --dataset gta=PATH"],
)  # fmt: skip
def test_paths_that_cannot_exist_are_no_internal_errors(
    command: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.replace("PATH", path).split()) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"]
