"""The columns that a row may have: the settings of a request, and the values that each takes, of text or of JSON."""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from PIL import Image

from tinyldm.errors import InputError, quoted
from tinyldm.pipelines.request import Request

OF_A_PICTURE = ("prompt", "negative_prompt", "seed")  # may differ in pictures that are walked together
NOT_SAID = ("one_stream",)  # is about several pictures of one call
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
PICTURE = Image.Image  # the kind of a column that names a file


@functools.cache
def columns() -> dict[str, Any]:
    """What each column takes: `str`, `int`, `float`, `bool`, `dict`, or `PICTURE`: the fields of `Request` that do."""
    hints = typing.get_type_hints(Request)
    kinds = {field.name: kind_of(hints[field.name]) for field in fields(Request) if field.name not in NOT_SAID}
    own = {"prompt": str, "negative_prompt": str, "seed": int}
    return own | {name: kind for name, kind in kinds.items() if kind is not None}


def kind_of(hint: Any) -> Any:
    """What a field of this type takes from a row; None where only a program can give it."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices = typing.get_args(hint) if union else (hint,)
    for kind in (PICTURE, bool, int, float, str):
        if kind in choices:
            return kind
    return dict if any(typing.get_origin(choice) is Mapping for choice in choices) else None


def column_of(name: str, where: str) -> str:
    """The column that a heading names: `Negative prompt`, `negative-prompt`. Raises `InputError` for an unknown one."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    plain = "seed" if plain == "seeds" else plain
    if plain in columns():
        return plain
    close = difflib.get_close_matches(plain, columns(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(columns())}"
    raise InputError(f"{where}: unknown column {quoted(name)}; {hint}")


def values_of(column: str, value: Any, where: str) -> Sequence[Any]:
    """The values that a cell or an option gives a column: one, several that make a product, or none for an empty one.

    A text may be a list with commas, and of whole numbers a range `0:8`, without its end; that of a prompt, a file or
    an object is one value, as it is. Raises `InputError` for what the column does not take.
    """
    kind = columns()[column]
    if value is None or value == "":
        return []
    if isinstance(value, list):
        if not value:
            raise InputError(f"{where}: {column}: the list is empty")
        return [one for item in value for one in values_of(column, item, where)]
    if not isinstance(value, str):
        return [typed(kind, column, value, where)]
    if kind in (PICTURE, dict) or "prompt" in column:
        return [from_text(kind, column, value, where)]
    if kind is int and ":" in value:
        return span(column, value, where)
    return [from_text(kind, column, item.strip(), where) for item in value.split(",")]


def span(column: str, text: str, where: str) -> range:
    """The whole numbers of `0:8` or `0:100:10`, the end left out."""
    try:
        found = range(*(int(part) for part in text.split(":")))
    except (ValueError, TypeError):
        found = range(0)
    if not found:
        raise InputError(f"{where}: {column}: wanted a range such as 0:8, with at least one number, not {quoted(text)}")
    return found


def from_text(kind: Any, column: str, text: str, where: str) -> Any:
    """The value of a text."""
    readers: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: as_word, dict: json.loads}
    try:
        return typed(kind, column, readers.get(kind, str)(text), where)
    except (ValueError, KeyError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise refusal(kind, column, text, where) from None


def as_word(text: str) -> bool:
    """The truth of a word."""
    return WORDS[text.lower()]


def typed(kind: Any, column: str, value: Any, where: str) -> Any:
    """A value of JSON, if the column takes its type: a whole number is a number, true is none."""
    takes: Any = {int: int, float: (int, float), bool: bool, dict: dict}.get(kind, str)
    if not isinstance(value, takes) or (isinstance(value, bool) and kind is not bool):
        raise refusal(kind, column, value, where)
    if kind is float and not math.isfinite(value):
        raise refusal(kind, column, value, where)
    return float(value) if kind is float else value


def refusal(kind: Any, column: str, value: Any, where: str) -> InputError:
    """What is wrong with a value, and what would be right."""
    wanted = {int: "a whole number", float: "a finite number", bool: "true or false", dict: "an object of JSON"}
    return InputError(f"{where}: {column}: wanted {wanted.get(kind, 'a text')}, not {quoted(value)}")
