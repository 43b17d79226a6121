"""What is wanted: which pictures, by which settings. Checked once, before any weight is read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from PIL import Image

from tinyldm.diffusion.random import check_seed
from tinyldm.diffusion.samplers import Sampler, default_sampler, find_sampler, make_sampler
from tinyldm.errors import InputError
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.editing import EDITS, check_edits, edited
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.pictures import fitted
from tinyldm.runtime import SEAMLESS
from tinyldm.typing import Array, Integers

STRENGTH = 0.8  # with which programs change a picture to begin from, where nothing is said
SYNTAXES = ("plain", "webui")  # how a prompt is read
# The classes that models are published with whatever suits them; a run of these that names no sampler takes DDIM.
OF_EVERY_MODEL = (None, "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler")
OF_FEW_STEPS_IF_TRAILING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


class Defaults(NamedTuple):
    """Steps, guidance scale and sampler of a run that names none."""

    steps: int
    guidance_scale: float
    sampler: str


def defaults_of(scheduler_config: Mapping[str, Any]) -> Defaults:
    """25 guided steps of DDIM, or for a model distilled to few steps what its schedule was published for.

    Such a model is published with LCM's or TCD's sampler, or with an Euler one that begins at the noisiest timestep
    (`trailing`). Source: Sauer et al. 2023, arXiv:2311.17042 (the turbo models: one step without guidance); Luo et al.
    2023, arXiv:2310.04378 (latent consistency models: four).
    """
    published, spacing = scheduler_config.get("_class_name"), scheduler_config.get("timestep_spacing")
    usual = published in OF_EVERY_MODEL or (published in OF_FEW_STEPS_IF_TRAILING and spacing != "trailing")
    sampler = "ddim" if usual else default_sampler(scheduler_config)
    few = {"lcm": (4, 7.5), "euler": (1, 0.0), "euler_a": (1, 0.0)}
    return Defaults(*few.get(sampler, (25, 7.5)), sampler)


# Why a model has no use for a setting.
UNUSED = {
    "negative_prompt": "is nothing that this model draws away from",
    "guidance_scale": "is of models with a condition, and this one has none",
    "guidance_rescale": "is of a strong guidance, and these predictions are not guided",
    "noise": "is what pictures begin from, and these begin from another picture",
    "height": "is not that of the picture to begin from",
    "width": "is not that of the picture to begin from",
}


@dataclass(frozen=True)
class Request:
    """Pictures to make: one for each prompt, each with the seed of its own noise. `request()` makes one from arguments.

    `prompts` are texts, numbers of classes, or None for a model that takes no prompt. What is None is the model's own
    (`resolved`). `image` is a picture to begin from, or its latent `(1, C, h, w)`, and `strength` in (0, 1] the part of
    the steps that is taken; `resize` says how a picture is brought to a size that the model has (`pictures.fitted`).
    `guidance_rescale` from 0 to 1 undoes the over-exposure of strong guidance (`prediction.rescale_guidance`).
    `mask` is white where the picture is to be painted anew (`masks.as_mask`), its edge `mask_blur` pixels soft.
    `image_guidance_scale` is the pull of the picture in models that edit by an instruction. `depth` (near is large) and
    `segments` (the class of every pixel) are maps for the models that take one. With a `variation_strength` up to 1
    all pictures have the first seed, and the noise of picture k is so far on its way to that of `variation_seed` + k.
    `way` is a second seed, and for each picture how far its noise is on the way to that seed's (`interpolation`).
    `prompt_syntax` is `"plain"`, words alone, or `"webui"`, weights and more (`text.prompt_syntax`); `clip_skip` counts
    the layer of the text encoder that is read from the last, 1.
    Pictures that are `seamless` along `x`, `y` or `both` tile. `drawn` is the shape of what was drawn
    from each picture's stream before. `guides` is what is to be said of the other pictures that guide a run (of
    `Parts`), which `resolved` fills in.
    `conditions` are arrays to take instead of prompts; `noise` `(N, C, h, w)` stands in for the first draw. `rng`
    names the stream that a seed means (`diffusion.streams`). With `one_stream` the pictures share the noise stream of
    the first seed, as one generator over a batch does elsewhere.
    """

    prompts: tuple[str | None, ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    sampler: str | None = None
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    height: int | None = None
    width: int | None = None
    strength: float | None = None
    image: Image.Image | Array | None = None
    resize: str = "crop"
    mask: Image.Image | Array | None = None
    mask_blur: float = 0.0
    image_guidance_scale: float | None = None
    depth: Image.Image | Array | None = None
    segments: Image.Image | Integers | None = None
    variation_seed: int | None = None
    variation_strength: float = 0.0
    way: tuple[int, tuple[float, ...]] | None = None
    conditions: Conditioning | None = None
    noise: Array | None = None
    one_stream: bool = False
    prompt_syntax: str = "plain"
    clip_skip: int | None = None
    rng: str = "torch"
    drawn: tuple[int, ...] = ()
    seamless: str | None = None
    guides: tuple[Mapping[str, Any], ...] = ()

    def resolved(self, parts: Parts) -> Request:
        """This request with the model's own settings where it leaves them open.

        Raises `InputError` for what the model can't honour; nothing has been read or computed by then.
        """
        if parts.predictor is None:
            raise InputError(f"{parts.path}: is a first stage alone; sampling wants a unet as well")
        own = defaults_of(parts.scheduler_config)
        chosen = {name: getattr(self, name) for name in ("steps", "guidance_scale", "sampler")}
        filled = {name: getattr(own, name) if value is None else value for name, value in chosen.items()}
        if parts.conditioner.takes == "nothing" and self.guidance_scale is None:
            filled["guidance_scale"] = 1.0
        filled["sampler"] = find_sampler(filled["sampler"])
        size = {"height": self.height, "width": self.width}
        if self.image is not None or self.conditions is not None:
            filled["image"], begun = self.beginning(parts)
            size |= begun
        asked = any(getattr(self, name) is not None for name in EDITS) or (self.image is not None and not self.strength)
        fills = parts.predictor.config.in_channels != parts.vae.latent_channels  # there is more than the latent to give
        if asked or (fills and (self.conditions is None or self.conditions.concat is None)):
            filled |= edited(parts, vars(self) | filled)
        h, w = parts.latent_size(**{name: filled.get(name, side) for name, side in size.items()})
        for control in parts.controls:
            control.check_size(h, w)
        filled["guides"] = (*(c.said for c in parts.controls), *(p.said for p in parts.image_prompts))
        whole = replace(self, **filled | {"height": h * parts.vae.factor, "width": w * parts.vae.factor})
        if self.conditions is None:
            parts.conditioner.check(self.prompts)
        guides = parts.conditioner.guides if self.conditions is None else self.conditions.guided
        nothing = parts.conditioner.takes == "nothing" and self.conditions is None
        draws_away = guides and (parts.conditioner.takes_negative or self.conditions is not None)
        unused = {
            "negative_prompt": any(self.negative_prompts) and not draws_away,
            "guidance_scale": nothing and self.guidance_scale not in (None, 1),
            "guidance_rescale": self.guidance_rescale and not (guides and (whole.guidance_scale or 0) > 1),
            "noise": self.noise is not None and self.image is not None,
            "height": self.height not in (None, whole.height),
            "width": self.width not in (None, whole.width),
        }
        for name in (name for name, is_unused in unused.items() if is_unused):
            raise InputError(f"{parts.path}: {name} {UNUSED[name]}; leave it out")
        sampler, _ = whole.begun(parts)
        if self.clip_skip is not None:
            from tinyldm.pipelines.prompt_checks import check_clip_skip

            check_clip_skip(parts.conditioner, self.clip_skip)
        if self.prompt_syntax != "plain":
            from tinyldm.pipelines.prompt_checks import check_syntax, length_of_run

            steps = length_of_run(sampler, whole.steps or 0)
            check_syntax(parts, self.prompts, self.negative_prompts, whole.guidance_scale or 0.0, steps)
        return whole

    def beginning(self, parts: Parts) -> tuple[Image.Image | Array | None, dict[str, int | None]]:
        """The picture or the latent to begin from, as the model takes it, and the size that it or `conditions` give.

        Raises `InputError` for a latent that is not the model's.
        """
        vae, image, concat = parts.vae, self.image, None if self.conditions is None else self.conditions.concat
        if isinstance(image, Image.Image):
            image = image if self.mask is not None else fitted(image, vae.config.factor, self.resize)
            return image, {"height": image.height, "width": image.width}
        if image is not None and (image.ndim != 4 or image.shape[:2] != (1, vae.latent_channels) or 0 in image.shape):
            raise InputError(f"the latent must have the shape (1, {vae.latent_channels}, h, w), not {image.shape}")
        given = concat if image is None else image
        if given is None or (image is None and (self.height, self.width) != (None, None)):
            return image, {}
        height, width = (side * vae.config.factor for side in given.shape[2:])
        return image, {"height": height, "width": width}

    def begun(self, parts: Parts) -> tuple[Sampler, int]:
        """A sampler for one walk of a resolved request, and the step that the walk begins with.

        That is 0, or where a picture to begin from is noised to. Raises `InputError` for what can't be honoured.
        """
        sampler = make_sampler(self.sampler or "", parts.scheduler_config, self.steps or 0, **self.sampler_options)
        if sampler.begins_clean and (self.image is None or self.mask is not None):
            raise InputError(
                f"sampler {sampler.name}: leads from a picture to its noise; it wants an image and no mask"
            )
        return sampler, 0 if self.strength is None else sampler.start(self.strength)

    def settings(self, k: int) -> dict[str, Any]:
        """What the file of picture `k` says of how it was made, by name."""
        said: dict[str, Any] = {"prompt": self.prompts[k], "negative_prompt": self.negative_prompts[k]}
        said |= {name: getattr(self, name) for name in ("steps", "guidance_scale", "sampler")}
        said |= {"guidance_rescale": self.guidance_rescale} if self.guidance_rescale else {}
        said |= {"seed": self.seeds[0 if self.one_stream else k], "width": self.width, "height": self.height}
        said |= {} if self.rng == "torch" else {"rng": self.rng}
        said |= {} if self.strength is None else {"strength": self.strength}
        said |= {} if self.strength is None or self.resize == "crop" else {"resize": self.resize}
        said |= {name: value for name in ("mask_blur", "image_guidance_scale") if (value := getattr(self, name))}
        if self.variation_strength:
            varied = {"variation_seed": (self.variation_seed or 0) + k, "variation_strength": self.variation_strength}
            said |= varied
        said |= {"sampler_options": dict(self.sampler_options)} if self.sampler_options else {}
        said |= {} if self.prompt_syntax == "plain" else {"prompt_syntax": self.prompt_syntax}
        said |= {} if self.clip_skip is None else {"clip_skip": self.clip_skip}
        said |= {} if self.seamless is None else {"seamless": self.seamless}
        said |= {"guides": [dict(guide) for guide in self.guides]} if self.guides else {}
        said |= {"one_stream": f"picture {k + 1} of {len(self.prompts)}"} if self.one_stream else {}
        return said

    def metadata(self, k: int) -> dict[str, str]:
        """`settings` as texts; `read_metadata` reads them again."""
        return as_texts(self.settings(k))


def request(
    prompt: str | None | Sequence[str | None] = None,
    negative_prompt: str | Sequence[str] = "",
    *,
    num_images: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Request:
    """A request from arguments: `num_images` pictures of the first prompt, then of the next; picture k has seed + k.

    `settings` are fields of `Request`. Raises `InputError` for arguments that no model can honour.
    """
    prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
    if not prompts or not all(p is None or isinstance(p, str) for p in prompts):
        raise InputError("prompt: wanted a text or a list of texts, at least one")
    if isinstance(num_images, bool) or not isinstance(num_images, int) or num_images < 1:
        raise InputError(f"num_images must be an integer of 1 or more, not {num_images!r}")
    negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != len(prompts):
        raise InputError(f"negative_prompt: {len(negatives)} texts for {len(prompts)} prompts; wanted one, or as many")
    check_seed(seed)
    check_seed(last := seed + len(prompts) * num_images - 1)
    if settings.get("rng", "torch") != "torch":
        from tinyldm.diffusion.streams import generators

        generators(settings["rng"])(last)
    if settings.get("sampler") is not None:
        find_sampler(settings["sampler"])
    scale = settings.get("guidance_scale")
    if scale is not None and not 0 <= scale < math.inf:
        raise InputError(f"guidance_scale must be a finite number, and not negative, not {scale}")
    if not 0 <= settings.get("guidance_rescale", 0.0) <= 1:
        raise InputError(f"guidance_rescale must be from 0 to 1, not {settings['guidance_rescale']}")
    if settings.get("prompt_syntax", "plain") not in SYNTAXES:
        raise InputError(f"prompt_syntax must be {' or '.join(SYNTAXES)}, not {settings['prompt_syntax']!r}")
    skip = settings.get("clip_skip")
    if skip is not None and (isinstance(skip, bool) or not isinstance(skip, int) or skip < 1):
        raise InputError(f"clip_skip must be 1 or more, the layers counted from the last, not {skip!r}")
    if settings.get("resize", "crop") != "crop" and not isinstance(settings.get("image"), Image.Image):
        raise InputError("resize is how a picture to begin from is brought to size, and there is none")
    if settings.get("seamless") not in (None, *SEAMLESS):
        raise InputError(f"seamless must be one of {', '.join(SEAMLESS)}, not {settings['seamless']!r}")
    if settings.get("strength") is not None and settings.get("image") is None:
        raise InputError("strength and the picture to begin from go together; the picture is missing")
    varied = settings.get("variation_strength", 0.0)
    if varied or settings.get("variation_seed") is not None:
        check_variation(settings, last=len(prompts) * num_images - 1)
    if not {*EDITS, "mask_blur"}.isdisjoint(settings):
        check_edits(settings)
    return Request(
        prompts=tuple(p for p in prompts for _ in range(num_images)),
        negative_prompts=tuple(n for n in negatives for _ in range(num_images)),
        seeds=tuple(seed if varied else seed + k for k in range(len(prompts) * num_images)),
        **settings,
    )


def check_variation(settings: Mapping[str, Any], last: int) -> None:
    """Raise `InputError` unless the variations of pictures 0 to `last` have a strength and seeds."""
    seed, strength = settings.get("variation_seed"), settings.get("variation_strength", 0.0)
    if seed is None or not 0 < strength <= 1:
        raise InputError(f"variation_strength must be above 0 and at most 1, with a variation_seed; not {strength}")
    check_seed(seed)
    check_seed(seed + last)


def as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as texts: lists and mappings as JSON; one that is None is left out."""
    return {k: json.dumps(v) if isinstance(v, dict | list) else str(v) for k, v in settings.items() if v is not None}


