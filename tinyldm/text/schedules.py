"""Prompts that change over the steps: `[from:to:step]`, `[to:step]`, `[from::step]`, and `[a|b]`, which takes turns.

`[cat:dog:5]` is `cat` up to step 5 and `dog` from there; a number with a point is a part of all steps (`0.5` the half).
`[cat|dog]` is one after the other, step by step. Brackets may stand within brackets. What stands in square brackets
without such a sign is left as it is, for `prompt_syntax.read_weights`.

The meaning is that of the web interface AUTOMATIC1111 (release 1.10), whose grammar this is:

    prompt    = (emphasised | scheduled | alternate | plain)*
    emphasised = "(" prompt ")" | "(" prompt ":" prompt ")" | "[" prompt "]"
    scheduled = "[" [prompt ":"] prompt ":" NUMBER "]"
    alternate = "[" prompt ("|" [prompt])+ "]"
    plain     = characters but ( ) [ ] : | and \\, or \\ with the one behind it

A bracket that belongs to none of these is a character, and so are all that it stands in; a `|` that does, or a `\\` at
the end, makes the whole prompt one without schedules. (Where several such characters stand in a row, the original may
take brackets around them as characters, too.) It is read from left to right, once, with a stack of the brackets that
are open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
CLOSING = {"(": ")", "[": "]"}
Texts = list[str]  # what a piece of a prompt is at every step, one after the other


@dataclass
class Bracket:
    """A bracket that is open: its character, what stands in it between its signs, those signs, where it begins."""

    opening: str
    start: int
    fields: list[Texts]
    signs: str = ""
    starts: list[int] = field(default_factory=list)  # of its fields


class NoSchedule(Exception):
    """The prompt is not of the grammar, so all of it is taken as it is written."""


def schedule(text: str, steps: int) -> list[tuple[int, str]]:
    """What a prompt is over a run: the last step of each stretch, counted from 1, and the text up to there.

    The texts of two stretches may be the same. A text that does not change has one stretch.
    """
    if "[" not in text:
        return [(steps, text)]
    try:
        texts, ends = Reading(text, steps).read()
    except NoSchedule:
        return [(steps, text)]
    return [(end, texts[end - 1]) for end in sorted(ends)]


class Reading:
    """One reading of a prompt from left to right."""

    def __init__(self, text: str, steps: int) -> None:
        self.text, self.steps = text, steps
        self.ends = {steps}
        self.open = [Bracket("", 0, [self.nothing()])]  # the first is the prompt itself

    def nothing(self) -> Texts:
        """No text, at every step."""
        return [""] * self.steps

    def read(self) -> tuple[Texts, set[int]]:
        """The prompt at every step, and the last steps of its stretches. Raises `NoSchedule`."""
        place = 0
        while place < len(self.text):
            token = TOKEN.match(self.text, place)
            if token is None:  # a \ at the end, or before a line's end
                raise NoSchedule
            place = token.end()
            self.take(token[0], place)
        self.give_up()
        return self.open[0].fields[0], self.ends

    def take(self, token: str, place: int) -> None:
        """Read a token, behind which the text goes on at `place`."""
        last = self.open[-1]
        if token in CLOSING:
            self.open.append(Bracket(token, place - 1, [self.nothing()], starts=[place]))
        elif token in (":", "|") and len(self.open) > 1:
            last.signs += token
            last.fields.append(self.nothing())
            last.starts.append(place)
        elif token == "|":
            raise NoSchedule
        elif token in CLOSING.values():
            closed = self.closed(last, place - 1) if CLOSING.get(last.opening) == token else None
            if closed is None:
                self.give_up()
                self.add([token] * self.steps)
            else:
                self.open.pop()
                self.add(closed)
        else:
            self.add([token] * self.steps)

    def add(self, texts: Texts) -> None:
        """Put a piece behind what has been read."""
        fields = self.open[-1].fields
        fields[-1] = [before + text for before, text in zip(fields[-1], texts, strict=True)]

    def give_up(self) -> None:
        """Take every bracket that is open, and the signs in it, as characters. Raises `NoSchedule`."""
        brackets = self.open[1:]
        del self.open[1:]
        for bracket in brackets:
            if "|" in bracket.signs:
                raise NoSchedule
            for sign, texts in zip(bracket.opening + bracket.signs, bracket.fields, strict=True):
                self.add([sign] * self.steps)
                self.add(texts)

    def closed(self, bracket: Bracket, stop: int) -> Texts | None:
        """What a bracket that ends at `stop` is at every step; None where it is none of the grammar's."""
        signs, fields = bracket.signs, bracket.fields
        if signs == "" or (signs == ":" and bracket.opening == "("):
            written = [f"{bracket.opening}{text}" for text in fields[0]]
            more = [f":{text}" for text in fields[1]] if signs else self.nothing()
            return [a + b + CLOSING[bracket.opening] for a, b in zip(written, more, strict=True)]
        if bracket.opening == "(":
            return None
        if set(signs) == {"|"}:
            self.ends.update(range(1, self.steps + 1))
            return [fields[k % len(fields)][k] for k in range(self.steps)]
        number = NUMBER.fullmatch(self.text, bracket.starts[-1], stop)
        if signs not in (":", "::") or number is None:
            return None
        last = self.last_step(number[1])
        before, after = fields[0] if signs == "::" else self.nothing(), fields[-2]
        return [*before[:last], *after[last:]]

    def last_step(self, number: str) -> int:
        """The last step, from 0, before a change at a number: one with a point is a part of all steps."""
        value = float(number) * self.steps if "." in number else float(number)
        last = int(min(max(value, 0.0), self.steps))
        self.ends.update({last} - {0})
        return last
