"""Pictures made larger: by the models that were trained for it, and by any other one tile by tile.

Two published kinds are shown the small picture beside the latent, which has its size, so that the first stage's factor
is the scale (Rombach et al. 2022, arXiv:2112.10752, section 4.4). Of the ×4 upscaler, noise of a level is added to the
small picture, and the level told to the UNet (Ho et al. 2021, arXiv:2106.15282, section 4). Any other model changes an
enlarged picture a little (`strength`), in tiles of the size that it was trained on, which overlap and are blended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion.forward import add_noise
from tinyldm.diffusion.random import Generator
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.diffusion.streams import generators
from tinyldm.errors import InputError
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.pictures import as_rgb, to_pixels
from tinyldm.pipelines.prompt_checks import check_syntax
from tinyldm.pipelines.request import Request, request
from tinyldm.pipelines.walk import CONDITIONING, Walk, condition_of, pictures
from tinyldm.typing import Array

# What a run takes where nothing is said, by kind; the published ones' are those of their pipelines.
USUAL: dict[str, dict[str, Any]] = {
    "noised": {"steps": 75, "guidance_scale": 9.0, "noise_level": 20},
    "shown": {"steps": 100, "guidance_scale": 1.0},
    "tiles": {"scale": 2.0, "strength": 0.3},
}
SHOWN = "trained to enlarge, and is shown the whole picture"
MOST_NOISE = 350  # the level up to which the published ×4 upscaler was trained
MOST_PIXELS = 1 << 30  # of a picture to make
READING = ("prompt_syntax", "clip_skip", "rng")  # how prompts and seeds are read


@dataclass(frozen=True)
class Upscaling:
    """A picture to make larger, and how; what is None is the model's own (`resolved`).

    `scale` is that of the sides. Of the ×4 upscaler, `noise_level` is how much noise is added to the small picture. Of
    a model that was not trained to enlarge, `strength` in (0, 1] is how much it may change, `tile` the side of the
    tiles that it sees, in pixels, `overlap` how far neighbours reach into each other. Tile t has the noise of
    `seed + t`, whatever is computed together. `prompt_syntax`, `clip_skip` and `rng` are those of a `Request`.
    """

    image: Image.Image
    prompt: str | None = None
    negative_prompt: str = ""
    scale: float | None = None
    strength: float | None = None
    noise_level: int | None = None
    tile: int | None = None
    overlap: int | None = None
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    prompt_syntax: str = "plain"
    clip_skip: int | None = None
    rng: str = "torch"

    def resolved(self, parts: Parts) -> Upscaling:
        """This with the model's own settings where it leaves them open.

        Raises `InputError` for what the model can't honour; nothing has been read or computed by then.
        """
        kind = kind_of(parts)
        own: dict[str, Any] = {} if kind == "tiles" else {"scale": float(parts.vae.config.factor)}
        own |= USUAL[kind]
        if kind == "tiles":
            own["tile"] = max(parts.latent_size()) * parts.vae.config.factor
            own["overlap"] = (own["tile"] if self.tile is None else self.tile) // 4
        for name in ("scale", "strength", "noise_level", "tile", "overlap"):
            if name not in own and getattr(self, name) is not None:
                trained = "not trained to enlarge" if kind == "tiles" else SHOWN
                raise InputError(f"{parts.path}: has no use for {name}; it was {trained}")
        prompt = "" if self.prompt is None and parts.conditioner.takes == "text" else self.prompt
        parts.conditioner.check([prompt])
        filled = {name: value for name, value in own.items() if getattr(self, name) is None}
        whole = replace(self, prompt=prompt, image=as_rgb(self.image)[0], **filled)
        whole.check(parts, kind)
        base = whole.tile_request(Image.new("RGB", (own["tile"],) * 2)) if kind == "tiles" else whole.shown(parts)
        found = base.resolved(parts)
        if kind != "tiles" and self.prompt_syntax != "plain":  # the negative prompt, of which `shown` says nothing
            check_syntax(parts, [], [self.negative_prompt], found.guidance_scale or 0.0, found.steps or 0)
        return replace(whole, **{name: getattr(found, name) for name in ("steps", "guidance_scale", "sampler")})

    def check(self, parts: Parts, kind: str) -> None:
        """Raise `InputError` for numbers out of their range."""
        scale, factor = self.scale or 0.0, parts.vae.config.factor
        if kind != "tiles" and scale != factor:
            raise InputError(f"{parts.path}: enlarges by {factor}, not by {scale:g}")
        if not 1 <= scale < math.inf:
            raise InputError(f"scale must be a finite number of 1 or more, not {scale:g}")
        if math.prod(self.size) > MOST_PIXELS:
            raise InputError(
                f"the result would have {self.size[0]}×{self.size[1]} pixels; at most {MOST_PIXELS} in all"
            )
        most = parts.options.get("max_noise_level", MOST_NOISE)
        if self.noise_level is not None and not 0 <= self.noise_level <= most:
            raise InputError(f"noise_level must be from 0 to {most}, not {self.noise_level}")
        tile, overlap = self.tile, self.overlap
        if tile is not None and overlap is not None:
            if tile < factor or tile % factor:
                raise InputError(f"tile must be a positive multiple of {factor} pixels, not {tile}")
            if not 0 <= overlap < tile:
                raise InputError(f"overlap must be from 0 to less than the tile, {tile}, not {overlap}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result."""
        width, height = (max(1, round(side * (self.scale or 0))) for side in self.image.size)
        return width, height

    def settings(self) -> dict[str, Any]:
        """What all requests of it share."""
        names = ("negative_prompt", "seed", "steps", "guidance_scale", "sampler", "sampler_options")
        return {name: getattr(self, name) for name in (*names, *READING)}

    def shown(self, parts: Parts) -> Request:
        """The request of a model that is shown the small picture; its context is not made yet."""
        small = to_pixels(self.image).astype(parts.runtime.dtype)
        drawn = () if self.noise_level is None else small.shape[1:]
        settings = {**self.settings(), "negative_prompt": ""}  # which is the context's
        return request(self.prompt, conditions=Conditioning(concat=small), drawn=drawn, **settings)

    def tile_request(self, tile: Image.Image) -> Request:
        """The request of a tile, with the seed of the first."""
        return request(self.prompt, image=tile, strength=self.strength, **self.settings())

    def metadata(self) -> dict[str, str]:
        """What the file of the result says of how it was made, in words."""
        names = ("prompt", "negative_prompt", "steps", "guidance_scale", "sampler", "seed")
        more = ("scale", "strength", "noise_level", "tile", "overlap")
        said = {name: getattr(self, name) for name in names} | {"width": self.size[0], "height": self.size[1]}
        said |= {name: getattr(self, name) for name in more if getattr(self, name) is not None}
        said |= {"sampler_options": dict(self.sampler_options)} if self.sampler_options else {}
        said |= {name: value for name in READING if (value := getattr(self, name)) not in ("plain", "torch", None)}
        return {name: "" if value is None else str(value) for name, value in said.items()}


