r"""What a prompt says beside its words, as the web interface AUTOMATIC1111 reads it (release 1.10).

| written | read |
|---|---|
| `(red)`, `((red))` | weight 1.1, 1.21: the tokens' rows of the context are multiplied by it |
| `[red]` | weight 1/1.1 |
| `(red:1.3)` | weight 1.3; weights of brackets in brackets multiply |
| `\(`, `\)`, `\[`, `\]`, `\\` | the character |
| `BREAK` | the words behind it begin a new chunk of tokens (`chunks`) |
| `[from:to:step]`, `[a\|b]` | the prompt changes over the steps (`schedules`) |
| `fox AND owl :0.5` | several prompts, each predicted alone, with weights |
| `<lora:name:0.8>` | an adapter, which is no word |

They are read in this order: adapters are taken out, `AND` parts the rest into prompts, each of which is a schedule, and
each text of that is cut into parts of one weight. A negative prompt has neither adapters nor `AND`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tinyldm.text.schedules import schedule

STRONGER, WEAKER = 1.1, 1 / 1.1
TAG = re.compile(r"<(\w+):([^>]+)>")
AND = re.compile(r"\bAND\b")
WHOLE_WEIGHT = re.compile(r"\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*\Z")
BREAK_WORD = re.compile(r"\s*\bBREAK\b\s*")
PIECE = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)"
    r"|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)"
    r"|(?P<bracket>[()\[\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)


class Tag(NamedTuple):
    """`<kind:argument:argument…>`."""

    kind: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """As it is written."""
        return f"<{':'.join((self.kind, *self.arguments))}>"


class Part(NamedTuple):
    """A piece of a text whose tokens have one weight."""

    text: str
    weight: float


BREAK = Part("BREAK", -1.0)  # a weight that is put on it makes a word of it, there and here


class SubPrompt(NamedTuple):
    """One of the prompts that `AND` joins: its weight, and what it is over the steps (`schedules.schedule`)."""

    weight: float
    stretches: tuple[tuple[int, str], ...]


class Prompt(NamedTuple):
    """A prompt read: as it is written, and the prompts that it joins."""

    written: str
    joined: tuple[SubPrompt, ...]

    @property
    def plain(self) -> bool:
        """Whether it has words only, each of weight 1."""
        text, words = self.written.rstrip(), self.joined[0].stretches[0][1].rstrip()
        return len(self.joined) == 1 and text == words and read_weights(text) == [Part(text, 1.0)]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts without any syntax, one for each stretch of each prompt that it joins."""
        stretches = [text for joined in self.joined for _, text in joined.stretches]
        return tuple(" ".join(part.text for part in read_weights(text) if part != BREAK) for text in stretches)


def read_prompt(text: str, steps: int, negative: bool = False) -> Prompt:
    """A prompt for a run of so many steps (calls of the model)."""
    if negative:
        return Prompt(text, (SubPrompt(1.0, tuple(schedule(text, steps))),))
    words, _ = split_tags(text)
    return Prompt(text, tuple(SubPrompt(weight, tuple(schedule(part, steps))) for part, weight in split_and(words)))


def split_tags(text: str) -> tuple[str, list[Tag]]:
    """A prompt without its `<kind:arguments>`, and those."""
    tags = [Tag(kind, tuple(arguments.split(":"))) for kind, arguments in TAG.findall(text)]
    return TAG.sub("", text), tags


def split_and(text: str) -> Iterator[tuple[str, float]]:
    """The prompts that `AND` joins, each with the weight behind its last colon, or 1.

    Source: Liu et al. 2022, arXiv:2206.01714 (composable diffusion).
    """
    for part in AND.split(text):
        weight = WHOLE_WEIGHT.search(part)
        yield (part[: weight.start()], float(weight[1])) if weight else (part.rstrip(), 1.0)


def read_weights(text: str) -> list[Part]:
    """The parts of a text with their weights; neighbours of one weight are one part, and there is at least one.

    A bracket that nothing closes reaches to the end; one that closes nothing is a character.
    """
    found: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # of each bracket that is open, the first part in it

    def weigh(first: int, weight: float) -> None:
        for k in range(first, len(weights)):
            weights[k] *= weight

    def put(text: str, weight: float = 1.0) -> None:
        found.append(text)
        weights.append(weight)

    for piece in PIECE.finditer(text):
        if piece["bracket"] in opened:
            opened[piece["bracket"]].append(len(found))
        elif piece["weight"] and opened["("]:
            weigh(opened["("].pop(), float(piece["weight"]))
        elif piece["bracket"] == ")" and opened["("]:
            weigh(opened["("].pop(), STRONGER)
        elif piece["bracket"] == "]" and opened["["]:
            weigh(opened["["].pop(), WEAKER)
        elif piece["escaped"] is not None:  # nothing, for a \ before any other character
            put(piece["escaped"])
        else:
            words, *broken = BREAK_WORD.split(piece[0])
            put(words)
            for words in broken:
                put(*BREAK)
                put(words)
    for bracket, weight in (("(", STRONGER), ("[", WEAKER)):
        for first in opened[bracket]:
            weigh(first, weight)
    return merged([Part(*part) for part in zip(found, weights, strict=True)])


def merged(parts: list[Part]) -> list[Part]:
    """Parts with neighbours of one weight in one; of none, an empty one."""
    whole = parts[:1] or [Part("", 1.0)]
    for part in parts[1:]:
        if part.weight == whole[-1].weight:
            whole[-1] = Part(whole[-1].text + part.text, part.weight)
        else:
            whole.append(part)
    return whole
