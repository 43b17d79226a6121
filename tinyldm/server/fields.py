"""Fields of a request that came over the network: each read as what it must be, and none passed over."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from tinyldm.errors import quoted
from tinyldm.server.refusals import Refusal

MOST_TEXT = 32_000  # characters of a prompt


def read_json(body: bytes) -> Fields:
    """The fields of a JSON object. Raises `Refusal` for anything else."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refusal(f"the body must be a JSON object of fields, not {type(given).__name__}")
    return Fields(given)


class Fields:
    """Fields by name. What is absent, null or an empty text is its default; a number may stand in a text, too.

    Each reader raises `Refusal` for a value of another kind; `end` for a field that nobody has asked for.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self._asked: set[str] = set()

    def get(self, name: str) -> Any:
        """The value of a field as it came; None where it is absent or an empty text."""
        self._asked.add(name)
        value = self.given.get(name)
        return None if isinstance(value, str) and not value.strip() else value

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise Refusal(f"{name} must be a text, not {quoted(value)}", name)
        if len(value) > MOST_TEXT:
            raise Refusal(f"{name} has {len(value):,} characters; it may have {MOST_TEXT:,}", name)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise Refusal(f"{name} is no valid text: it has half a character", name)
        return value

    def choice(self, name: str, default: str, known: Collection[str]) -> str:
        """One of a few words."""
        word = self.text(name, default)
        if word not in known:
            raise Refusal(f"{name} must be one of {', '.join(known)}, not {word!r}", name)
        return word

    def number(self, name: str, default: float | None = None) -> float | None:
        """A finite number."""
        value = self.get(name)
        if value is None:
            return default
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise Refusal(f"{name} must be a number, not {quoted(value)}", name)
        return number

    def integer(self, name: str, least: int | None = None, most: int | None = None) -> int | None:
        """A whole number, within bounds."""
        value = self.get(name)
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, bool) else value if isinstance(value, int) else float(value)
            if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
                number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or number != int(number):
            raise Refusal(f"{name} must be a whole number, not {quoted(value)}", name)
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = f"{least} or more" if most is None else f"from {least} to {most}"
            raise Refusal(f"{name} must be {bounds}, not {quoted(value)}", name)
        return int(number)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(name)
        if value is None:
            return default
        known = {"true": True, "false": False, "1": True, "0": False}
        answer = known.get(str(value).lower())
        if answer is None:
            raise Refusal(f"{name} must be true or false, not {quoted(value)}", name)
        return answer

    def only(self, name: str, *accepted: Any) -> None:
        """Pass over a field that has no part here: absent or empty, or one of the values that change nothing.

        Raises `Refusal` for another value.
        """
        value = self.get(name)
        if value is None or value in ([], {}) or value in accepted:
            return
        usual = f"leave it out, or take {json.dumps(accepted[0])}" if accepted else "leave it out"
        raise Refusal(f"{name} {quoted(value)} is not supported; {usual}", name)

    def without_part(self, table: Mapping[tuple[str, ...], tuple[Any, ...]]) -> None:
        """Pass over fields that have no part here (`only`), listed with the values that change nothing."""
        for names, accepted in table.items():
            for name in names:
                self.only(name, *accepted)

    def ignore(self, *names: str) -> None:
        """Pass over fields that change no picture, whatever they say."""
        self._asked.update(names)

    def end(self) -> None:
        """Raise `Refusal` for a field that is not known here, with the nearest that is."""
        for name in self.given:
            if name not in self._asked:
                near = difflib.get_close_matches(name, self._asked, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise Refusal(f"field {quoted(name)} is unknown{hint}", name if len(name) < 80 else None)