# How a setting is read from a text; those without a default are in every picture's file.
READ: dict[str, Callable[[str], Any]] = {
    "prompt": str,
    "negative_prompt": str,
    "seed": int,
    "steps": int,
    "guidance_scale": float,
    "guidance_rescale": float,
    "sampler": str,
    "sampler_options": json.loads,
    "height": int,
    "width": int,
    "rng": str,
    "prompt_syntax": str,
    "clip_skip": int,
    "seamless": str,
    "strength": float,
    "resize": str,
    "mask_blur": float,
    "image_guidance_scale": float,
    "variation_seed": int,
    "variation_strength": float,
}
NEEDED = ("seed", "steps", "guidance_scale", "sampler", "height", "width")


def read_options(texts: Iterable[str], name: str) -> dict[str, Any]:
    """A sampler's options from texts such as `eta=0.5`: values of JSON, and what is none as a text.

    Raises `InputError` for a text of another form, under the `name` that it has where it was given.
    """
    options: dict[str, Any] = {}
    for text in texts:
        option, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{name} wants NAME=VALUE, such as eta=0.5, not {text!r}")
        try:
            options[option] = json.loads(value)
        except ValueError:
            options[option] = value
    return options


def read_metadata(said: Mapping[str, str]) -> Request:
    """The request that made a picture, from the texts of its file; the picture that it began from is not in there.

    Raises `InputError` where a setting is missing or can't be read.
    """
    return request(**read_arguments(said))


def read_arguments(said: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `request` that `read_metadata` gives it."""
    for name in (name for name in NEEDED if name not in said):
        raise InputError(f"the picture's file does not say its {name!r}; wanted one of `tinyldm` or of a web interface")
    try:
        return {"prompt": None} | {name: read(said[name]) for name, read in READ.items() if name in said}
    except ValueError as error:
        raise InputError(f"the picture's settings can't be read: {error}") from None
