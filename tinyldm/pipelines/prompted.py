"""The condition of prompts with syntax: weights, chunks, schedules, `AND`; and of a text encoder read at another layer.

`walk.condition_of` comes here only where a request asks for it. A prompt of words alone that fits goes the plain way
from here, so that its picture is the same under every syntax.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyldm.pipelines.composed import Composed, Joined, Row, Stretches, stacked
from tinyldm.pipelines.conditioners import Conditioning, TextConditioner, TextReader
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.prompt_checks import length_of_run
from tinyldm.pipelines.request import Request
from tinyldm.text.chunks import Chunk, chunked, empty_chunk
from tinyldm.text.prompt_syntax import Prompt, SubPrompt, read_prompt, read_weights
from tinyldm.typing import Array, Integers


def encode(parts: Parts, request: Request, group: range) -> Conditioning:
    """The condition of a group's pictures, whose prompts may have syntax."""
    conditioner, scale = parts.conditioner, request.guidance_scale or 0.0
    prompts, negatives = [request.prompts[k] or "" for k in group], [request.negative_prompts[k] for k in group]
    size = (request.height or 0, request.width or 0)
    if not isinstance(conditioner, TextConditioner) or not conditioner.readers():
        return conditioner.encode(prompts, negatives, scale, size)
    texts = TextEncoding(conditioner, request, length_of_run(request.begun(parts)[0], request.steps or 0))
    if all(texts.is_plain(p, False) for p in prompts) and all(texts.is_plain(n, True) for n in negatives):
        return conditioner.encode(prompts, negatives, scale, size)
    guided = conditioner.guided(scale)
    joined = [
        Joined(texts.joined(negative, True)[0][1] if guided else None, texts.joined(prompt, False))
        for prompt, negative in zip(prompts, negatives, strict=True)
    ]
    return fixed(joined, guided) or Conditioning(guided=guided, composed=Composed(tuple(joined)))


def fixed(pictures: Sequence[Joined], guided: bool) -> Conditioning | None:
    """The condition of prompts that stay as they are, all of one length; None where one changes or joins several."""
    if any([weight for weight, _ in joined.prompts] != [1.0] for joined in pictures):
        return None
    halves = [*([joined.negative for joined in pictures] if guided else []), *(j.prompts[0][1] for j in pictures)]
    rows = [stretches.rows[0] for stretches in halves if stretches is not None and len(stretches.rows) == 1]
    if len(rows) < len(halves) or len({row.context.shape for row in rows}) > 1:
        return None
    return stacked(rows, guided)


