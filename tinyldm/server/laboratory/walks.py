"""A walk that is kept, so that one can go back and forth in it: what the network was given and said at every step."""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.pipelines.parts import Parts, to_images
from tinyldm.pipelines.request import Request
from tinyldm.pipelines.walk import Step, Walk, latents
from tinyldm.server.laboratory.curves import signal_share
from tinyldm.server.laboratory.words import CROSS_ATTENTION, attention_maps
from tinyldm.tracing import Trace, trace
from tinyldm.typing import Array

MOST_BYTES = 256 << 20  # of walks that are kept
OUT_OF_RANGE = 1.02  # a pixel beyond is clipped visibly: 1 is black or white
Watch = Callable[[Step], object]


@dataclass(frozen=True)
class Moment:
    """One step of a walk: where it began, what the network said there, and the clean latent that the sampler saw in it.

    `share` is the signal's share of the latent's power at the `timestep`, alpha-bar. `latent` `(C, h, w)` is as the
    network takes it, of unit variance, and `clean` `(C, h, w)` what it promises. `outputs` `(R, C, h, w)` are without
    and with the prompt, or where nothing is guided the only one. `maps` are cross-attentions by their paths,
    `(tokens, h', w')` each, where they are wanted.
    """

    timestep: float
    share: float
    latent: Array
    outputs: Array
    clean: Array
    maps: Mapping[str, Array] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The memory of its arrays."""
        return sum(array.nbytes for array in (self.latent, self.outputs, self.clean, *self.maps.values()))


@dataclass(frozen=True)
class Finished:
    """The picture at the end of a walk: itself, the latent's deviation, and the share of pixels out of range."""

    image: Image.Image
    deviation: float
    clipped: float


@dataclass
class Walked:
    """A walk from noise to a final `latent` `(C, h, w)`, with `calls` of the network; what was decoded is kept, too."""

    request: Request
    moments: Sequence[Moment]
    latent: Array
    calls: int
    pictures: dict[tuple[int, str], Image.Image] = field(default_factory=dict)
    end: Finished | None = None

    @property
    def nbytes(self) -> int:
        """The memory of its arrays and pictures."""
        images = [*self.pictures.values(), *([self.end.image] if self.end else [])]
        return sum(m.nbytes for m in self.moments) + sum(3 * i.width * i.height for i in images) + self.latent.nbytes

    def at(self, k: int) -> tuple[Array, Array]:
        """The latent before step `k` and the clean one seen in it; behind the last step both are the final latent."""
        if k >= len(self.moments):
            return self.latent, self.latent
        return self.moments[k].latent, self.moments[k].clean

    def decoded(self, parts: Parts, k: int, which: str) -> Image.Image:
        """The `latent` before step `k`, or the `clean` one seen in it, as the decoder shows it."""
        key = (k, which) if k < len(self.moments) else (len(self.moments), "")
        if key not in self.pictures:
            self.pictures[key] = parts.decode(self.at(k)[which == "clean"][None])[0]
        return self.pictures[key]

    def finished(self, parts: Parts) -> Finished:
        """The picture at the end, and what there is to say of it in numbers."""
        if self.end is None:
            pixels = parts.vae.decode(parts.vae.unscale(self.latent[None]))
            clipped = float(np.mean(np.abs(pixels) > OUT_OF_RANGE))
            self.end = Finished(to_images(pixels)[0], float(self.latent.std()), clipped)
        return self.end


class Watched:
    """A network that notes its calls: what it was given, the timestep, and what it said."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.calls: list[tuple[Array, float, Array]] = []

    def __call__(self, z: Array, t: Any, *more: Any, **conditions: Any) -> Array:
        """What the network says."""
        output: Array = self.network(z, t, *more, **conditions)
        self.calls.append((z, float(np.ravel(t)[0]), output))
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def walked(parts: Parts, request: Request, watch: Watch = lambda _: None, maps: bool = False) -> Walked:
    """Walk a resolved request for one picture by the walk of every picture, and keep each step; maps too if wanted.

    `watch` is called after each step, and may raise `Stopped`.
    """
    network, moments, calls = Watched(parts.predictor), list[Moment](), 0
    sampler, seen = request.begun(parts)[0], Trace(CROSS_ATTENTION)

    def keep(step: Step) -> None:
        nonlocal calls
        calls = step.calls
        if network.calls:
            z, t, outputs = network.calls[0]
        else:  # a step that makes do with what was said before
            z, t, outputs = moments[-1].latent[None], float(step.timestep), moments[-1].outputs
        network.calls.clear()
        clean = z if step.clean is None else step.clean
        found = attention_maps(seen, parts, request, z.shape[2:]) if maps else {}
        share = float(signal_share(sampler, np.array([t]))[0])
        moments.append(Moment(t, share, z[0].copy(), outputs.copy(), clean[0].copy(), found))
        watch(step)

    with trace(into=seen) if maps else contextlib.nullcontext():
        [(_, final)] = latents(replace(parts, predictor=network), request, Walk(callback=keep))
    return Walked(request, moments, final[0], calls)


class Walks:
    """The last walks, as many as fit into so many bytes, by what was asked for."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self.kept: OrderedDict[str, Walked] = OrderedDict()

    def get(self, request: Request, maps: bool = False) -> Walked | None:
        """The walk of a request, if it is still kept."""
        key = key_of(request, maps)
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def put(self, walk: Walked, maps: bool = False) -> None:
        """Keep a walk, and forget those that nobody has asked for longest."""
        self.kept[key_of(walk.request, maps)] = walk
        self.trim()

    def trim(self) -> None:
        """Forget what is too much, now that walks have been looked into: walks, and of the last one its pictures."""
        while sum(each.nbytes for each in self.kept.values()) > self.most:
            if len(self.kept) == 1:
                next(iter(self.kept.values())).pictures.clear()
                break
            self.kept.popitem(last=False)


def key_of(request: Request, maps: bool) -> str:
    """What tells a walk from another."""
    return json.dumps([request.settings(0), maps], sort_keys=True, default=str)
