"""The CLIP tokenizer: from a prompt to the integers that the text encoder looks up.

The text encoder has one vector for each of some 50,000 *tokens*. Whole words would be too many and would leave out
every word that nobody thought of; single letters would make long sequences of little meaning. Byte-pair encoding is
the compromise: frequent words are one token, rare ones a few pieces, and nothing is out of vocabulary, because the
smallest pieces are the 256 bytes. The way of a prompt, in the order of this file:

1. `normalize`: compose accents (NFC), make any white space one space, lower-case.
2. `split_words`: cut into words: runs of letters, single digits, runs of everything else, and `'s`, `'t`, ….
3. `byte_symbols`: write each word as its UTF-8 bytes, one printable character a byte, the last marked `</w>`.
4. `merge_pairs`: join neighbours, the pair that was most frequent in the training text first.
5. `Tokenizer.encode`: look the pieces up, put the start and end tokens around, cut or pad to the model's length.

    "Red apple's" -> "red apple's" -> red | apple | 's -> red</w> | apple</w> | 's</w> -> 49406 736 3055 568 49407 …

Sources: byte-pair encoding of words, Sennrich, Haddow and Birch 2016 (arXiv:1508.07909, algorithm 1 and section 3.2);
over bytes, Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners", section 2.2); lower-cased, with
an end-of-word mark and the two special tokens, CLIP, Radford et al. 2021 (arXiv:2103.00020, section 2.4).

The tokens are those of `transformers.CLIPTokenizer` 5.23 for every text of characters that Unicode 14 assigns. Beyond
that the tables differ. This file asks Python (`unicodedata.unidata_version`: 14.0 in Python 3.11, 15.0 in 3.12, 15.1 in
3.13); the original composes accents by Unicode 9, knows letters and numbers of Unicode 16, and lower-case forms of 17.
So of the characters younger than Python's tables, letters and numbers count here as "everything else", which is not
parted from punctuation beside it (Kawi U+11F02–11F59, Garay U+10D40–10D85, the CJK extensions H U+31350–323AF and I
U+2EBF0–2EE5D, and smaller blocks), and capitals keep their case (U+1C89, U+A7CB–A7DC, Garay U+10D50–10D65, Beria Erfe
U+16EA0–16EB8).
"""

from __future__ import annotations

import heapq
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from tinyldm.errors import CheckpointError, ConfigError, InputError
from tinyldm.text.tokenizer_files import AddedToken, TokenizerFiles, parse_openai_merges, read_tokenizer_folder

END_OF_WORD = "</w>"
START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
CONTEXT_LENGTH = 77  # tokens that the published CLIP text encoders read, start and end included

# The characters with the Unicode property White_Space, no others: Python's own \s would add U+001C to U+001F.
WHITE_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# Characters younger than Unicode 9 that combine with others (and one whose class was changed later). The tables behind
# the published tokenizer do not know that they do, so no accent may be moved across them or composed with them.
LATE_MARKS = re.compile(
    "([\u07fd\u0898-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b-\u0d3c\u0eba\u1715\u1abf-\u1ace\u1df6-\u1dfa\ua82c"
    "\U00010d24-\U00010d27\U00010eab-\U00010eac\U00010efd-\U00010eff\U00010f46-\U00010f50\U00010f82-\U00010f85"
    "\U00011070\U0001133b\U0001145e\U00011839-\U0001183a\U00011930\U0001193d-\U0001193e\U00011943\U000119e0\U00011a34"
    "\U00011a47\U00011a99\U00011d42\U00011d44-\U00011d45\U00011d97\U00011f41-\U00011f42\U00016ff0-\U00016ff1\U0001e08f"
    "\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef])"
)
CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
WRITTEN_SPECIAL = re.compile(r"(<\|)(startoftext|endoftext)(\|>)")


class TruncationWarning(UserWarning):
    """A prompt has more tokens than the text encoder reads; the message says which words were cut."""


# 1. ------------------------------------------------------------------------------------------------ normal form


def normalize(text: str) -> str:
    """Compose (Unicode NFC), replace each run of white space by one space, lower-case character by character.

    Lower-casing must not look at the neighbours: every `Σ` becomes `σ`, where Python would write `ς` at a word's end.
    """
    text = "".join(unicodedata.normalize("NFC", part) for part in LATE_MARKS.split(text))
    text = WHITE_SPACE.sub(" ", text)
    return text.replace("Σ", "σ").lower()


