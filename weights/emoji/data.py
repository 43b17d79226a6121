"""Pictures, captions and tokenizer of the emoji checkpoint, made from two files that Debian packages.

Pictures: the bitmaps of `NotoColorEmoji.ttf` (package `fonts-noto-color-emoji`), on white, 64x64 pixels.
Names: `emoji-test.txt` of the Unicode Consortium (package `unicode-data`), lower-cased, ASCII quotes.
"""

import argparse
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")
BITMAP_SIZE = 109  # the only size at which this font has bitmaps: 136x128 pixels
SIDE = 64
MAX_TOKENS = 16  # the longest caption has 13
TEMPLATES = ("{}", "{}", "a {}", "{} emoji", "an emoji of {}")  # the bare name counts twice

SKIN_TONES = set(range(0x1F3FB, 0x1F400))
JOINER, FEMALE, MALE, MAN, WOMAN = 0x200D, 0x2640, 0x2642, 0x1F468, 0x1F469
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


class Emoji(NamedTuple):
    """A picture's Unicode text, its name, and where Unicode's list has it."""

    text: str
    name: str
    group: str
    subgroup: str


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--font", type=Path, default=FONT, help="NotoColorEmoji.ttf (default: %(default)s)")
    parser.add_argument("--names", type=Path, default=NAMES, help="emoji-test.txt (default: %(default)s)")


def is_gendered_duplicate(codes: tuple[int, ...]) -> bool:
    """Whether a sequence is the man's or woman's variant of a picture that also exists without a gender."""
    joined = JOINER in codes
    return joined and (FEMALE in codes or MALE in codes or codes[0] in (MAN, WOMAN))


def read_emoji(names: Path = NAMES) -> list[Emoji]:
    """The emoji of the checkpoint in file order: no flags, components, skin tones, families or gendered duplicates."""
    group = subgroup = ""
    chosen = []
    for line in names.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.partition(":")[2].strip()
        match = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
        if not match or group in ("Flags", "Component") or subgroup in ("family", "person-symbol"):
            continue
        codes = tuple(int(code, 16) for code in match[1].split())
        if SKIN_TONES & set(codes) or is_gendered_duplicate(codes):
            continue
        name = match[2].lower().translate(str.maketrans("’“”", '\'""'))
        chosen.append(Emoji("".join(map(chr, codes)), name, group, subgroup))
    return chosen


def draw(emoji: list[Emoji], font: Path = FONT, *, mask: bool = False) -> np.ndarray:  # -> (N, 64, 64, 3) uint8
    """Each emoji's bitmap in the middle of a white square, reduced to 64x64 with a Lanczos filter.

    With `mask` black on white in place of its colours: what is not white is covered.
    """
    face = ImageFont.truetype(str(font), BITMAP_SIZE)
    pictures = np.empty((len(emoji), SIDE, SIDE, 3), np.uint8)
    for i, item in enumerate(emoji):
        left, top, right, bottom = (round(edge) for edge in face.getbbox(item.text))
        side = max(right - left, bottom - top)
        square = Image.new("RGBA", (side, side), "white")
        glyph = Image.new("RGBA", (right - left, bottom - top), (255, 255, 255, 0))
        ImageDraw.Draw(glyph).text((-left, -top), item.text, font=face, embedded_color=True)
        if mask:
            black = Image.new("RGBA", glyph.size, "black")
            black.putalpha(glyph.getchannel("A"))
            glyph = black
        square.alpha_composite(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        pictures[i] = np.asarray(square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return pictures


# --- Tokenizer: CLIP's byte-level BPE in CLIP's files --------------------------------------------------------------


def byte_letters() -> list[str]:
    """One printable letter for each byte, in the order of CLIP's vocabulary: printable Latin-1 first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return list(letters.values())


def merge_pair(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    i = 0
    while i < len(word):
        if word[i : i + 2] == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)


def learn_merges(words: Counter[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1) until every word is one token."""
    merges = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))  # ties go to the alphabet's first: no chance involved
        merges.append(best)
        words = Counter({merge_pair(word, best): count for word, count in words.items()})


def make_tokenizer(captions: list[str]):  # -> transformers.CLIPTokenizer
    """A CLIPTokenizer whose merges make each word of the captions one token.

    Vocabulary in CLIP's order: 256 bytes, 256 bytes that end a word, the merges, the two special tokens.
    """
    from transformers import CLIPTokenizer

    letters = byte_letters()
    vocabulary = letters + [letter + "</w>" for letter in letters]
    empty = CLIPTokenizer({token: i for i, token in enumerate([*vocabulary, BOS, EOS])}, [])
    splitter = empty.backend_tokenizer
    words: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        text = splitter.normalizer.normalize_str(caption)
        words.update((*word[:-1], word[-1] + "</w>") for word, _ in splitter.pre_tokenizer.pre_tokenize_str(text))
    merges = learn_merges(words)
    vocabulary += ["".join(pair) for pair in merges] + [BOS, EOS]
    return CLIPTokenizer({token: i for i, token in enumerate(vocabulary)}, merges, model_max_length=MAX_TOKENS)


def forget_paths(folder: Path) -> None:
    """Take out of the configs of a folder where their models were read from."""
    for config in folder.rglob("config.json"):
        text = config.read_text(encoding="utf-8")
        config.write_text(re.sub(r'  "_name_or_path": .*\n', "", text), encoding="utf-8")


def with_articles(caption: str) -> str:
    """ "an apple" for "a apple"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", caption)


def all_captions(emoji: list[Emoji]) -> list[list[str]]:
    """For each emoji its name in every template: a list per emoji, in the order of TEMPLATES."""
    return [[with_articles(template.format(item.name)) for template in TEMPLATES] for item in emoji]


def main() -> None:
    parser = argparse.ArgumentParser(description="List the emoji, or draw all pictures as one sheet.")
    add_data_arguments(parser)
    parser.add_argument("--sheet", type=Path, help="write all pictures to this PNG, 40 a row")
    arguments = parser.parse_args()
    emoji = read_emoji(arguments.names)
    pictures = draw(emoji, arguments.font)
    print(f"{len(emoji)} pictures, {len({item.name for item in emoji})} different names")
    if arguments.sheet:
        columns = 40
        rows = -(-len(emoji) // columns)
        sheet = np.full((rows * columns, SIDE, SIDE, 3), 255, np.uint8)
        sheet[: len(emoji)] = pictures
        sheet = sheet.reshape(rows, columns, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE, 3)
        Image.fromarray(sheet).save(arguments.sheet)


if __name__ == "__main__":
    main()