class TextEncoding:
    """Encodes the texts of a request, each once."""

    def __init__(self, conditioner: TextConditioner, request: Request, steps: int) -> None:
        self.conditioner, self.request, self.steps = conditioner, request, steps
        readers, skip = conditioner.readers(), request.clip_skip
        self.readers = [r._replace(layer=-skip) if skip is not None and r.layer == -1 else r for r in readers]
        self.own_layers = self.readers == readers
        self.done: dict[tuple[str, bool], tuple[tuple[float, Stretches], ...]] = {}

    def is_plain(self, text: str, negative: bool) -> bool:
        """Whether a text has words alone, which fit, for the layers that are the model's own."""
        if self.own_layers and self.request.prompt_syntax == "plain":
            return True
        return self.own_layers and self.read(text, negative).plain and all(len(c) == 1 for c in self.chunks(text))

    def read(self, text: str, negative: bool) -> Prompt:
        """A prompt in the request's syntax."""
        if self.request.prompt_syntax == "plain":
            return Prompt(text, (SubPrompt(1.0, ((self.steps, text),)),))
        return read_prompt(text, self.steps, negative)

    def chunks(self, text: str) -> list[list[Chunk]]:
        """The chunks of a text, for each of the text encoders."""
        if self.request.prompt_syntax == "webui":
            return [chunked(read_weights(text), reader.tokenizer) for reader in self.readers]
        ids = [reader.tokenizer.encode(text)[0].tolist() for reader in self.readers]
        return [[Chunk(row, [1.0] * len(row))] for row in ids]

    def joined(self, text: str, negative: bool) -> tuple[tuple[float, Stretches], ...]:
        """The prompts that a text joins, each with its weight and its rows."""
        key = (text, negative)
        if key not in self.done:
            joined = self.read(text, negative).joined
            self.done[key] = tuple((prompt.weight, self.stretches(prompt, negative)) for prompt in joined)
        return self.done[key]

    def stretches(self, prompt: SubPrompt, negative: bool) -> Stretches:
        """The rows of a prompt over the calls of the model."""
        ends, texts = zip(*prompt.stretches, strict=True)
        every = [self.chunks(text) for text in texts]
        of_each = list(zip(*every, strict=True))  # of each text encoder, the chunks of every text
        encoded = [encoded_chunks(reader, chunks) for reader, chunks in zip(self.readers, of_each, strict=True)]
        context = np.concatenate([context for context, _ in encoded], axis=-1)
        size = (self.request.height or 0, self.request.width or 0)
        arrays = self.conditioner.row_arrays(negative, self.request.guidance_scale or 0.0, size)
        of_each_text: list[dict[str, Array]] = [arrays] * len(texts)
        if self.conditioner.wants_pooled:
            pooled = self.readers[-1].encoder.pooled(encoded[-1][1])
            of_each_text = [{**arrays, "text_embeds": text} for text in pooled]
        rows = [Row(*row) for row in zip(context, of_each_text, strict=True)]
        zeroed = [negative and self.conditioner.zeroes(text) for text in texts]
        return Stretches(ends, tuple(nothing(row) if zero else row for row, zero in zip(rows, zeroed, strict=True)))


def encoded_chunks(reader: TextReader, texts: Sequence[Sequence[Chunk]]) -> tuple[Array, Integers]:
    """The weighted contexts of texts, `(N, chunks · L, D)`, and the ids of their first chunks, `(N, L)`.

    A text of fewer chunks than another gets empty ones behind its own.
    """
    count, empty = max(map(len, texts)), empty_chunk(reader.tokenizer)
    grid = [[*chunks, *[empty] * (count - len(chunks))] for chunks in texts]
    ids = np.array([[chunk.ids for chunk in chunks] for chunks in grid])  # (N, chunks, L)
    weights = np.array([[chunk.weights for chunk in chunks] for chunks in grid])
    unique, which = np.unique(ids.reshape(-1, ids.shape[-1]), axis=0, return_inverse=True)
    z = reader.encoder(unique, layer=reader.layer, final_norm=reader.final_norm)[which.reshape(ids.shape[:2])]
    chunks = [weighted(z[:, k], weights[:, k]) for k in range(count)]
    return np.concatenate(chunks, axis=1), ids[:, 0]


def weighted(context: Array, weights: Array) -> Array:  # (N, L, D), (N, L) -> (N, L, D)
    """The context's rows multiplied by their weights, and its mean then restored.

    The mean is that of all N texts: of a prompt that changes over the steps, those are what it is at each. This is what
    the web interface AUTOMATIC1111 calls the emphasis "Original".
    """
    if (weights == 1).all():
        return context
    whole: Array = context * weights[..., None].astype(context.dtype)
    restored: Array = whole * (context.mean() / whole.mean())
    return restored


def nothing(row: Row) -> Row:
    """The row of no text at all: zeros, but for what is no text."""
    zeros = {name: np.zeros_like(value) if name == "text_embeds" else value for name, value in row.arrays.items()}
    return Row(np.zeros_like(row.context), zeros)


def words(parts: Parts, request: Request) -> list[str]:
    """The prompts and negative prompts of a resolved request, each once, without their syntax."""
    given = dict.fromkeys([*((p, False) for p in request.prompts if p), *((n, True) for n in request.negative_prompts)])
    if request.prompt_syntax == "plain":
        return [text for text, _ in given]
    steps = length_of_run(request.begun(parts)[0], request.steps or 0)
    texts = [text for prompt, negative in given for text in read_prompt(prompt, steps, negative).texts]
    return list(dict.fromkeys(texts))
