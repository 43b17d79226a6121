"""BERT's tokenizer: from a prompt to the integers that the first latent-diffusion text encoders look up.

Words are cut into pieces of a fixed vocabulary, the longest piece first; pieces inside a word are marked `##`. The way
of a prompt, in the order of this file:

1. `normalize`: drop control characters, part Chinese characters, drop accents, lower-case.
2. `split_words`: cut at white space, and around each punctuation mark.
3. `longest_pieces`: of each word the longest beginning that is in the vocabulary, and so on with the rest.
4. `WordPiece.encode`: look the pieces up, put `[CLS]` and `[SEP]` around, cut or pad to the model's length.

    "A painter's café" -> a painter ' s cafe -> [CLS] a painter ' s cafe [SEP] [PAD] …

Sources: Devlin et al. 2018 (BERT), arXiv:1810.04805, section 3; Wu et al. 2016, arXiv:1609.08144, section 4.1. The
tokens are those of `transformers.BertTokenizer` 5.23 for the characters that Unicode 14 assigns.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.checkpoints.folder import read_json
from tinyldm.errors import CheckpointError, ConfigError, InputError
from tinyldm.text.clip_tokenizer import LONE_SURROGATE, TruncationWarning

CONTEXT_LENGTH = 77  # tokens that the published text encoders read, [CLS] and [SEP] included
LONGEST_WORD = 100  # characters; a longer word is unknown
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WRITTEN_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
# Blocks of Chinese characters, each of which is a word of its own.
CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
WHITE_SPACE = re.compile("[\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# Marks, format characters and punctuation younger than Unicode 8: the tables behind the published tokenizer do not know
# them as such, so that they are parts of words.
LATE = re.compile(
    "["
    "\u061d\u07fd\u0890-\u0891\u0898-\u089f\u08ca-\u08e2\u09fd-\u09fe\u0a76\u0afa-\u0aff\u0b55\u0c04\u0c3c"
    "\u0c77\u0c84\u0d00\u0d3b-\u0d3c\u0d81\u0eba\u180f\u1885-\u1886\u1abf-\u1ace\u1b7d-\u1b7e\u1df6-\u1dfb"
    "\u2e43-\u2e4f\u2e52-\u2e5d\ua82c\ua8c5\ua8ff\ua9bd\U00010d24-\U00010d27\U00010eab-\U00010ead"
    "\U00010f46-\U00010f50\U00010f55-\U00010f59\U00010f82-\U00010f89\U00011070\U00011073-\U00011074\U000110c2"
    "\U000110cd\U000111c9\U000111cf\U0001123e\U0001133b\U00011438-\U0001143f\U00011442-\U00011444\U00011446"
    "\U0001144b-\U0001144f\U0001145a-\U0001145b\U0001145d-\U0001145e\U00011660-\U0001166c\U000116b9"
    "\U0001182f-\U00011837\U00011839-\U0001183b\U0001193b-\U0001193c\U0001193e\U00011943-\U00011946"
    "\U000119d4-\U000119d7\U000119da-\U000119db\U000119e0\U000119e2\U00011a01-\U00011a0a\U00011a33-\U00011a38"
    "\U00011a3b-\U00011a47\U00011a51-\U00011a56\U00011a59-\U00011a5b\U00011a8a-\U00011a96\U00011a98-\U00011a9c"
    "\U00011a9e-\U00011aa2\U00011c30-\U00011c36\U00011c38-\U00011c3d\U00011c3f\U00011c41-\U00011c45"
    "\U00011c70-\U00011c71\U00011c92-\U00011ca7\U00011caa-\U00011cb0\U00011cb2-\U00011cb3\U00011cb5-\U00011cb6"
    "\U00011d31-\U00011d36\U00011d3a\U00011d3c-\U00011d3d\U00011d3f-\U00011d45\U00011d47\U00011d90-\U00011d91"
    "\U00011d95\U00011d97\U00011ef3-\U00011ef4\U00011ef7-\U00011ef8\U00011fff\U00012ff1-\U00012ff2"
    "\U00013430-\U00013438\U00016e97-\U00016e9a\U00016f4f\U00016fe2\U00016fe4\U0001cf00-\U0001cf2d"
    "\U0001cf30-\U0001cf46\U0001e000-\U0001e006\U0001e008-\U0001e018\U0001e01b-\U0001e021\U0001e023-\U0001e024"
    "\U0001e026-\U0001e02a\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e944-\U0001e94a"
    "\U0001e95e-\U0001e95f"
    "]"
)
CHANGED = {"\u166d": "Po", "\u1734": "Mn", "\U000111c9": "Po"}  # what they were in Unicode 8
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def category(character: str) -> str:
    """The general category of a character in Unicode 8, `"Lo"` for one that is younger and no letter or number."""
    changed = CHANGED.get(character) or ("Lo" if LATE.match(character) else "")
    return changed or unicodedata.category(character)


def normalize(text: str, lowercase: bool = True) -> str:
    """Drop what is invisible, part Chinese characters by spaces, and with `lowercase` drop accents and capitals."""
    kept = []
    for character in text:
        if character in "\t\n\r" or WHITE_SPACE.fullmatch(character):
            # vertical tab, form feed and the C1 line break are control characters to the original
            kept.append("" if character in "\x0b\x0c\x85" else " ")
        elif character == "\ufffd" or category(character) in ("Cc", "Cf", "Co"):
            continue
        else:
            kept.append(f" {character} " if is_chinese(character) else character)
    text = "".join(kept)
    if not lowercase:
        return text
    bare = (c for c in unicodedata.normalize("NFD", text) if category(c) != "Mn")
    return "".join(c.lower() for c in bare)


def is_chinese(character: str) -> bool:
    """Whether a character is in one of the blocks of `CHINESE`."""
    return any(first <= ord(character) <= last for first, last in CHINESE)


def split_words(text: str) -> list[str]:
    """Cut a normalised text at white space, and around each punctuation mark."""
    words: list[str] = []
    for run in filter(None, WHITE_SPACE.split(text)):
        joined = False  # whether the next character belongs to the last word
        for character in run:
            mark = character in ASCII_PUNCTUATION or category(character).startswith("P")
            if joined and not mark:
                words[-1] += character
            else:
                words.append(character)
            joined = not mark
    return words


def longest_pieces(word: str, vocabulary: dict[str, int]) -> list[str]:
    """A word cut into pieces of the vocabulary, the longest first; `[UNK]` where that does not work out."""
    pieces, start = [], 0
    if len(word) > LONGEST_WORD:
        return ["[UNK]"]
    while start < len(word):
        for stop in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:stop]
            if piece in vocabulary:
                pieces.append(piece)
                start = stop
                break
        else:
            return ["[UNK]"]
    return pieces


class WordPiece:
    """Turns prompts into token ids.

    Build one with `WordPiece.load` (a checkpoint's tokenizer folder) or `WordPiece.bert` (the 30,522 pieces of BERT).
    `vocab` is token to id, `vocab_size` how many there are, `max_length` the length of every row.
    """

    def __init__(self, vocab: dict[str, int], max_length: int = CONTEXT_LENGTH, lowercase: bool = True) -> None:
        missing = [token for token in SPECIAL[:4] if token not in vocab]
        if missing:
            raise CheckpointError(f"the vocabulary of {len(vocab)} tokens has no {missing[0]}: is it BERT's?")
        if max_length < 2:
            raise ConfigError(f"model_max_length is {max_length}: 2 at least, for the start and the end token")
        self.vocab, self.vocab_size, self.max_length, self.lowercase = vocab, len(vocab), max_length, lowercase

    @classmethod
    def load(cls, folder: str | Path) -> WordPiece:
        """Read a tokenizer folder: `vocab.txt`, or else `tokenizer.json`, and `tokenizer_config.json`.

        Raises `CheckpointError` for missing or malformed files, `ConfigError` for a setting that is not supported.
        """
        folder = Path(folder)
        config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        for name, value in (("strip_accents", None), ("tokenize_chinese_chars", True), ("do_basic_tokenize", True)):
            if config.get(name, value) != value:
                raise ConfigError(f"{folder}: {name} {config[name]!r} is not supported; supported: {value!r}")
        if (folder / "vocab.txt").is_file():
            vocab = parse_vocabulary((folder / "vocab.txt").read_bytes(), folder / "vocab.txt")
        elif (folder / "tokenizer.json").is_file():
            vocab = vocabulary_of(read_json(folder / "tokenizer.json"), folder / "tokenizer.json")
        else:
            raise CheckpointError(f"{folder}: holds neither vocab.txt nor tokenizer.json")
        length = config.get("model_max_length", CONTEXT_LENGTH)
        if isinstance(length, bool) or not isinstance(length, int | float):
            raise ConfigError(f"{folder}: model_max_length is {length!r}; wanted a number")
        # The published file states the length of BERT itself, which the text encoder does not reach.
        return cls(vocab, int(min(length, CONTEXT_LENGTH)), bool(config.get("do_lower_case", True)))

    @classmethod
    def bert(cls, max_length: int = CONTEXT_LENGTH) -> WordPiece:
        """The tokenizer of the uncased BERT, whose vocabulary the package carries."""
        blob = files("tinyldm.text").joinpath("data/bert-base-uncased-vocab.txt.gz").read_bytes()
        return cls(parse_vocabulary(gzip.decompress(blob), Path("bert-base-uncased-vocab.txt")), max_length)

    def encode(self, texts: str | Sequence[str]) -> np.ndarray:  # -> (N, L) int64
        """Token ids of one prompt (N = 1) or several: `[CLS]`, pieces, `[SEP]`, padding, L = `max_length` in all.

        What does not fit is cut off at the end, with a `TruncationWarning` that names the pieces. Raises `InputError`
        for anything but text, and for a lone surrogate.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        room = self.max_length - 2
        ids = np.full((len(texts), self.max_length), self.vocab["[PAD]"], dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            pieces = self.tokenize(text)
            if len(pieces) > room:
                warnings.warn(
                    f"the prompt has {len(pieces)} tokens and the text encoder reads {room}; "
                    f"cut off: {' '.join(pieces[room:])!r}",
                    TruncationWarning,
                    stacklevel=2,
                )
            line = [self.vocab[token] for token in ("[CLS]", *pieces[:room], "[SEP]")]
            row[: len(line)] = line
        return ids

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without `[CLS]`, `[SEP]`, padding and truncation."""
        if not isinstance(text, str):
            raise InputError(f"a prompt must be a text, not {type(text).__name__}")
        if surrogate := LONE_SURROGATE.search(text):
            raise InputError(f"character {surrogate.start()} of the prompt is a lone surrogate, half a character")
        pieces = []
        for part in WRITTEN_SPECIAL.split(text):
            if part in SPECIAL:
                pieces.append(part)
                continue
            for word in split_words(normalize(part, self.lowercase)):
                pieces += longest_pieces(word, self.vocab)
        return pieces


def parse_vocabulary(blob: bytes, path: Path) -> dict[str, int]:
    """One token a line, numbered from 0. Raises `CheckpointError` for no UTF-8, or a token that is there twice."""
    try:
        lines = blob.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: is no UTF-8 text") from None
    tokens = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{path}: two lines hold the same token; each token needs its own")
    return {token: index for index, token in enumerate(tokens)}


def vocabulary_of(whole: dict[str, Any], path: Path) -> dict[str, int]:
    """The vocabulary of a `tokenizer.json`. Raises `CheckpointError` where it is not that of a WordPiece model."""
    model = whole.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) and model.get("type", "WordPiece") == "WordPiece" else None
    if not isinstance(vocab, dict) or not all(type(index) is int for index in vocab.values()):
        raise CheckpointError(f"{path}: wanted a WordPiece model with a table of tokens and ids")
    return dict(vocab)
