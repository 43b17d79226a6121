"""`python -m tinyldm` is the command `tinyldm`; the installed script begins here, too."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process; until it listens to Ctrl-C itself, nothing has begun."""
    signal.signal(signal.SIGINT, leave)
    open_streams()
    from tinyldm.cli import main as command_line

    status = command_line()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done: a late Ctrl-C finds nothing to interrupt
    if status > 128:
        # After an interrupt that has left an `exec` or `eval` (as every namedtuple has), Python would kill itself.
        os._exit(status)
    sys.exit(status)


def leave(number: int, _: object) -> NoReturn:
    """End at once with one line: an exception could be lost in an import."""
    try:
        os.write(2, b"\ntinyldm: interrupted; nothing was written\n")
    finally:  # standard error may be closed or full
        os._exit(128 + number)


def open_streams() -> None:
    """Where a standard stream is closed, let its number lead nowhere: the next file opened would take it."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)


if __name__ == "__main__":
    main()
