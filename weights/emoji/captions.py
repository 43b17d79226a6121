"""The pictures that training draws from, with their captions: plain, recoloured, arranged, and in pairs.

All pictures stand in one bank, and their latents in another, encoded once by the frozen autoencoder. A caption comes
with two rows of it: the left half of one beside the right half of the other is the picture. Of latents, too: two halves
are what the encoder makes of both pictures side by side, but for the seam.
"""

import argparse
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any, NamedTuple

import compose
import data
import numpy as np
import torch
from torch import Tensor

KINDS = ("plain", "colour", "pair", "place", "both")  # both: a colour and a place, or a pair of colours
SHARES = (0.26, 0.24, 0.32, 0.13, 0.05)
PLAIN_TEMPLATES = data.TEMPLATES
COLOUR_TEMPLATES = ("{} {}", "{} {}", "a {} {}", "{} {} emoji", "an emoji of {} {}")
NONSENSE = 0.03  # how often an unknown word is put into a caption, so that the model learns to ignore such
ALL_NONSENSE = 0.01  # how often a caption is nothing but unknown words
MUTED = 0.5  # how often brown, black and grey come, measured by the colours that have a hue
COLOURS = list(compose.COLOURS)
ARRANGEMENTS = list(compose.ARRANGEMENTS)
CHUNK = 5000  # captions drawn at a time


class Rows:
    """Where each picture stands in the bank of all pictures: plain, recoloured, arranged, recoloured and arranged."""

    def __init__(self, plain: int, things: int) -> None:
        self.plain, self.things = plain, things

    def colour(self, n: int, c: int) -> int:
        return self.plain + n * len(COLOURS) + c

    def arranged(self, n: int, arrangement: str) -> int:
        return self.colour(self.things, 0) + n * len(ARRANGEMENTS) + ARRANGEMENTS.index(arrangement)

    def half(self, n: int, c: int, side: str) -> int:
        return self.arranged(self.things, ARRANGEMENTS[0]) + (2 * n + (side == "right")) * len(COLOURS) + c


