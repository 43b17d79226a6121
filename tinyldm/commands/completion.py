"""Print a script by which the shell completes commands and options.

example:
  tinyldm completion bash > ~/.local/share/bash-completion/completions/tinyldm
  tinyldm completion zsh > ~/.zfunc/_tinyldm      (a folder of $fpath)
  tinyldm completion tcsh >> ~/.tcshrc
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from tinyldm.errors import InputError

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("--model", "--vae", "--text-encoder", "--lora", "--word")  # options that take names of the hub, too


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise InputError("completion needs the package shtab: pip install 'tinyldm[shell]'") from None
    known = known_values()
    for action in actions(args.whole):
        if action.type is Path or any(option in FILES for option in action.option_strings):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        for option in action.option_strings:
            action.choices = known.get(option, action.choices)
    print(shtab.complete(args.whole, args.shell))


def known_values() -> dict[str, list[str]]:
    """The values of options that have a few."""
    from tinyldm.diffusion.samplers import SAMPLERS
    from tinyldm.diffusion.streams import GENERATORS
    from tinyldm.pipelines.pictures import FITS
    from tinyldm.runtime import BACKENDS, PRECISIONS

    known: dict[str, Iterable[str]] = {"--sampler": SAMPLERS, "--rng": GENERATORS, "--resize": FITS}
    known |= {"--backend": BACKENDS, "--precision": PRECISIONS, "--dtype": ("float32", "float64")}
    return {option: list(values) for option, values in known.items()}


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
