"""The source of a function that computed something: where it stands, and its text as it is."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]  # what lies above the package


@dataclass(frozen=True)
class Source:
    """A function by the name that it is imported by, its file and first line, and its text."""

    name: str
    file: str
    line: int
    text: str


def source_of(function: Callable[..., Any]) -> Source:
    """The source of a function or a method, behind its decorators."""
    plain = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(plain)
    file = Path(inspect.getsourcefile(plain) or "").resolve().relative_to(ROOT)
    return Source(f"{plain.__module__}.{plain.__qualname__}", file.as_posix(), first, textwrap.dedent("".join(lines)))