def pictures_of_thing(arguments: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    """One thing, by its picture and alpha, in every colour, every arrangement, and both on the left and the right."""
    picture, alpha = arguments
    colours = [compose.recolour(picture, alpha, c) for c in COLOURS]
    halves = [compose.arrange(p, side) for side in ("left", "right") for p in colours]
    return np.stack(colours), np.stack([compose.arrange(picture, a) for a in ARRANGEMENTS]), np.stack(halves)


def all_pictures(things: list[compose.Noun], plain: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The bank of all pictures in the order of `Rows`, (N, 64, 64, 3) uint8."""
    with Pool() as pool:
        made = pool.map(pictures_of_thing, [(plain[t.index], alpha[t.index]) for t in things], chunksize=8)
    return np.concatenate([plain, *(np.concatenate(kind) for kind in zip(*made, strict=True))])


def beside(bank: Tensor, left: Tensor, right: Tensor) -> Tensor:  # (N, C, h, w), (B,), (B,) -> (B, C, h, w)
    """The left half of some rows of a bank of pictures or latents, the right half of others."""
    middle = bank.shape[-1] // 2
    return torch.cat([bank[left, ..., :middle], bank[right, ..., middle:]], -1)


def nonsense(generator: Random) -> str:
    """A word that hardly means anything."""
    return "".join(generator.choices(ascii_lowercase, k=generator.randint(3, 7)))


class Captioner:
    """Draws a caption and the two rows of the bank whose halves are its picture; never what is held out."""

    def __init__(self, emoji: list[data.Emoji], tokenizer: Any, shares: Sequence[float] = SHARES) -> None:
        self.emoji, self.tokenizer, self.shares = emoji, tokenizer, shares
        self.things = compose.nouns(emoji)
        self.rows = Rows(len(emoji), len(self.things))
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

    def plain(self, generator: Random) -> tuple[str, int, int]:
        i = generator.randrange(len(self.emoji))
        name = self.emoji[i].name
        if i in self.aliases and generator.random() < 0.4:
            name = self.aliases[i]
        return generator.choice(PLAIN_TEMPLATES).format(name), i, i

    def colour(self, generator: Random) -> tuple[str, int, int]:
        n = generator.randrange(len(self.things))
        c, word = self.colour_of(n, generator)
        row = self.rows.colour(n, c)
        return generator.choice(COLOUR_TEMPLATES).format(word, self.things[n].name), row, row

    def pair(self, generator: Random) -> tuple[str, int, int]:
        a, b = self.two(generator)
        caption = generator.choice(compose.PAIR_TEMPLATES).format(self.things[a].name, self.things[b].name)
        return caption, self.rows.arranged(a, "left"), self.rows.arranged(b, "right")

    def place(self, generator: Random) -> tuple[str, int, int]:
        while True:
            n = generator.randrange(len(self.things))
            wanted = generator.choice(list(compose.ARRANGEMENT_TEMPLATES))
            if (n, wanted) in self.held_places:
                continue
            shown = generator.choice(compose.CORNERS) if wanted == "corner" else wanted
            caption = generator.choice(compose.ARRANGEMENT_TEMPLATES[wanted]).format(self.things[n].name)
            row = self.rows.arranged(n, shown)
            return caption, row, row

    def both(self, generator: Random) -> tuple[str, int, int]:
        a, b = self.two(generator)
        (c, first), (d, second) = self.colour_of(a, generator), self.colour_of(b, generator)
        side = generator.choice(("left", "right", "", ""))
        if side and (a, side) not in self.held_places:
            row = self.rows.half(a, c, side)
            return f"{first} {self.things[a].name} on the {side}", row, row
        caption = f"{first} {self.things[a].name} and {second} {self.things[b].name}"
        return caption, self.rows.half(a, c, "left"), self.rows.half(b, d, "right")

    def draw(self, generator: Random) -> tuple[list[int], int, int]:
        """Tokens (data.MAX_TOKENS), and the rows whose left and right half are the picture."""
        if generator.random() < ALL_NONSENSE:
            caption = " ".join(nonsense(generator) for _ in range(generator.randint(1, 3)))
            ids = self.tokenizer(caption, add_special_tokens=False).input_ids
            return self.pad(ids), *self.plain(generator)[1:]
        (kind,) = generator.choices(KINDS, self.shares)
        caption, left, right = getattr(self, kind)(generator)
        caption = data.with_articles(caption)
        ids = self.tokens(caption)
        if generator.random() < NONSENSE:
            words = caption.split()
            place = generator.randrange(len(words) + 1)
            strange = self.tokenizer(nonsense(generator), add_special_tokens=False).input_ids
            longer = self.tokens(" ".join(words[:place])) + strange + self.tokens(" ".join(words[place:]))
            if len(longer) <= data.MAX_TOKENS - 2:
                ids = longer
        return self.pad(ids), left, right

    def drawn(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """CHUNK draws: tokens (CHUNK, L) int16 and rows (CHUNK, 2) int32."""
        generator = Random(seed)
        ids, left, right = zip(*(self.draw(generator) for _ in range(CHUNK)), strict=True)
        return np.array(ids, np.int16), np.array([left, right], np.int32).T


class Captions(NamedTuple):
    """Many draws, to be drawn from again."""

    ids: Tensor  # (N, L) int16
    rows: Tensor  # (N, 2) int32

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (count, L), left rows and right rows (count,), all int64."""
        device = self.ids.device
        chosen = torch.randint(len(self.ids), (count,), generator=generator, device=device)
        left, right = self.rows[chosen].long().unbind(1)
        return self.ids[chosen].long(), left, right


def draw_captions(captioner: Captioner, count: int, seed: int) -> Captions:
    """`count` draws, on all processors."""
    with Pool() as pool:
        made = pool.map(captioner.drawn, range(seed * 1_000_000, seed * 1_000_000 + -(-count // CHUNK)))
    ids, rows = (torch.from_numpy(np.concatenate(kind)) for kind in zip(*made, strict=True))
    return Captions(ids, rows)


def make_tokenizer(emoji: list[data.Emoji]) -> Any:  # -> transformers.CLIPTokenizer
    """One token for each word of every caption that is trained."""
    plain = [caption for several in data.all_captions(emoji) for caption in several]
    return data.make_tokenizer(plain + compose.composing_captions())


def load_bank(arguments: argparse.Namespace) -> Tensor:  # -> (N, 3, 64, 64) uint8
    """All pictures, drawn once for a `--work` folder."""
    path = arguments.work / "pictures.npy"
    if not path.exists():
        emoji = data.read_emoji(arguments.names)
        alpha = 1 - data.draw(emoji, arguments.font, mask=True)[..., 0] / 255
        save(path, all_pictures(compose.nouns(emoji), data.draw(emoji, arguments.font), alpha))
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()


def load_captions(arguments: argparse.Namespace) -> Captions:
    """The draws that training takes its batches from, made once for a `--work` folder, on the device."""
    paths = [arguments.work / name for name in ("tokens.npy", "rows.npy")]
    if not all(path.exists() for path in paths):
        emoji = data.read_emoji(arguments.names)
        drawn = draw_captions(Captioner(emoji, make_tokenizer(emoji)), arguments.drawn, arguments.seed)
        for path, tensor in zip(paths, drawn, strict=True):
            save(path, tensor.numpy())
    return Captions(*(torch.from_numpy(np.load(path)).to(arguments.device) for path in paths))


def add_drawn_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--drawn", type=int, default=2_000_000, help="captions that are drawn in advance (%(default)s)")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, array)
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw all pictures and captions of a --work folder.")
    data.add_data_arguments(parser)
    add_drawn_argument(parser)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(device="cpu")
    arguments = parser.parse_args()
    print(f"{len(load_bank(arguments))} pictures, {len(load_captions(arguments).ids)} captions")


if __name__ == "__main__":
    main()
