r"""Conditions that change from call to call, and pictures of several prompts joined by `AND`.

Each call of the model takes the text that its step asks for. Several prompts are predicted apart and put together as
one, $\epsilon = \epsilon_\varnothing + \sum_i w_i (\epsilon_i - \epsilon_\varnothing)$, which is guided as always.
Source: Liu et al. 2022, arXiv:2206.01714 (composable diffusion: conjunction).

Calls are counted from 0 where the walk begins, and a stretch that ends at step n is taken up to call n, as the web
interface AUTOMATIC1111 does; so the first one is a call longer than its name says.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tinyldm.diffusion.prediction import classifier_free_guidance, rescale_guidance
from tinyldm.diffusion.types import Predict
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.image_prompt import of_rows
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Request
from tinyldm.typing import Array

KEPT = 8  # states of all prompts whose contexts stay prepared: as many alternatives are taken in turns at no cost
Places = tuple[tuple[int, int], ...]  # of rows in a batch: the picture, and which of its rows


class Row(NamedTuple):
    """What the UNet is given for one text: its context `(L, D)`, and further arrays `(…)` by name."""

    context: Array
    arrays: Mapping[str, Array]


class Stretches(NamedTuple):
    """A prompt over the calls of the model: the last call of each stretch, and its row."""

    ends: tuple[int, ...]
    rows: tuple[Row, ...]

    def told(self, name: str, value: Array) -> Stretches:
        """The same with one array more in every row."""
        return self._replace(rows=tuple(Row(row.context, {**row.arrays, name: value}) for row in self.rows))

    def at(self, call: int) -> int:
        """Which stretch a call is in."""
        return next((k for k, end in enumerate(self.ends) if call <= end), len(self.ends) - 1)


class Joined(NamedTuple):
    """The prompts of one picture: the negative one, where the picture is guided, and the others with their weights."""

    negative: Stretches | None
    prompts: tuple[tuple[float, Stretches], ...]

    @property
    def every(self) -> list[Stretches]:
        """All of them, the negative one first."""
        return [*([] if self.negative is None else [self.negative]), *(prompt for _, prompt in self.prompts)]

    def told(self, name: str, value: Array) -> Joined:
        """The same with one array more in every row."""
        prompts = tuple((weight, prompt.told(name, value)) for weight, prompt in self.prompts)
        return Joined(None if self.negative is None else self.negative.told(name, value), prompts)


@dataclass(frozen=True)
class Composed:
    """The prompts of every picture of a group."""

    pictures: tuple[Joined, ...]

    def of_pictures(self, pictures: range) -> Composed:
        """The prompts of some of the pictures."""
        return Composed(tuple(self.pictures[k] for k in pictures))

    def told(self, name: str, value: Array) -> Composed:
        """These prompts with one thing more that the model is told at each."""
        return Composed(tuple(joined.told(name, value) for joined in self.pictures))

    def state(self, call: int) -> tuple[int, ...]:
        """Which stretch each of the prompts is in, picture by picture."""
        return tuple(stretches.at(call) for joined in self.pictures for stretches in joined.every)

    def rows(self, state: tuple[int, ...]) -> list[list[Row]]:
        """The rows of each picture in a state, the negative one first.

        Contexts of prompts that are joined are made as long as the longest of them, by their last vector.
        """
        which, found = iter(state), []
        for joined in self.pictures:
            rows = [stretches.rows[next(which)] for stretches in joined.every]
            first = 0 if joined.negative is None else 1
            longest = max(len(row.context) for row in rows[first:])
            found.append([*rows[:first], *(row._replace(context=longer(row.context, longest)) for row in rows[first:])])
        return found


def longer(context: Array, length: int) -> Array:  # (L, D) -> (length, D)
    """A context with its last vector repeated."""
    return np.concatenate([context, np.repeat(context[-1:], length - len(context), axis=0)])


def composed_predictor(
    plain: Callable[[Parts, Conditioning, Request, Iterator[int]], Predict],
    parts: Parts,
    condition: Conditioning,
    request: Request,
    calls: Iterator[int],
) -> Predict:
    """As `walk.predictor`, which is `plain` and predicts without guidance, for a condition that is `composed`."""
    composed: Composed = condition.composed
    counted = itertools.count()

    @functools.lru_cache(maxsize=KEPT)
    def prepared(state: tuple[int, ...]) -> list[tuple[Places, Predict]]:
        batches = batched(composed.rows(state))
        return [
            (places, plain(parts, one_batch(condition, places, rows), request, iter(()))) for places, rows in batches
        ]

    def predict(z: Array, t: np.number[Any]) -> Array:
        next(calls, None)
        outputs: dict[tuple[int, int], Array] = {}
        for places, ask in prepared(composed.state(next(counted))):
            found = ask(z[[picture for picture, _ in places]], t)
            outputs.update(zip(places, found, strict=True))
        return put_together(composed, outputs, request)

    return predict


def batched(rows: list[list[Row]]) -> Iterator[tuple[Places, list[Row]]]:
    """The rows that the UNet can take at once, those of contexts of one length: (picture, number) of each, and they.

    The negative ones come first, as in a plain batch.
    """
    places = [(n, k) for k in range(max(map(len, rows))) for n, own in enumerate(rows) if k < len(own)]
    for length in dict.fromkeys(len(rows[n][k].context) for n, k in places):
        here = [(n, k) for n, k in places if len(rows[n][k].context) == length]
        yield tuple(here), [rows[n][k] for n, k in here]


def one_batch(condition: Conditioning, places: Places, rows: list[Row]) -> Conditioning:
    """The condition of a batch; what stands behind the latent is the picture's own, of either half."""
    count, concat = len(condition.composed.pictures), condition.concat
    if concat is not None:
        concat = concat[[n + count * bool(condition.guided and k) for n, k in places]]
    images = None if condition.images is None else of_rows(condition.images, pictured(condition.composed, places))
    return replace(stacked(rows), concat=concat, images=images, guide=condition.guide)


