"""The latents that training draws from, with their captions: plain, recoloured, arranged, and in pairs.

All pictures are encoded once by the frozen autoencoder. A pair needs no encoding of its own: the left half of a latent
beside the right half of another is what the encoder makes of both pictures side by side, but for the seam.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import NamedTuple

import compose
import data
import numpy as np
import torch
from torch import Tensor

KINDS = ("plain", "colour", "pair", "place", "both")  # both: a colour and a place, or a pair of colours
SHARES = (0.20, 0.26, 0.34, 0.15, 0.05)
PLAIN_TEMPLATES = data.TEMPLATES
COLOUR_TEMPLATES = ("{} {}", "{} {}", "a {} {}", "{} {} emoji", "an emoji of {} {}")
NONSENSE = 0.03  # how often an unknown word is put into a caption, so that the model learns to ignore such
ALL_NONSENSE = 0.01  # how often a caption is nothing but unknown words
MUTED = 0.5  # how often brown, black and grey come, measured by the colours that have a hue
COLOURS = list(compose.COLOURS)
ARRANGEMENTS = list(compose.ARRANGEMENTS)


class Banks(NamedTuple):
    """Scaled latents, float16."""

    plain: Tensor  # (pictures, 4, 16, 16)
    colour: Tensor  # (nouns, colours, 4, 16, 16)
    arranged: Tensor  # (nouns, arrangements, 4, 16, 16)
    halves: Tensor  # (2, nouns, colours, 4, 16, 16): recoloured, small, on the left and on the right


def pictures_of(things: list[compose.Noun], pictures: np.ndarray, alpha: np.ndarray) -> dict[str, np.ndarray]:
    """All pictures to be encoded, in the shapes of Banks, (..., 64, 64, 3) uint8."""
    colour = np.stack(
        [np.stack([compose.recolour(pictures[t.index], alpha[t.index], c) for c in COLOURS]) for t in things]
    )
    arranged = np.stack([np.stack([compose.arrange(pictures[t.index], a) for a in ARRANGEMENTS]) for t in things])
    halves = np.stack([[[compose.arrange(p, side) for p in row] for row in colour] for side in ("left", "right")])
    return {"plain": pictures, "colour": colour, "arranged": arranged, "halves": halves}


def load_banks(path: Path, make: Callable[[], dict[str, np.ndarray]], encode: Callable[[Tensor], Tensor]) -> Banks:
    """The banks on disk, or made and written there; `encode` takes pixels (N, 3, 64, 64) in [-1, 1]."""
    if path.exists():
        return Banks(**torch.load(path, weights_only=True))
    banks = {}
    for name, pictures in make().items():
        flat = torch.from_numpy(pictures.reshape(-1, data.SIDE, data.SIDE, 3))
        parts = [encode(part.permute(0, 3, 1, 2).float() / 127.5 - 1).cpu().half() for part in flat.split(128)]
        banks[name] = torch.cat(parts).view(*pictures.shape[:-3], 4, data.SIDE // 4, data.SIDE // 4)
        print(f"encoded {name}: {len(flat)} pictures", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(banks, path)
    return Banks(**banks)


def nonsense(generator: Random) -> str:
    """A word that hardly means anything."""
    return "".join(generator.choices(ascii_lowercase, k=generator.randint(3, 7)))


class Captioner:
    """Draws pairs of a caption and a latent; never what is held out."""

    def __init__(self, emoji: list[data.Emoji], tokenizer, banks: Banks, shares: Sequence[float] = SHARES) -> None:
        self.shares = shares
        self.emoji, self.tokenizer, self.banks = emoji, tokenizer, banks
        self.things = compose.nouns(emoji)
        held = compose.held_out(self.things, emoji)
        self.held_pairs = {frozenset(p) for p in held.pairs}
        self.held_places = set(held.places)
        names = {item.name for item in emoji}
        held_colours = set(held.colours)
        weights = [1.0 if c in compose.CHROMATIC else MUTED for c in COLOURS]
        self.colour_weights = [
            [
                w * ((n, c) not in held_colours and f"{c} {t.name}" not in names)
                for c, w in zip(COLOURS, weights, strict=True)
            ]
            for n, t in enumerate(self.things)
        ]
        self.aliases = {t.index: t.name for t in self.things if emoji[t.index].name != t.name}
        self.known: dict[str, list[int]] = {}

    def tokens(self, caption: str) -> list[int]:
        """The tokens of a caption without start and end; words are remembered."""
        ids = []
        for word in caption.split():
            if word not in self.known:
                self.known[word] = self.tokenizer(word, add_special_tokens=False).input_ids
            ids += self.known[word]
        return ids

    def pad(self, ids: list[int]) -> list[int]:
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = [start, *ids[: data.MAX_TOKENS - 2]]
        return ids + [end] * (data.MAX_TOKENS - len(ids))

    def colour_of(self, n: int, generator: Random) -> tuple[int, str]:
        """A colour that may be trained with a noun: its number and a word for it."""
        (c,) = generator.choices(range(len(COLOURS)), self.colour_weights[n])
        word = "gray" if COLOURS[c] == "grey" and generator.random() < 0.3 else COLOURS[c]
        return c, word

    def two(self, generator: Random) -> tuple[int, int]:
        while True:
            a, b = generator.randrange(len(self.things)), generator.randrange(len(self.things))
            if frozenset((a, b)) not in self.held_pairs:
                return a, b

    def plain(self, generator: Random, index: int | None = None) -> tuple[str, Tensor]:
        i = generator.randrange(len(self.emoji)) if index is None else index
        name = self.emoji[i].name
        if i in self.aliases and generator.random() < 0.4:
            name = self.aliases[i]
        return generator.choice(PLAIN_TEMPLATES).format(name), self.banks.plain[i]

    def colour(self, generator: Random) -> tuple[str, Tensor]:
        n = generator.randrange(len(self.things))
        c, word = self.colour_of(n, generator)
        return generator.choice(COLOUR_TEMPLATES).format(word, self.things[n].name), self.banks.colour[n, c]

    def pair(self, generator: Random) -> tuple[str, Tensor]:
        a, b = self.two(generator)
        left, right = (self.banks.arranged[n, ARRANGEMENTS.index(side)] for n, side in ((a, "left"), (b, "right")))
        caption = generator.choice(compose.PAIR_TEMPLATES).format(self.things[a].name, self.things[b].name)
        return caption, beside(left, right)

    def place(self, generator: Random) -> tuple[str, Tensor]:
        while True:
            n = generator.randrange(len(self.things))
            wanted = generator.choice(list(compose.ARRANGEMENT_TEMPLATES))
            if (n, wanted) in self.held_places:
                continue
            shown = generator.choice(compose.CORNERS) if wanted == "corner" else wanted
            caption = generator.choice(compose.ARRANGEMENT_TEMPLATES[wanted]).format(self.things[n].name)
            return caption, self.banks.arranged[n, ARRANGEMENTS.index(shown)]

    def both(self, generator: Random) -> tuple[str, Tensor]:
        a, b = self.two(generator)
        (c, first), (d, second) = self.colour_of(a, generator), self.colour_of(b, generator)
        side = generator.randrange(4)
        if side < 2:
            word = ("left", "right")[side]
            if (a, word) not in self.held_places:
                return f"{first} {self.things[a].name} on the {word}", self.banks.halves[side, a, c]
        caption = f"{first} {self.things[a].name} and {second} {self.things[b].name}"
        return caption, beside(self.banks.halves[0, a, c], self.banks.halves[1, b, d])

    def draw(self, generator: Random) -> tuple[list[int], Tensor]:
        """Tokens (data.MAX_TOKENS) and a latent (4, 16, 16)."""
        if generator.random() < ALL_NONSENSE:
            caption = " ".join(nonsense(generator) for _ in range(generator.randint(1, 3)))
            return self.pad(self.tokenizer(caption, add_special_tokens=False).input_ids), self.plain(generator)[1]
        (kind,) = generator.choices(KINDS, self.shares)
        caption, latent = getattr(self, kind)(generator)
        ids = self.tokens(caption)
        if generator.random() < NONSENSE:
            words = caption.split()
            place = generator.randrange(len(words) + 1)
            strange = self.tokenizer(nonsense(generator), add_special_tokens=False).input_ids
            longer = self.tokens(" ".join(words[:place])) + strange + self.tokens(" ".join(words[place:]))
            if len(longer) <= data.MAX_TOKENS - 2:
                ids = longer
        return self.pad(ids), latent

    def batch(self, count: int, generator: Random) -> tuple[Tensor, Tensor]:  # -> (N, L), (N, 4, 16, 16)
        ids, latents = zip(*(self.draw(generator) for _ in range(count)), strict=True)
        return torch.tensor(ids), torch.stack(latents).float()


def beside(left: Tensor, right: Tensor) -> Tensor:
    """The left half of one latent, the right half of another."""
    middle = left.shape[-1] // 2
    return torch.cat([left[..., :middle], right[..., middle:]], -1)
