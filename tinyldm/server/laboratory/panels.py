"""The panels: what each asks of the page's fields, what it computes of them, and by which functions.

A panel's reader raises `InputError` for what can't be honoured; the work that it gives back yields findings, the quick
ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion import prediction, schedule, spacing
from tinyldm.diffusion.samplers import Sampler, make_sampler
from tinyldm.diffusion.samplers.base import denoise
from tinyldm.diffusion.samplers.sigma import SigmaConfig
from tinyldm.errors import InputError
from tinyldm.models import blocks
from tinyldm.pipelines import latent_check, walk
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Request
from tinyldm.server.fields import Fields
from tinyldm.server.laboratory import drawing, words
from tinyldm.server.laboratory.curves import scheduled
from tinyldm.server.laboratory.guidance import predictions
from tinyldm.server.laboratory.handover import Changes, changed, read_channels
from tinyldm.server.laboratory.laboratory import MOST_STEPS, Bench, Laboratory, Work
from tinyldm.server.laboratory.walks import Walked
from tinyldm.server.refusals import Refusal, blamed

Findings = Iterator[Mapping[str, Any]]
Functions = Callable[[Parts, Sequence[Sampler]], Sequence[Callable[..., Any]]]
Reader = Callable[[Laboratory, Fields], tuple[Request, Work]]
MOST_SCALES, MOST_SAMPLERS, MOST_COUNTS = 6, 4, 5  # guidance, samplers and numbers of steps to compare at most
MOST_CHANGE = 1000  # of the decoder's input
STRIP = 8  # maps of a word over the steps


@dataclass(frozen=True)
class Panel:
    """A panel: how its fields are read, and the functions that compute it for a model and the samplers that walk."""

    read: Reader
    functions: Functions


# Prompt and guidance --------------------------------------------------------------------------------------------------


def read_prompt(laboratory: Laboratory, fields: Fields) -> tuple[Request, Work]:
    """A prompt, its guidance, other scales to compare it with, and a step to look into."""
    wanted, step = laboratory.request(fields), fields.integer("step", 1, MOST_STEPS + 2)
    scales = numbers(fields, "compare", MOST_SCALES)
    if laboratory.parts.conditioner.takes == "nothing":
        raise Refusal(f"{laboratory.parts.path.name} takes no prompt, so that there is nothing to guide", "prompt")
    if any(scale < 0 for scale in scales):
        raise Refusal("compare: a guidance scale is 0 or more", "compare")
    others = [replace(wanted, guidance_scale=scale) for scale in scales if scale != wanted.guidance_scale]
    return wanted, lambda bench: about_prompt(bench, wanted, others, step)


def about_prompt(bench: Bench, wanted: Request, others: Sequence[Request], step: int | None) -> Findings:
    """The tokens, the picture, the predictions of a step, and the pictures at other scales."""
    yield {"tokens": words.tokens_of(bench.parts, wanted.prompts[0])}
    count = 1 + len(others)
    first = bench.walk(wanted, number=0, count=count)
    yield of_scale(bench, first)
    k = place(first, 1 + len(first.moments) // 2 if step is None else step, ends=False)
    moment = first.moments[k]
    said = predictions(moment, wanted.guidance_scale or 0.0)
    named = {name: getattr(said, name) for name in ("unconditional", "conditional", "difference", "guided")}
    deviations = {name: float(z.std()) for name, z in named.items() if z is not None}
    widest = {"difference": 3 * deviations.get("difference", 0.0)}  # which is too small to be seen beside the others
    yield {"step": k + 1, "steps": len(first.moments), "timestep": moment.timestep} | {
        "predictions": {
            name: drawing.channels(z, widest.get(name) or drawing.WIDEST) for name, z in named.items() if z is not None
        },
        "deviations": deviations,
    }
    for number, other in enumerate(others, 1):
        yield of_scale(bench, bench.walk(other, number=number, count=count))


def of_scale(bench: Bench, found: Walked) -> dict[str, Any]:
    """A picture with its guidance scale, and what there is to say of it in numbers."""
    end = found.finished(bench.parts)
    figures = {"deviation": end.deviation, "clipped": end.clipped, "score": bench.score(found.latent)}
    return {"scale": found.request.guidance_scale, "image": end.image, **figures}


def prompt_functions(parts: Parts, samplers: Sequence[Sampler]) -> list[Callable[..., Any]]:
    """Of the prompt and its guidance."""
    network = type(parts.predictor).__call__
    return [type(parts.conditioner).encode, walk.predictor, prediction.classifier_free_guidance, network]


# The walk -------------------------------------------------------------------------------------------------------------


def read_walk(laboratory: Laboratory, fields: Fields) -> tuple[Request, Work]:
    """A walk, the step of it to look at, and whether the strip of all steps is wanted."""
    wanted, step = laboratory.request(fields), fields.integer("step", 1, MOST_STEPS + 2)
    strip = fields.flag("strip", True)
    return wanted, lambda bench: about_walk(bench, wanted, step, strip)


def about_walk(bench: Bench, wanted: Request, step: int | None, strip: bool) -> Findings:
    """The walk in numbers, and the latents of one step: as they are, then as the decoder shows them."""
    found = bench.walk(wanted)
    k = place(found, len(found.moments) + 1 if step is None else step)
    if strip:
        promised = [bench.preview(moment.clean) for moment in found.moments]
        yield {"numbers": in_numbers(found), "strip": [*promised, bench.preview(found.latent)]}
    latent, clean = found.at(k)
    at_end = k == len(found.moments)
    share, t = (1.0, None) if at_end else (found.moments[k].share, found.moments[k].timestep)
    numbers = {"timestep": t, "share": share, "deviation": float(latent.std()), "clean_deviation": float(clean.std())}
    rough = {"latent_rough": bench.preview(latent), "clean_rough": bench.preview(clean)}
    yield {"step": k + 1, "steps": len(found.moments), **numbers, **rough} | {
        "latent": drawing.channels(latent),
        "clean": drawing.channels(clean),
    }
    for which in ("clean", "latent"):
        bench.check()
        yield {f"{which}_picture": found.decoded(bench.parts, k, which)}


def in_numbers(found: Walked) -> dict[str, list[float]]:
    """For every step the deviations of the latent and of the clean one, and how like the final latent that one is."""
    final = found.latent.ravel()
    return {
        "latent": [float(m.latent.std()) for m in found.moments] + [float(final.std())],
        "clean": [float(m.clean.std()) for m in found.moments] + [float(final.std())],
        "likeness": [likeness(m.clean.ravel(), final) for m in found.moments] + [1.0],
    }


def likeness(a: Any, b: Any) -> float:
    """The correlation of two arrays, 0 where there is none."""
    with np.errstate(all="ignore"):  # a walk may overflow
        return float(np.nan_to_num(np.corrcoef(a, b)[0, 1]))


def walk_functions(parts: Parts, samplers: Sequence[Sampler]) -> list[Callable[..., Any]]:
    """Of the walk."""
    steps = [type(sampler).step for sampler in samplers]
    return [denoise, *steps, Sampler.ask, prediction.to_sample, Parts.decode, type(parts.vae).picture]


# The decoder's input --------------------------------------------------------------------------------------------------


def read_decoder(laboratory: Laboratory, fields: Fields) -> tuple[Request, Work]:
    """A walk, and what is done to its final latent before the decoder sees it."""
    wanted, channels = laboratory.request(fields), laboratory.parts.vae.latent_channels
    asked = {name: fields.number(name) for name in ("scale", "shift", "noise")}
    for name, value in asked.items():
        if abs(value or 0) > MOST_CHANGE:
            raise Refusal(f"{name} must be from -{MOST_CHANGE} to {MOST_CHANGE}, not {value:g}", name)
    if (asked["noise"] or 0) < 0:
        raise Refusal(f"noise is a deviation, 0 or more, not {asked['noise']:g}", "noise")
    given = {name: value for name, value in asked.items() if value is not None}
    only = fields.integer("only", 0, channels - 1)
    changes = Changes(only=only, channels=read_channels(fields.text("channels"), channels), **given)
    return wanted, lambda bench: about_decoder(bench, wanted, changes)


def about_decoder(bench: Bench, wanted: Request, changes: Changes) -> Findings:
    """The final latent as it is and changed: both decoded, then both checked."""
    found = bench.walk(wanted)
    latents = {"before": found.latent, "after": changed(found.latent, changes, wanted.seeds[0])}
    yield {name: {"latent": drawing.channels(z)} for name, z in latents.items()}
    image = found.finished(bench.parts).image
    yield {"before": {"picture": image}}
    same = np.array_equal(latents["after"], found.latent)  # which need not be decoded again, for that can take a minute
    yield {"after": {"picture": image if same else bench.parts.decode(latents["after"][None])[0]}}
    scores = {name: bench.score(z) for name, z in latents.items()}
    yield {name: {"score": score} for name, score in scores.items()}
    for name, z in latents.items():
        if (scores[name] or 0) > 1:  # which is then explained, and that takes a while
            bench.rest()
        report = latent_check.check_latent(z[None], bench.parts.vae, bench.statistics)
        yield {name: {"report": reported(report)}, "notes": report.notes}


def reported(report: latent_check.LatentReport) -> dict[str, Any]:
    """What a check says of the one latent."""
    checked = report.latents[0]
    faults = [{"name": f.name, "seen": f.seen, "remedy": f.remedy} for f in checked.faults]
    said = {name: getattr(checked, name) for name in ("score", "mean", "std", "shares")}
    return {**said, "ok": report.ok, "faults": faults}


def decoder_functions(parts: Parts, samplers: Sequence[Sampler]) -> list[Callable[..., Any]]:
    """Of the hand-over."""
    check = [latent_check.check_latent, latent_check.LatentStatistics.scores, latent_check.explained]
    return [changed, Parts.decode, type(parts.vae).unscale, type(parts.vae).picture, *check]


# Samplers side by side ------------------------------------------------------------------------------------------------


def read_samplers(laboratory: Laboratory, fields: Fields) -> tuple[Request, Work]:
    """A walk whose sampler and number of steps are replaced by each of several."""
    wanted = laboratory.request(fields)
    names = fields.text("samplers", ",".join(laboratory.compared)).replace(",", " ").split()
    counts = [int(count) for count in numbers(fields, "counts", MOST_COUNTS, "4 8 16", whole=True)]
    if len(names) > MOST_SAMPLERS:
        raise Refusal(f"samplers: {len(names)} are too many to compare; take {MOST_SAMPLERS} at most", "samplers")
    if any(not 1 <= count <= MOST_STEPS for count in counts):
        raise Refusal(f"counts: steps must be from 1 to {MOST_STEPS}", "counts")
    try:
        cells = [
            [replace(wanted, sampler=name, steps=count).resolved(laboratory.parts) for count in counts]
            for name in dict.fromkeys(names)
        ]
    except InputError as error:
        field = {"steps": "counts"}.get(blamed(error) or "", "samplers")
        raise Refusal(str(error), field) from None
    return wanted, lambda bench: about_samplers(bench, cells)


def about_samplers(bench: Bench, cells: Sequence[Sequence[Request]]) -> Findings:
    """A picture of each sampler and number of steps; then how far each is from the last of its row."""
    yield {"rows": [row[0].sampler for row in cells], "columns": [cell.steps for cell in cells[0]]}
    count, number = sum(map(len, cells)), 0
    for r, row in enumerate(cells):
        images = []
        for c, cell in enumerate(row):
            found = bench.walk(cell, number=number, count=count)
            images.append(found.finished(bench.parts).image)
            number += 1
            yield {"row": r, "column": c, "image": images[-1], "calls": found.calls}
        yield {"row": r, "apart": [levels_apart(image, images[-1]) for image in images]}


def levels_apart(a: Image.Image, b: Image.Image) -> float:
    """The root of the mean square of the difference of two pictures, in levels of 255."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(np.sqrt(np.square(difference).mean()))