def kind_of(parts: Parts) -> str:
    """How a model enlarges: it is `shown` the picture, `noised` or not, or changes an enlarged one in `tiles`."""
    config = parts.predictor.config
    if config.in_channels - parts.vae.latent_channels != 3 or "spatial_rescaler" in parts.networks:
        return "tiles"
    return "noised" if config.num_class_embeds is not None else "shown"


def upscale(parts: Parts, wanted: Upscaling, how: Walk = Walk()) -> Image.Image:  # noqa: B008
    """The larger picture. Raises `InputError` before any work for what can't be honoured."""
    wanted = wanted.resolved(parts)
    return in_tiles(parts, wanted, how) if kind_of(parts) == "tiles" else as_published(parts, wanted, how)


# The models that were trained for it ----------------------------------------------------------------------------------


def as_published(parts: Parts, wanted: Upscaling, how: Walk) -> Image.Image:
    """One walk, with the small picture beside the latent."""
    asked = wanted.shown(parts)
    condition = context_of(parts, wanted, asked)
    if how.single_run:
        parts.drop(*CONDITIONING)
    (picture,) = pictures(parts, replace(asked, conditions=condition), how)
    return picture.image


def context_of(parts: Parts, wanted: Upscaling, asked: Request) -> Conditioning:
    """What the UNet is given: the context of the prompt, the small picture, and the level of the noise in it."""
    assert asked.conditions is not None
    assert asked.conditions.concat is not None
    width, height = wanted.size
    words = replace(asked, conditions=None, negative_prompts=(wanted.negative_prompt,), height=height, width=width)
    made = condition_of(parts, words, range(1))
    small, rows = asked.conditions.concat, 2 if made.guided else 1
    if wanted.noise_level is not None:
        small = noised(parts, small, wanted.noise_level, generators(wanted.rng)(wanted.seed))
        made = made.told("class_labels", np.array(wanted.noise_level), rows)
    return replace(made, concat=np.repeat(small, rows, axis=0))


