"""What a checkpoint makes of the words of a prompt: which it knows, which captions are near, what is not read at all.

A model that was trained on a few thousand captions draws mush for words that were in none of them, and nothing about
the picture says why. CLIP's own vocabulary is another matter: it spells rare words in pieces that it has met often.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from tinyldm.text.clip_tokenizer import END_OF_WORD, Tokenizer, normalize, split_words, token_bytes

CAPTIONS = "captions.txt"  # in the folder of a checkpoint: what it was trained on, one a line
SMALL = 20_000  # tokens; a vocabulary below is one of some captions
# What other programs read in a prompt: adapters, weights of words, alternatives, and words that part a prompt.
OTHERS = r"\{[^{}]*\|[^{}]*\}|\w+\+\++(?=\s|$)"  # which `prompt_syntax` does not read either
SYNTAX = {
    "webui": re.compile(OTHERS),
    "plain": re.compile(
        r"<(?:lora|lyco|hypernet|embedding)s?:[^>]*>"
        r"|\(+[^()]*(?::\s*[-+.\d]+)?\)+|\[[^\[\]]+\]|\b(?:BREAK|AND)\b|" + OTHERS
    ),
}


def unread_syntax(prompts: Iterable[str], syntax: str = "plain") -> list[str]:
    """The parts of prompts that other programs read as instructions, and this one, in that syntax, as words."""
    return list(dict.fromkeys(found[0] for prompt in prompts for found in SYNTAX[syntax].finditer(prompt)))


def read_captions(folder: Path) -> list[str]:
    """The captions that a checkpoint was trained on, where its folder lists them."""
    path = folder / CAPTIONS
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def small_vocabulary(tokenizer: object) -> Tokenizer | None:
    """The tokenizer, where it has the words of some captions only."""
    return tokenizer if isinstance(tokenizer, Tokenizer) and tokenizer.vocab_size < SMALL else None


def whole_words(tokenizer: Tokenizer, captions: Sequence[str] = ()) -> list[str]:
    """The words that a small vocabulary has, in the order of the alphabet: those of the captions, or without captions
    those that are one token, among which are endings of longer ones.
    """
    if captions:
        words = {word for caption in captions for word in split_words(normalize(caption))}
    else:
        words = {text_of([token]) for token in tokenizer.vocab if token.endswith(END_OF_WORD)}
    return sorted(word for word in words if len(word) > 1 and word.isalpha())


def text_of(tokens: Sequence[str]) -> str:
    """The word that tokens spell."""
    return b"".join(map(token_bytes, tokens)).decode(errors="replace").removesuffix(END_OF_WORD)


def unknown_words(tokenizer: Tokenizer, prompt: str, captions: Sequence[str] = ()) -> list[str]:
    """The words of a prompt that a small vocabulary does not have: they are spelled in pieces, or by the end of another
    word (`aple` by that of `maple`), which shows where there are captions.
    """
    known = set(whole_words(tokenizer, captions)) if captions else None
    endings = {second for _, second in tokenizer.ranks}
    words, pieces = [], []
    for token in tokenizer.tokenize(prompt):
        pieces.append(token)
        if token.endswith(END_OF_WORD) or token in tokenizer.added:
            word = text_of(pieces)
            ending = known is not None and len(word) > 3 and token in endings and word not in known
            if len(pieces) > 1 or token == tokenizer.unk_token or ending:
                words.append(word)
            pieces = []
    return list(dict.fromkeys(words))


def nearest_captions(prompt: str, captions: Sequence[str], count: int = 3) -> list[str]:
    """The captions that share the rarest words of a prompt and add the fewest, or else those of like letters."""
    words_of = {caption: set(split_words(normalize(caption))) for caption in captions}
    often = Counter(word for words in words_of.values() for word in words)
    asked = {word for word in split_words(normalize(prompt)) if len(word) > 2}
    shares = {c: sum(1 / often[w] for w in words & asked) / len(words) for c, words in words_of.items()}
    near = sorted((c for c in shares if shares[c]), key=lambda c: -shares[c])[:count]
    return near or get_close_matches(normalize(prompt), captions, count)


def about_unknown(tokenizer: object, folder: Path, prompts: Sequence[str]) -> str:
    """A sentence on the words of prompts that the checkpoint of a folder does not know; "" where it knows all."""
    small = small_vocabulary(tokenizer)
    if small is None:
        return ""
    captions = read_captions(folder)
    unknown = {prompt: unknown_words(small, prompt, captions) for prompt in prompts}
    words = list(dict.fromkeys(word for spelled in unknown.values() for word in spelled))
    if not words:
        return ""
    trained = f"was trained on {len(captions):,} captions and" if captions else "has a vocabulary of its own, and it"
    near = nearest_captions(next(prompt for prompt in prompts if unknown[prompt]), captions)
    hint = f"near are {', '.join(map(repr, near))}; " if near else ""
    said = ", ".join(map(repr, words[:8])) + " …" * (len(words) > 8)
    return f"{folder.name} {trained} does not know {said}; {hint}`tinyldm info` lists the words that it knows"
