"""Pictures and captions made of others: recoloured, small, at a place, two side by side; and which are held out.

A model that has seen 1,408 captions only knows 1,408 captions. Words compose where the data compose: "blue apple" is
the picture of the red one with other hues, "small apple in the corner" a scaled and shifted one, "apple and dog" two.
What is held out is drawn once from a fixed seed, and never trained: `evaluate.py` asks for it.
"""

from typing import NamedTuple

import data
import numpy as np
from PIL import Image

# Representative sRGB colours. The first seven have a hue to be judged by.
COLOURS = {
    "red": (225, 40, 45),
    "orange": (245, 135, 25),
    "yellow": (250, 205, 45),
    "green": (55, 165, 70),
    "blue": (45, 110, 230),
    "purple": (140, 65, 200),
    "pink": (245, 110, 180),
    "brown": (125, 78, 45),
    "black": (45, 45, 50),
    "grey": (140, 140, 145),
}
CHROMATIC = tuple(COLOURS)[:7]
COLOUR_WORDS = {*COLOURS, "white"}
# What captions compose with: things that one would ask for. Unicode's subgroups; no people, symbols, clocks, weather.
SUBGROUPS = (
    *("animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine", "animal-bug"),
    *("plant-flower", "plant-other", "food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-marine"),
    *("food-sweet", "drink", "dishware", "place-building", "transport-ground", "transport-water", "transport-air"),
    *("event", "award-medal", "sport", "game", "clothing", "musical-instrument"),
)

# Arrangement: side of the picture in pixels, its left and its upper edge, in a square of 64.
ARRANGEMENTS = {
    "small": (32, 16, 16),
    "tiny": (18, 23, 23),
    "big": (92, -14, -14),
    "left": (32, 0, 16),
    "right": (32, 32, 16),
    "top": (32, 16, 0),
    "bottom": (32, 16, 32),
    "top left": (32, 0, 0),
    "top right": (32, 32, 0),
    "bottom left": (32, 0, 32),
    "bottom right": (32, 32, 32),
}
CORNERS = ("top left", "top right", "bottom left", "bottom right")
ARRANGEMENT_TEMPLATES = {
    "small": ("small {}", "a small {}"),
    "tiny": ("tiny {}", "a tiny {}"),
    "big": ("big {}", "a big {}", "large {}"),
    "left": ("{} on the left", "small {} on the left"),
    "right": ("{} on the right", "small {} on the right"),
    "top": ("{} at the top", "small {} at the top"),
    "bottom": ("{} at the bottom", "small {} at the bottom"),
    "top left": ("{} in the top left corner", "small {} in the top left corner"),
    "top right": ("{} in the top right corner", "small {} in the top right corner"),
    "bottom left": ("{} in the bottom left corner", "small {} in the bottom left corner"),
    "bottom right": ("{} in the bottom right corner", "small {} in the bottom right corner"),
    "corner": ("{} in the corner", "small {} in the corner"),  # any of the four
}
PAIR_TEMPLATES = ("{} and {}", "a {} and a {}")
HELD_OUT_SEED = 13


class Noun(NamedTuple):
    """A thing that captions compose with: which picture, and its name without a colour."""

    index: int
    name: str


def nouns(emoji: list[data.Emoji]) -> list[Noun]:
    """Things of one word; "red apple" gives "apple" (of several with the same name the first)."""
    names = {item.name for item in emoji}
    chosen: dict[str, int] = {}
    for i, item in enumerate(emoji):
        if item.subgroup not in SUBGROUPS:
            continue
        name = item.name
        first, _, rest = name.partition(" ")
        if first in COLOUR_WORDS:
            if rest in names or not rest:
                continue
            name = rest
        if " " not in name and name not in COLOUR_WORDS:
            chosen.setdefault(name, i)
    return [Noun(i, name) for name, i in chosen.items()]


def recolour(picture: np.ndarray, alpha: np.ndarray, colour: str) -> np.ndarray:
    """A picture (64, 64, 3) uint8 in shades of one colour: black, the colour, white in the order of its own luma.

    A power of the luma brings the mean of the thing half-way to the colour's own, so that a lemon can be blue and a
    gorilla yellow; `alpha` (64, 64) in [0, 1] says where the thing is.
    """
    luma = (picture @ np.array([0.299, 0.587, 0.114]) / 255).clip(0, 1)
    wanted = np.array(COLOURS[colour]) / 255
    own = float(wanted @ [0.299, 0.587, 0.114])
    inside = np.where(alpha > 0, (luma - (1 - alpha)) / np.maximum(alpha, 1e-3), 1).clip(0, 1) * 0.92
    mean = float((inside * alpha).sum() / max(alpha.sum(), 1e-6))
    target = 0.5 * (mean + own)
    inside = inside ** (np.log(target) / np.log(np.clip(mean, 0.02, 0.98)))
    dark = wanted * (inside / own)[..., None]
    light = wanted + (1 - wanted) * ((inside - own) / (1 - own))[..., None]
    shade = np.where((inside < own)[..., None], dark, light)
    return ((shade * alpha[..., None] + 1 - alpha[..., None]) * 255).round().clip(0, 255).astype(np.uint8)


def arrange(picture: np.ndarray, arrangement: str) -> np.ndarray:  # (64, 64, 3) -> (64, 64, 3) uint8
    """The picture scaled and moved on white."""
    side, left, top = ARRANGEMENTS[arrangement]
    square = Image.new("RGB", (data.SIDE, data.SIDE), "white")
    square.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(square)


def pair(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures side by side, half as large."""
    both = arrange(left, "left").copy()
    both[:, data.SIDE // 2 :] = arrange(right, "right")[:, data.SIDE // 2 :]
    return both


class HeldOut(NamedTuple):
    """What is asked for and never trained."""

    colours: list[tuple[int, str]]  # number of the noun, colour
    pairs: list[tuple[int, int]]  # numbers of two nouns, in this order; neither order is trained
    places: list[tuple[int, str]]  # number of the noun, arrangement or "corner"


def held_out(things: list[Noun], emoji: list[data.Emoji]) -> HeldOut:
    """100 combinations of a chromatic colour and a noun, 100 pairs of nouns, 50 of a noun and a size or place."""
    generator = np.random.default_rng(HELD_OUT_SEED)
    names = {item.name for item in emoji}
    combinations = [(n, c) for n, thing in enumerate(things) for c in CHROMATIC if f"{c} {thing.name}" not in names]
    colours = [combinations[i] for i in generator.permutation(len(combinations))[:100]]
    order = generator.permutation(len(things))[:200].reshape(100, 2)
    arrangements = [(n, a) for n in range(len(things)) for a in ARRANGEMENT_TEMPLATES]
    places = [arrangements[i] for i in generator.permutation(len(arrangements))[:50]]
    return HeldOut(colours, [(int(a), int(b)) for a, b in order], places)


def composing_captions() -> list[str]:
    """Captions that hold every word that composing adds, for the tokenizer to learn."""
    words = [template.replace("{}", "") for templates in ARRANGEMENT_TEMPLATES.values() for template in templates]
    return [*words, *(template.replace("{}", "") for template in PAIR_TEMPLATES), *COLOURS, "gray"]
