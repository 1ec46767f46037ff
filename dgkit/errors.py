"""Every error dgkit raises on purpose.

    DgkitError                    exit 1
    ├── UsageError                exit 2   the command or the call is wrong
    ├── InputError                exit 1   a file or folder of the user is wrong
    │   ├── LabelError                     a label map
    │   └── ModelError                     a model folder or its weights
    ├── OutputError               exit 1   the output folder cannot be used
    ├── EngineError               exit 1   a runner cannot be built, opened or run
    │   └── OutOfMemory                    the device has too little memory for a call
    └── MissingDependency         exit 1   an optional package is absent

A message says what came and what is allowed; ``hint`` says what to type next. The command line prints each on one
line, without a traceback. :func:`shown` and :func:`one_line` bound what a message quotes.
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class DgkitError(Exception):
    """Base of all errors raised on purpose; ``hint`` is the next thing to type, or an empty string."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DgkitError):
    """The command or the call itself is wrong."""

    exit_code = 2


class InputError(DgkitError):
    """A file or folder given by the user cannot be used."""


class LabelError(InputError):
    """A label map cannot be used."""


class ModelError(InputError):
    """A model folder or its weights cannot be used."""

    def __init__(self, message: str, hint: str = "copy or download the model again, or use another --model") -> None:
        super().__init__(message, hint)


class OutputError(DgkitError):
    """The output folder cannot be used."""


class EngineError(DgkitError):
    """A runner cannot be built, opened or run."""


class OutOfMemory(EngineError):
    """A call of a network needs more memory than the device has free."""


class MissingDependency(DgkitError):
    """An optional package is not installed."""


class _Short(reprlib.Repr):
    """Representations of bounded size, whatever the size of the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 8
        self.maxstring = self.maxother = 120

    def repr_int(self, value: int, level: int) -> str:
        """Return the digits of a number, or its size where Python refuses to print it."""
        try:
            return super().repr_int(value, level)
        except ValueError:
            return f"<integer of {value.bit_length()} bits>"


_SHORT = _Short()


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the hint for an unknown name: the known name that is spelled most like it, or ``otherwise``."""
    close = difflib.get_close_matches(str(name)[:100], list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise


def shown(value: Any, most: int = 300) -> str:
    """Return the representation of any value for a message: one line of at most ``most`` characters."""
    return one_line(_SHORT.repr(value), most)


def one_line(text: str, most: int = 300) -> str:
    """Return a text for a message: blanks and line breaks joined, unprintable characters escaped, cut to ``most``."""
    kept = text if len(text) <= 2 * most else f"{text[:most]}{text[-most:]}"
    kept = " ".join(kept.split())
    kept = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in kept)
    half = (most - 3) // 2
    return kept if len(kept) <= most else f"{kept[:half]}...{kept[-half:]}"
