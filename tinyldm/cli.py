"""Latent diffusion in NumPy: pictures from prompts on a CPU.

`tinyldm COMMAND --help` shows a command's options and an example.

exit status:
  0    done
  1    done, and what was checked is not within its tolerance (verify, golden, check-latent), or rows failed (batch)
  2    bad input, or too little memory or disk: one line on standard error says what, and what would be right
  130  interrupted (Ctrl-C); 143 terminated; what was finished before is kept
  141  the program that reads the output closed it early; the work was done
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

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
    serve,
    upscale,
    verify,
)
from tinyldm.commands.grammar import Parser, add_commands, by_name, help_of
from tinyldm.commands.streams import patient_streams, warnings_as_notes
from tinyldm.errors import Stopped, TinyldmError
from tinyldm.memory import check_address_space
from tinyldm.version import __version__

PICTURES = (sample, img2img, inpaint, edit, interpolate, upscale, batch, serve, explore)
LATENTS = (check_latent, encode, decode)
CHECKPOINTS = (info, cost, bench, verify, inspect, convert)
COMMANDS = by_name(*PICTURES, *LATENTS, *CHECKPOINTS, golden, doctor, completion)


def parser() -> Parser:
    """The command line's grammar, assembled of the commands; this module's docstring is its help, as theirs are."""
    description, epilog = help_of(__doc__)
    p = Parser(prog="tinyldm", description=description, epilog=epilog)
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
