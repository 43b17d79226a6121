"""What a command is, and how the command line takes one: its help with an example, its answer to a misspelt word."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable


class Command(Protocol):
    """What the module of a command has. Its docstring is its help: a sentence, and behind an empty line examples."""

    __name__: str
    __doc__: str | None

    def add_arguments(self, p: argparse.ArgumentParser) -> None:
        """Add its arguments to its parser."""

    def run(self, args: argparse.Namespace) -> int | None:
        """Do it; the exit status, where that is not 0."""


@runtime_checkable
class Group(Protocol):
    """What the module of a command that has commands of its own has."""

    __name__: str
    __doc__: str | None
    COMMANDS: Mapping[str, Command | Group]


def by_name(*modules: Command | Group) -> Mapping[str, Command | Group]:
    """Commands by the words that they are called by: the names of their modules."""
    return {module.__name__.rpartition(".")[2].replace("_", "-"): module for module in modules}


def help_of(docstring: str | None) -> tuple[str, str]:
    """What a docstring that is a help says first, and what stands below the options; nothing where Python drops it."""
    description, _, more = (docstring or "").partition("\n\n")
    return description, more


class Parser(argparse.ArgumentParser):
    """A parser that keeps the line breaks of examples, and names the nearest word that it knows."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs})

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"unknown: {value!r}; {nearest(str(value), action.choices)}")

    def refuse(self, words: list[str]) -> None:
        """End with the usage of this command and what is wrong with the first of the words that it does not take."""
        option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if option is None:
            self.error(f"unexpected: {words[0]!r}; a text of several words needs quotes, and texts stand side by side")
        self.error(f"unknown option {option}; {nearest(option, self._option_string_actions)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?`, or where nothing is near, all that is known."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"


def add_commands(p: argparse.ArgumentParser, commands: Mapping[str, Command | Group]) -> None:
    """Give a parser commands of its own."""
    parsers = p.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, command in commands.items():
        description, examples = help_of(command.__doc__)
        summary = description[:1].lower() + description[1:].removesuffix(".")
        own = parsers.add_parser(name, help=summary, description=description, epilog=examples)
        if isinstance(command, Group):
            add_commands(own, command.COMMANDS)
            continue
        own.set_defaults(run=command.run, parser=own)
        command.add_arguments(own)
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