def noised(parts: Parts, small: Array, level: int, rng: Generator) -> Array:  # (1, 3, h, w) -> (1, 3, h, w)
    """The small picture with noise of a level of its own schedule, the first that its seed's stream gives."""
    schedule = parts.options.get("low_res_scheduler", parts.scheduler_config)
    alpha_bar = make_sampler("ddpm", schedule, 1).alpha_bar
    noise = rng.randn(small.shape).astype(small.dtype, copy=False)
    return add_noise(small, noise, level, alpha_bar)


# Any other model ------------------------------------------------------------------------------------------------------


def in_tiles(parts: Parts, wanted: Upscaling, how: Walk) -> Image.Image:
    """The picture enlarged by Lanczos' filter, and each tile of that changed by image to image; then they are blended.

    Source of the way of a tile: Meng et al. 2021 (SDEdit), arXiv:2108.01073, section 3.
    """
    large, factor = wanted.image.resize(wanted.size, Image.Resampling.LANCZOS), parts.vae.config.factor
    tile, overlap = wanted.tile or 0, wanted.overlap or 0
    sides = [min(tile, -(-side // factor) * factor) for side in large.size]
    canvas = extended(large, (max(sides[0], large.width), max(sides[1], large.height)))
    places = [
        (top, left)
        for top in starts(canvas.height, sides[1], overlap)
        for left in starts(canvas.width, sides[0], overlap)
    ]
    window = faded(sides[1], overlap)[:, None] * faded(sides[0], overlap)
    total = np.zeros((canvas.height, canvas.width, 3), np.float32)
    weight = np.zeros((canvas.height, canvas.width, 1), np.float32)
    generators(wanted.rng)((wanted.seed + len(places) - 1) % 2**64)  # of the last tile, too
    base = replace(wanted.tile_request(canvas), width=sides[0], height=sides[1])
    condition = condition_of(parts, base, range(1))
    if how.single_run:
        parts.drop(*CONDITIONING)
    sampler, first = base.begun(parts)
    calls = iter(how.progress(range(len(places) * sampler.calls(first))))
    each = replace(how, single_run=False, progress=lambda some: counted(some, calls))
    for t, (top, left) in enumerate(places):
        crop = canvas.crop((left, top, left + sides[0], top + sides[1]))
        one = replace(base, image=crop, seeds=((wanted.seed + t) % 2**64,), conditions=condition)
        (picture,) = pictures(parts, one, each)
        here = slice(top, top + sides[1]), slice(left, left + sides[0])
        total[here] += window[..., None] * np.asarray(picture.image, np.float32)
        weight[here] += window[..., None]
    next(calls, None)  # a progress bar closes when it is asked once more
    return Image.fromarray(np.round(total / weight).astype(np.uint8)).crop((0, 0, *large.size))


def counted(some: range, calls: Iterator[int]) -> Iterator[int]:
    """The calls of one tile, each also the next of all."""
    for call in some:
        next(calls, None)
        yield call


def extended(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture of at least this size: its last column and row repeated where it is smaller."""
    edges = ((0, size[1] - image.height), (0, size[0] - image.width), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), edges, mode="edge"))


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover a length, neighbours sharing `overlap` or more, at equal distances."""
    count = 1 if length == tile else 1 + -(-(length - tile) // (tile - overlap))
    return [round(k * (length - tile) / max(1, count - 1)) for k in range(count)]


def faded(length: int, overlap: int) -> Array:  # -> (length,)
    """The weight of a tile's pixels: 1 inside, falling linearly towards its ends over the overlap, never to 0."""
    k = np.arange(1, length + 1)
    weights: Array = np.minimum(np.minimum(k, k[::-1]) / (overlap + 1), 1).astype(np.float32)
    return weights
