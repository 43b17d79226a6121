"""Standard output and error of a command: what can't be written there never stops the work."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO


class Patient:
    """A stream that drops what it can't write, and keeps the error.

    A picture that is under way is worth more than the words about it: the disk may be full, the reader of a pipe gone,
    the stream closed. Characters that the stream's encoding lacks become `?`.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = io.StringIO() if stream is None else stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        """Write a text, to its reader at once where a line ends."""
        if self.error is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                return self.write(text.encode(error.encoding, "replace").decode(error.encoding))
            except (OSError, ValueError) as error:
                self._give_up(error)
            if "\n" in text:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Pass on what is kept back."""
        if self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.error = error
        with contextlib.suppress(OSError, ValueError):  # a stream without a file has none to replace
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # Python writes the rest when it ends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def patient_streams() -> Iterator[Patient]:
    """Make both streams patient for the length of a block; gives standard output."""
    out, err = Patient(sys.stdout), Patient(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out


def note(text: str) -> None:
    """A line about what was assumed, passed over or replaced."""
    print(f"note: {text}", file=sys.stderr)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show a warning (words of a prompt that were cut) as one line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: note(str(message))
        yield