# 2. ------------------------------------------------------------------------------------------------------ words


def split_words(text: str) -> list[str]:
    """Cut a normalised text into the words that byte-pair encoding works on; the spaces between them are dropped.

    A word is, whichever comes first at its place: a contraction (`'s 't 're 've 'm 'll 'd`), a run of letters, one
    number character, or a run of other characters. The published rule as a regular expression, after which `'don't`
    is `'d`, `on`, `'t`:

        's|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+

    A special token that is still written in the text (say `<|ENDOFTEXT|>`, lower-cased by now) gives three words,
    `<|`, `endoftext` and `|>`, the last of them cut off from punctuation that follows.
    """
    categories = [unicodedata.category(character)[0] for character in text]
    # Letters, numbers, the space, and all else: marks, punctuation, emoji.
    classes = [k if k in "LN" else " " if c == " " else "*" for c, k in zip(text, categories, strict=True)]
    words: list[str] = []
    start = 0
    while start < len(text):
        stop = start + 1
        if special := WRITTEN_SPECIAL.match(text, start):
            words += special.groups()
            stop = special.end()
        elif contraction := CONTRACTION.match(text, start):
            words.append(contraction[0])
            stop = contraction.end()
        elif classes[start] != " ":
            while classes[start] != "N" and stop < len(text) and classes[stop] == classes[start]:
                stop += 1
            words.append(text[start:stop])
        start = stop
    return words


# 3. ------------------------------------------------------------------------------------------------------ bytes


# One printable character for each byte 0..255, so that any byte string can be shown and stored as a text: bytes that
# are printable in Latin-1 stand for themselves, the other 68 for U+0100, U+0101, … in their order.
PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_ALPHABET = [chr(byte if byte in PRINTABLE else 0x100 + OTHERS.index(byte)) for byte in range(256)]
# The inverse: the byte that a character stands for.
BYTE_VALUES = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}


def byte_symbols(word: str) -> list[str]:
    """The UTF-8 bytes of a word as symbols of the byte alphabet, the last one with the end-of-word mark."""
    symbols = [BYTE_ALPHABET[byte] for byte in word.encode()]
    return [*symbols[:-1], symbols[-1] + END_OF_WORD]


def token_bytes(token: str) -> bytes:
    """The bytes that a token stands for (its end-of-word mark stays); one of other characters is taken as UTF-8."""
    if all(character in BYTE_VALUES for character in token):
        return bytes(BYTE_VALUES[character] for character in token)
    return token.encode()


# 4. ------------------------------------------------------------------------------------------ byte-pair encoding


