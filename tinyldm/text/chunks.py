"""A prompt of any length as chunks of as many tokens as the text encoder reads, each token with its weight.

The text encoder reads 77 tokens at once, start and end included. A longer prompt is cut into chunks of 75, each is
encoded alone, and their contexts stand one behind the other. `BREAK` begins a new chunk. A chunk that is full ends
behind its last comma where that is at most 20 tokens back, so that what belongs together stays together.

The rules are those of the web interface AUTOMATIC1111 (release 1.10). A text encoder of fewer places, as the embedded
checkpoint's of 16, has shorter chunks (14), and looks back for a comma over the same part of them (3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tinyldm.errors import InputError
from tinyldm.text.clip_tokenizer import END_OF_WORD, Tokenizer
from tinyldm.text.prompt_syntax import BREAK, Part

COMMA = "," + END_OF_WORD
CLIP_CHUNK, CLIP_BACK = 75, 20  # tokens of a chunk, and how far back it looks for a comma


class Chunk(NamedTuple):
    """What the text encoder reads at once: ids with start, end and padding, and the weight of each; both (L,)."""

    ids: list[int]
    weights: list[float]


def chunked(parts: Sequence[Part], tokenizer: Tokenizer) -> list[Chunk]:
    """The chunks of a text that is cut into parts of one weight (`prompt_syntax.read_weights`); one at least.

    Every part is cut into tokens alone. Raises `InputError` for a weight that is no finite number.
    """
    chunker = Chunker(tokenizer)
    for part in parts:
        if not math.isfinite(part.weight):
            raise InputError(f"prompt: the weight of {part.text!r} is {part.weight}; wanted a finite number")
        if part == BREAK:
            chunker.end()
        else:
            for unit in units(part.text, tokenizer):
                chunker.put(unit, part.weight)
    if chunker.ids or not chunker.chunks:
        chunker.end()
    return chunker.chunks


def empty_chunk(tokenizer: Tokenizer) -> Chunk:
    """The chunk of no words."""
    return chunked([], tokenizer)[0]


def units(text: str, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The ids of a text, token by token; a learned word of several tokens is not parted."""
    for word, pieces in tokenizer.words(text):
        ids = [tokenizer.vocab[piece] for piece in pieces]
        yield from [ids] if word in tokenizer.spelled else ([index] for index in ids)


class Chunker:
    """Fills chunks with tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.length = tokenizer.max_length - 2
        self.back = CLIP_BACK * self.length // CLIP_CHUNK
        self.comma = [tokenizer.vocab.get(COMMA)]
        self.chunks: list[Chunk] = []
        self.begin([], [])

    def begin(self, ids: list[int], weights: list[float]) -> None:
        """Begin a chunk with some tokens, none of which is a comma."""
        self.ids, self.weights = ids, weights
        self.behind_comma: int | None = None  # where the text behind the chunk's last comma begins

    def end(self) -> None:
        """End the chunk that is being filled: pad it, and put start and end around it."""
        t, missing = self.tokenizer, self.length - len(self.ids)
        ids = [t.bos_id, *self.ids, *[t.eos_id] * (missing + 1)]
        first = ids.index(t.eos_id) + 1
        padded = ids[:first] + [t.pad_id] * (len(ids) - first) if t.pad_id != t.eos_id else ids
        self.chunks.append(Chunk(padded, [1.0, *self.weights, *[1.0] * (missing + 1)]))
        self.begin([], [])

    def put(self, unit: list[int], weight: float) -> None:
        """Put tokens that may not be parted behind the others, in a new chunk where there is no room for them."""
        full, room = len(self.ids) == self.length, self.length - len(self.ids)
        if unit == self.comma:
            self.behind_comma = len(self.ids) + 1
        elif full and self.behind_comma is not None and len(self.ids) - self.behind_comma < self.back:
            rest = self.ids[self.behind_comma :], self.weights[self.behind_comma :]
            del self.ids[self.behind_comma :], self.weights[self.behind_comma :]
            self.end()
            self.begin(*rest)
            room = self.length - len(self.ids)
        if len(unit) > self.length:
            raise InputError(f"prompt: a learned word of {len(unit)} tokens is longer than a chunk of {self.length}")
        if len(unit) > room:
            self.end()
        self.ids += unit
        self.weights += [weight] * len(unit)
