"""``-q`` and ``-v``: where they may stand, and what ``-v`` prints."""

import logging

import pytest

from dgkit.cli.app import main
from dgkit.cli.verbosity import NORMAL, VERBOSE, begin_command, command_line, is_quiet, set_verbosity


def test_flags_may_stand_anywhere_before_a_double_dash() -> None:
    given = ["generate", "-q", "out", "--verbose", "--", "-q"]
    assert begin_command(given) == ["-q", "--verbose", "generate", "out", "--", "-q"]
    assert command_line() == "dgkit generate -q out --verbose -- -q"


@pytest.mark.parametrize("arguments", [["-q", "doctor", "--help"], ["doctor", "--quiet", "--help"]])
def test_quiet_holds_for_one_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert is_quiet() and "doctor" in capsys.readouterr().out
    assert main(["doctor", "--help"]) == 0
    assert not is_quiet()


def test_verbose_prints_what_the_package_logs(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("dgkit.engines.store")
    log.info("nobody asked")
    set_verbosity(VERBOSE)
    set_verbosity(VERBOSE)
    log.info("building %s", "[x]")
    set_verbosity(NORMAL)
    log.info("nobody asked")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" building [x]") and line[:2] == "20"