def stacked(rows: Sequence[Row], guided: bool = False) -> Conditioning:
    """The condition of a batch of rows, all of one length."""
    arrays = {name: np.stack([row.arrays[name] for row in rows]) for name in rows[0].arrays}
    return Conditioning(np.stack([row.context for row in rows]), arrays, guided=guided)


def pictured(composed: Composed, places: Places) -> list[int]:
    """For each row of a batch whether it sees the pictures that are prompts, 1, or as a negative prompt nothing, 0."""
    return [int(k > 0 or composed.pictures[n].negative is None) for n, k in places]


def put_together(composed: Composed, outputs: Mapping[tuple[int, int], Array], request: Request) -> Array:
    """The prediction for every picture from those for its prompts, `(N, C, h, w)`."""
    negatives, conditionals = [], []
    for n, joined in enumerate(composed.pictures):
        first = 0 if joined.negative is None else 1
        found = [(weight, outputs[n, first + k]) for k, (weight, _) in enumerate(joined.prompts)]
        conditionals.append(found[0][1] if joined.negative is None else conjunction(outputs[n, 0], found))
        negatives.append(outputs[n, 0])
    conditional = np.stack(conditionals)
    if composed.pictures[0].negative is None:
        return conditional
    prediction = classifier_free_guidance(np.stack(negatives), conditional, request.guidance_scale or 0.0)
    amount = request.guidance_rescale
    return rescale_guidance(prediction, conditional, amount) if amount else prediction


def conjunction(unconditional: Array, predictions: list[tuple[float, Array]]) -> Array:
    """Several predictions with their weights as one; of a single one of weight 1, itself."""
    if [weight for weight, _ in predictions] == [1.0]:
        return predictions[0][1]
    apart = [weight * (prediction - unconditional) for weight, prediction in predictions]
    whole: Array = unconditional + sum(apart)
    return whole