def samplers_functions(parts: Parts, samplers: Sequence[Sampler]) -> list[Callable[..., Any]]:
    """Of the samplers."""
    return [make_sampler, denoise, *(type(sampler).step for sampler in samplers)]


# Cross-attention by word ----------------------------------------------------------------------------------------------


def read_words(laboratory: Laboratory, fields: Fields) -> tuple[Request, Work]:
    """A walk, and the step, the layer and the word to look at."""
    words.check_has_words(laboratory.parts)
    wanted, step = laboratory.request(fields), fields.integer("step", 1, MOST_STEPS + 2)
    tokens = words.looked_at(laboratory.parts, wanted.prompts[0])
    word = fields.integer("word", 0)
    layer = fields.text("layer", "all")
    return wanted, lambda bench: about_words(
        bench, wanted, tokens, step, min(1 if word is None else word, len(tokens) - 1), layer
    )


def about_words(
    bench: Bench, wanted: Request, tokens: Sequence[str], step: int | None, word: int, layer: str
) -> Findings:
    """The map of every token in a step, that of one word over the steps, and the picture that it lies over."""
    found = bench.walk(wanted, maps=True)
    k = place(found, 1 + len(found.moments) // 2 if step is None else step, ends=False)
    seen = found.moments[k].maps
    if not seen:
        raise Refusal(f"{bench.parts.path.name} has no cross-attention", "prompt")
    chosen = words.joined(seen, layer)
    visited = np.unique(np.linspace(0, len(found.moments) - 1, STRIP).round().astype(int))
    strip = [words.joined(found.moments[i].maps, layer)[word] for i in visited]
    low, high = float(np.min(strip)), float(np.max(strip))
    over_steps = [{"step": int(i) + 1, "map": drawing.heat(z, low, high)} for i, z in zip(visited, strip, strict=True)]
    yield {"step": k + 1, "steps": len(found.moments), "timestep": found.moments[k].timestep} | {
        "tokens": tokens,
        "layers": list(words.layers_of(seen)),
        "word": word,
        "maps": [drawing.heat(one) for one in chosen],
        "shares": [float(one.mean()) for one in chosen],
        "strip": over_steps,
    }
    yield {"picture": found.finished(bench.parts).image}


def words_functions(parts: Parts, samplers: Sequence[Sampler]) -> list[Callable[..., Any]]:
    """Of the maps."""
    return [words.attention_weights, words.joined, blocks.transformer_block, blocks.attend]


# The schedule ---------------------------------------------------------------------------------------------------------


def about_schedule(laboratory: Laboratory, fields: Fields) -> Mapping[str, Any]:
    """The model's own schedule, and one that is changed, with the timesteps that a sampler visits in it."""
    config, own = laboratory.parts.scheduler_config, laboratory.model.defaults
    name = fields.text("sampler") or own.sampler
    steps = fields.integer("steps", 1, 1000) or own.steps
    chosen = scheduled(
        config,
        name,
        steps,
        betas=fields.text("betas") or None,
        zero_snr=fields.flag("zero_snr"),
        spacing=fields.text("spacing") or None,
        levels=fields.text("levels") or None,
    )
    published = scheduled(config, own.sampler, own.steps)
    curves = {"curve": chosen.curve, "visited": chosen.visited, "own": published.curve}
    return {**curves, "sampler": chosen.sampler.name}


def schedule_functions(parts: Parts, samplers: Sequence[Sampler]) -> list[Callable[..., Any]]:
    """Of the curves, and of the timesteps that are visited."""
    curves: list[Callable[..., Any]] = [scheduled, schedule.make_betas, schedule.alpha_bar]
    curves += [schedule.snr, schedule.sigmas]
    for sampler in samplers:
        if getattr(sampler.config, "rescale_betas_zero_snr", False):
            curves.append(schedule.rescale_zero_terminal_snr)
        chosen = sampler.config.chosen_schedule() if isinstance(sampler.config, SigmaConfig) else None
        curves += [LEVELS[chosen]] if chosen in LEVELS else []
    return [*curves, schedule.spaced_timesteps]


LEVELS: dict[str | None, Callable[..., Any]] = {
    "karras": spacing.karras_sigmas,
    "exponential": spacing.exponential_sigmas,
    "beta": spacing.beta_sigmas,
    "uniform": spacing.uniform_sigmas,
    "sgm_uniform": spacing.uniform_sigmas,
    "simple": spacing.simple_sigmas,
    "kl_optimal": spacing.kl_optimal_sigmas,
    "align_your_steps": spacing.aligned_sigmas,
    "align_your_steps_xl": spacing.aligned_sigmas,
}


# All of them ----------------------------------------------------------------------------------------------------------


def numbers(fields: Fields, name: str, most: int, default: str = "", whole: bool = False) -> list[float]:
    """The numbers of a text, at most so many. Raises `Refusal` for another text."""
    found = []
    for word in fields.text(name, default).replace(",", " ").split():
        one = Fields({name: word})
        value = one.integer(name) if whole else one.number(name)
        found.append(float(value or 0))
    if len(found) > most:
        raise Refusal(f"{name}: {len(found)} are too many to compare; take {most} at most", name)
    return list(dict.fromkeys(found))


def place(found: Walked, step: int, ends: bool = True) -> int:
    """The place of a step that is counted from 1 in a walk, held within it; the end, where it counts, is one more."""
    return min(step, len(found.moments) + ends) - 1


PANELS = {
    "prompt": Panel(read_prompt, prompt_functions),
    "walk": Panel(read_walk, walk_functions),
    "decoder": Panel(read_decoder, decoder_functions),
    "samplers": Panel(read_samplers, samplers_functions),
    "words": Panel(read_words, words_functions),
}
