"""The way of a picture: the files and functions that a prompt passes through until it is a picture, in order.

    python docs/reading_path.py            # prints the page
    python docs/reading_path.py --write    # writes it: docs/the-way-of-a-picture.md

Two steps of DDIM with the embedded checkpoint on the reference backend, watched by `sys.settrace`: every function with
a name (no lambdas, no comprehensions) in the order of its first call, with the file and the lines where it stands.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import tinyldm

PACKAGE = Path(tinyldm.__file__).resolve().parent
PAGE = Path(__file__).with_name("the-way-of-a-picture.md")


class Stop(NamedTuple):
    """A function on the way: its file in the package, its name, its first and its last line."""

    file: str
    name: str
    first: int
    last: int


def watched(run: Callable[[], Any]) -> list[Stop]:
    """The functions of the package that a call passes through, in the order of their first call."""
    seen: dict[tuple[str, str, int], None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and not code.co_name.startswith("<") and code.co_filename.startswith(str(PACKAGE)):
            seen.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno))

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return [stop_of(Path(file), name, line) for file, name, line in seen]


def stop_of(file: Path, name: str, line: int) -> Stop:
    """Where a function stands; `line` is that of its first decorator."""
    last = next(
        node.end_lineno or line
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and line == min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    )
    return Stop(file.relative_to(PACKAGE.parent).as_posix(), name.replace("<locals>.", ""), line, last)


def measure(stops: list[Stop]) -> tuple[int, int]:
    """How many files and how many functions."""
    return len({stop.file for stop in stops}), len(stops)


def table(stops: list[Stop]) -> list[str]:
    """The stops by file, in the order in which the way comes to a file for the first time."""
    lines = ["| file | functions, in the order of their first call, with their lines |", "|---|---|"]
    for file in dict.fromkeys(stop.file for stop in stops):
        here = [f"`{s.name}` {s.first}–{s.last}" for s in stops if s.file == file]
        lines.append(f"| `{file}` | {', '.join(here)} |")
    return lines


def page() -> str:
    """The page."""
    load, models = tinyldm.load, list[Any]()  # what is imported by that is not on the way
    loading = watched(lambda: models.append(load(backend="reference")))
    walking = watched(lambda: models[0].text_to_image("red apple", steps=2, sampler="ddim"))
    (load_files, load_functions), (files, functions) = measure(loading), measure(walking)
    lines = [
        "# The way of a picture",
        "",
        "What a prompt passes through until it is a picture, as `python docs/reading_path.py` saw it: two steps of",
        "DDIM with the embedded checkpoint, on the reference backend. Whoever reads these functions in this order has",
        "read all that made the picture.",
        "",
        f"## From the prompt to the picture: {files} files, {functions} functions",
        "",
        *table(walking),
        "",
        f"## Before it, loading the checkpoint: {load_files} files, {load_functions} functions",
        "",
        *table(loading),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())


if __name__ == "__main__":
    main()