def merge_pairs(symbols: Sequence[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: join neighbours until no neighbouring pair is in the table.

    `ranks` maps a pair to its place in the merge list, which was learned by counting: rank 0 was the most frequent
    pair of neighbours in the training text, rank 1 the most frequent one once all of rank 0 were joined, and so on. To
    encode is to replay that: at each step the pair of lowest rank is joined, the leftmost of equals.

        l o w e r</w>   --(l, o)-->   lo w e r</w>   --(e, r</w>)-->   lo w er</w>   --(lo, w)-->   low er</w>

    Searching the whole word for the best pair at each step would take O(n²). Here the candidates wait in a heap, and
    the symbols form a doubly linked list, so a merge touches its two neighbours only: O(n log n). A candidate one
    of whose symbols has grown since it was queued no longer gives the same text; it is dropped when it comes up.
    """
    symbols = list(symbols)
    end = len(symbols)
    left = list(range(-1, end - 1))  # the index of the neighbour on either side; -1 and `end` mean none
    right = list(range(1, end + 1))
    queue: list[tuple[int, int, str]] = []  # (rank, index of the left symbol, what the merge gives)
    candidates = [(i, i + 1) for i in range(end - 1)]
    while True:
        for i, j in candidates:
            if i >= 0 and j < end and (rank := ranks.get((symbols[i], symbols[j]))) is not None:
                heapq.heappush(queue, (rank, i, symbols[i] + symbols[j]))
        if not queue:
            return [symbol for symbol in symbols if symbol]
        candidates = []
        _, i, merged = heapq.heappop(queue)
        j = right[i]
        if not symbols[i] or j == end or symbols[i] + symbols[j] != merged:
            continue
        symbols[i], symbols[j] = merged, ""  # the right symbol's place stays behind, empty
        right[i] = right[j]
        if right[i] < end:
            left[right[i]] = i
        candidates = [(left[i], i), (i, right[i])]


# 5. -------------------------------------------------------------------------------------------------- tokenizer


class Tokenizer:
    """Turns prompts into token ids and back.

    Build one with `Tokenizer.load` (a checkpoint's tokenizer folder), `Tokenizer.clip` (CLIP's own 49,408 tokens) or
    `Tokenizer.from_vocabulary`. Attributes:

    - `vocab`: token to id; `vocab_size`: how many ids there are; `ranks`: pair of tokens to place in the merge list
    - `bos_token`, `eos_token`, `pad_token`, `unk_token`, and their ids `bos_id`, `eos_id`, `pad_id`, `unk_id`
    - `max_length`: the length L of every row that `encode` returns
    - `content`: what it was made of
    - `added`: the tokens that are recognised as they are written in a prompt, before it is cut into words, the longest
      first; `spelled`: those of them that stand for several tokens
    """

    def __init__(self, content: TokenizerFiles) -> None:
        self.content = content
        self.vocab = content.vocab
        self.ranks = {pair: rank for rank, pair in enumerate(content.merges)}
        self.tokens = {index: token for token, index in content.vocab.items()}
        self.vocab_size = len(content.vocab)
        self.max_length = content.max_length
        self.added = {token.content: token for token in content.added}
        self.bos_token, self.eos_token = content.bos_token, content.eos_token
        self.pad_token, self.unk_token = content.pad_token, content.unk_token
        _check_vocabulary(self.vocab, content.merges)
        if self.max_length < 2:
            raise ConfigError(f"model_max_length is {self.max_length}: 2 at least, for the start and the end token")
        self.bos_id, self.eos_id = self._special_id("bos_token"), self._special_id("eos_token")
        self.pad_id, self.unk_id = self._special_id("pad_token"), self._special_id("unk_token")
        for token in self.added:
            if token not in self.vocab:
                raise CheckpointError(f"added token {token!r} is not in the vocabulary of {self.vocab_size} tokens")
        self.spelled = dict(content.spelled)
        self._added_as_written = _any_of(t.content for t in content.added if not t.normalized)
        self._added_normalized = _any_of(normalize(t.content) for t in content.added if t.normalized)
        self._added_by_form = {normalize(t.content): t.content for t in content.added if t.normalized}

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a tokenizer folder: `tokenizer.json`, or else `vocab.json` and `merges.txt`, and their settings.

        The special tokens, the padding token and `model_max_length` come from `tokenizer_config.json` and
        `special_tokens_map.json`. Raises `CheckpointError` for missing or malformed files, `ConfigError` for a
        tokenizer that is not CLIP's.
        """
        return cls(read_tokenizer_folder(Path(folder)))

    @classmethod
    def clip(cls, pad_token: str = END_OF_TEXT) -> Tokenizer:
        """The tokenizer of OpenAI's CLIP: 49,408 tokens, 77 a prompt, padded with the end token unless told otherwise.

        Built from the merge list that the package carries. In a prompt the special tokens count as written.
        """
        blob = files("tinyldm.text").joinpath("data/bpe_simple_vocab_16e6.txt.gz").read_bytes()
        return cls.from_vocabulary(*parse_openai_merges(blob, sorted(BYTE_ALPHABET)), pad_token=pad_token)

    @classmethod
    def from_vocabulary(
        cls,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        bos_token: str = START_OF_TEXT,
        eos_token: str = END_OF_TEXT,
        pad_token: str = END_OF_TEXT,
        unk_token: str = END_OF_TEXT,
        added: Iterable[AddedToken] = (),
        max_length: int = CONTEXT_LENGTH,
    ) -> Tokenizer:
        """A tokenizer from a table token → id and the merge list, most frequent pair first.

        The four special tokens are recognised in prompts as they are written; `added` names further ones, or changes
        how a special token is recognised.
        """
        table = {token: AddedToken(token) for token in (bos_token, eos_token, unk_token, pad_token)}
        table |= {token.content: token for token in added}
        roles = (bos_token, eos_token, pad_token, unk_token)
        return cls(TokenizerFiles(dict(vocab), list(merges), list(table.values()), *roles, max_length))

    def encode(self, texts: str | Sequence[str]) -> np.ndarray:  # -> (N, L) int64
        """Token ids of one prompt (N = 1) or several: start token, tokens, end token, padding, L = `max_length` in all.

        What does not fit is cut off at the end, with a `TruncationWarning` that names the words cut (a word of which
        only some tokens fit is named too). Raises `InputError` for anything but text, and for a lone surrogate.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        room = self.max_length - 2
        ids = np.full((len(texts), self.max_length), self.pad_id, dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            words = self.words(text)
            tokens = [token for _, pieces in words for token in pieces]
            if len(tokens) > room:
                _warn_of_truncation(words, room)
            line = [self.bos_id, *(self.vocab[token] for token in tokens[:room]), self.eos_id]
            row[: len(line)] = line
        return ids

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text as strings of the byte alphabet, without start, end, padding and truncation."""
        return [token for _, pieces in self.words(text) for token in pieces]

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, without start, end, padding and truncation."""
        return [self.vocab[token] for token in self.tokenize(text)]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = True) -> str:  # ids (L,)
        """The text of a row of ids: its words parted by single spaces, lower-case as the tokens are.

        Bytes that are not UTF-8 (a token can end inside a character) become U+FFFD. Special tokens are left out
        unless `skip_special` is false. Raises `InputError` for an id that the vocabulary does not have.
        """
        tokens = []
        for index in np.asarray(ids).tolist():
            if index not in self.tokens:
                raise InputError(f"token id {index!r} is not one of the vocabulary's {self.vocab_size}")
            token = self.tokens[index]
            if not (skip_special and token in self.added and self.added[token].special):
                tokens.append(token)
        text = b"".join(token_bytes(token) for token in tokens).decode(errors="replace")
        return text.replace(END_OF_WORD, " ").strip()

    def words(self, text: str) -> list[tuple[str, list[str]]]:
        """Each word of a text with its tokens; added tokens are words of their own.

        Raises `InputError` unless it is a text that UTF-8 can hold.
        """
        if not isinstance(text, str):
            raise InputError(f"a prompt must be a text, not {type(text).__name__}")
        if surrogate := LONE_SURROGATE.search(text):
            raise InputError(
                f"character {surrogate.start()} of the prompt is U+{ord(surrogate[0]):04X}, a lone surrogate, "
                "which is half a character; decode the text with its right encoding"
            )
        words = []
        # Cut before and after each added token: at the odd places of what a pattern splits are its matches.
        for place, part in enumerate(self._added_as_written.split(text)):
            if place % 2:
                words.append((part, self._spelled(part)))
                continue
            for place_in_part, piece in enumerate(self._added_normalized.split(normalize(part))):
                if place_in_part % 2:
                    words.append((piece, self._spelled(self._added_by_form[piece])))
                else:
                    for word in split_words(piece):  # a byte that the vocabulary lacks becomes the unknown token
                        symbols = [s if s in self.vocab else self.unk_token for s in byte_symbols(word)]
                        words.append((word, merge_pairs(symbols, self.ranks)))
        return words

    def _spelled(self, token: str) -> list[str]:
        """The tokens that an added token stands for: a learned word may have several."""
        return list(self.spelled.get(token, (token,)))

    def _special_id(self, role: str) -> int:
        token = getattr(self, role)
        if token not in self.vocab:
            raise ConfigError(f"{role} {token!r} is not in the vocabulary of {self.vocab_size} tokens")
        return self.vocab[token]


def _any_of(literals: Iterable[str]) -> re.Pattern[str]:
    """A pattern, one group, for the leftmost, and there the longest, of some strings; of no strings it finds none."""
    ordered = sorted(filter(None, literals), key=len, reverse=True)
    return re.compile("(" + ("|".join(map(re.escape, ordered)) or "(?!)") + ")")


def _warn_of_truncation(words: list[tuple[str, list[str]]], room: int) -> None:
    """Warn of the words that do not fit, or fit in part only."""
    total = 0
    cut = []
    for word, pieces in words:
        total += len(pieces)
        if total > room:
            cut.append(word)
    warnings.warn(
        f"the prompt has {total} tokens and the text encoder reads {room}; cut off: {' '.join(cut)!r}",
        TruncationWarning,
        stacklevel=3,
    )


def _check_vocabulary(vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Raise `CheckpointError` unless ids are distinct and every merge joins two tokens into a third."""
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointError("two tokens of the vocabulary have the same id; each token needs its own")
    for rank, (first, second) in enumerate(merges):
        for token in (first, second, first + second):
            if token not in vocab:
                raise CheckpointError(f"merge {rank}, {first!r} + {second!r}: {token!r} is not in the vocabulary")
