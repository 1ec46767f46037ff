"""Every error dgkit raises on purpose.

    DgkitError                    exit 1
    ├── UsageError                exit 2   the command or the call is wrong
    ├── InputError                exit 1   a file or folder of the user is wrong
    │   ├── LabelError                     a label map
    │   └── ModelError                     a model folder or its weights
    ├── OutputError               exit 1   the output folder cannot be used
    ├── EngineError               exit 1   a runner cannot be built, opened or run
    └── MissingDependency         exit 1   an optional package is absent

A message says what came and what is allowed; ``hint`` says what to type next. The command line prints each on one
line, without a traceback.
"""


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


class OutputError(DgkitError):
    """The output folder cannot be used."""


class EngineError(DgkitError):
    """A runner cannot be built, opened or run."""


class MissingDependency(DgkitError):
    """An optional package is not installed."""
