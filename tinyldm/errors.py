"""What goes wrong in words that a user can act on.

Every error that a user's input can cause is a `TinyldmError`: one line that says what was wrong, where, and what
would be right. The command line prints that line alone and exits with status 2; anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import re

LONG_WORD = re.compile(r"(\S{160})\S{200,}")  # a value out of a file that nobody will read to its end
MAX_MESSAGE = 1500
MAX_QUOTED = 120


class TinyldmError(Exception):
    """Base of all errors caused by input: a file, an argument, a configuration. Endless values are cut in its message.

    The original words stay in `args`.
    """

    def __str__(self) -> str:
        message = LONG_WORD.sub(r"\1…", super().__str__())
        return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "…"


class CheckpointError(TinyldmError):
    """A checkpoint file or folder is missing, truncated, malformed, or not of the architecture asked for."""


class ConfigError(TinyldmError):
    """A configuration field, or its value, is unknown or not supported."""


class Stopped(Exception):
    """A run was ended by who watched it: raised by a callback, passed on by the loop.

    No input is wrong, so it is not a `TinyldmError`: a command that ends with it exits as for Ctrl-C, with status 130.
    """


class InputError(TinyldmError, ValueError):
    """An argument is out of range, of the wrong shape or type, or does not fit the others."""


def quoted(text: object) -> str:
    """A name out of a file, fit for a one-line message: quoted, control characters escaped, cut when it is long."""
    try:
        shown = ascii(text[: MAX_QUOTED + 1] if isinstance(text, str) else text)
    except RecursionError:
        shown = f"a deeply nested {type(text).__name__}"
    return shown if len(shown) <= MAX_QUOTED else shown[:MAX_QUOTED] + "…"
