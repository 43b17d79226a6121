"""The command line: assembles the commands of `tinyldm/commands/`, and makes an exit status of how one ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from tinyldm.commands import (
    batch,
    bench,
    check_latent,
    completion,
    convert,
    cost,
    decode,
    doctor,
    edit,
    encode,
    explore,
    golden,
    img2img,
    info,
    inpaint,
    inspect,
    interpolate,
    interrupts,
    sample,
    upscale,
)
from tinyldm.commands import serve as serve_command
from tinyldm.commands import verify as verify_command
from tinyldm.commands.grammar import Command, Group, Parser, add_commands
from tinyldm.commands.streams import patient_streams, warnings_as_notes
from tinyldm.errors import Stopped, TinyldmError
from tinyldm.memory import check_address_space
from tinyldm.version import __version__

COMMANDS: Mapping[str, Command | Group] = {
    "sample": sample,
    "img2img": img2img,
    "inpaint": inpaint,
    "edit": edit,
    "interpolate": interpolate,
    "upscale": upscale,
    "batch": batch,
    "serve": serve_command,
    "explore": explore,
    "check-latent": check_latent,
    "encode": encode,
    "decode": decode,
    "info": info,
    "cost": cost,
    "bench": bench,
    "verify": verify_command,
    "inspect": inspect,
    "convert": convert,
    "golden": golden,
    "doctor": doctor,
    "completion": completion,
}
EPILOG = """`tinyldm COMMAND --help` shows a command's options and an example.

exit status:
  0    done
  1    done, and what was checked is not within its tolerance (verify, golden, check-latent), or rows failed (batch)
  2    bad input, or too little memory or disk: one line on standard error says what, and what would be right
  130  interrupted (Ctrl-C); 143 terminated; what was finished before is kept
  141  the program that reads the output closed it early; the work was done
"""


def parser() -> Parser:
    """The command line's grammar."""
    p = Parser(
        prog="tinyldm",
        description="Latent diffusion in NumPy: pictures from prompts on a CPU.",
        epilog=EPILOG,
    )
    p.add_argument("--version", action="version", version=f"tinyldm {__version__}")
    p.set_defaults(whole=p)  # for who describes all commands
    add_commands(p, COMMANDS)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    with interrupts.watched(), patient_streams() as output:
        try:
            status = outcome(argv)
        except SystemExit:  # of `--help`, and of words that the grammar refuses
            output.flush()
            if output.error is None:
                raise
            status = 0
        output.flush()
        if isinstance(output.error, BrokenPipeError):
            return status or 128 + 13
        if output.error is not None:
            return failed(f"standard output can't be written: {reason(output.error)}")
        return status


def outcome(argv: Sequence[str] | None) -> int:
    """Run a command line; returns the exit status of what it does."""
    args = argparse.Namespace(debug=False)
    try:
        args, unknown = parser().parse_known_args(argv)
        if unknown:
            args.parser.refuse(unknown)
        args.written = []
        check_address_space(backend_of(args))
        with warnings_as_notes():
            status: int = args.run(args) or 0
        interrupts.check()
        return status
    except BaseException as error:
        if args.debug or isinstance(error, SystemExit):
            raise
        if interrupts.arrived() or isinstance(error, (KeyboardInterrupt, Stopped)):
            interrupts.over()
            error.__traceback__ = None  # what its frames hold is closed now, a progress bar before the last line
            return interrupted(args)
        if isinstance(error, TinyldmError):
            return failed(str(error))
        if is_out_of_memory(error):
            hint = "; take fewer or smaller pictures, or --low-memory" if "low_memory" in args else ""
            return failed(f"not enough memory: {reason(error)}{hint}")
        raise


def backend_of(args: argparse.Namespace) -> str:
    """The backend that a command will import; one that computes nothing needs NumPy alone, as the reference does."""
    if "backend" not in args or getattr(args, "dtype", None) == "float64":
        return "reference"
    return args.backend or os.environ.get("TINYLDM_BACKEND") or "numba"


def failed(message: str) -> int:
    """Say what is wrong; the exit status of that."""
    print(f"tinyldm: error: {message}", file=sys.stderr)
    return 2


def interrupted(args: argparse.Namespace) -> int:
    """Say what an interrupted run has left; the exit status that shells give for the signal."""
    written = getattr(args, "written", None)
    kept = f"kept {', '.join(map(str, written))}" if written else "nothing was written"
    number = interrupts.arrived() or signal.SIGINT
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    print(f"\ntinyldm: {word}; {kept}", file=sys.stderr)
    return 128 + number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the system refused memory: to Python, to the loader of a library, to a mapped file, to a thread."""
    refusals = ("allocate memory", "failed to map segment", "can't start new thread")
    return isinstance(error, MemoryError) or any(refusal in str(error) for refusal in refusals)


def reason(error: BaseException) -> str:
    """An error in words, even where it has none."""
    return (getattr(error, "strerror", None) or str(error).strip() or "the system gave none").splitlines()[0]
