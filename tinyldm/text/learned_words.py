"""Learned words (textual inversion) in a tokenizer; a word with several vectors stands for as many tokens.

Source: Gal et al. 2022, arXiv:2208.01618.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tinyldm.checkpoints.learned_word import Inversion
from tinyldm.errors import InputError
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.tokenizer_files import AddedToken


def extend_tokenizer(tokenizer: Tokenizer, inversions: Sequence[Inversion]) -> Tokenizer:
    """A tokenizer with the learned words added behind its vocabulary. Raises `InputError` for a word it has already."""
    vocab, added = dict(tokenizer.vocab), list(tokenizer.added.values())
    for inversion in inversions:
        for token in inversion.tokens:
            if token in vocab:
                raise InputError(f"the learned word {token!r} is a token already; give it another name")
            vocab[token] = len(vocab)
            added.append(AddedToken(token, normalized=True, special=False))
    several = {i.word: tuple(i.tokens) for i in inversions if len(i.tokens) > 1}
    return Tokenizer(replace(tokenizer.content, vocab=vocab, added=added, spelled=tokenizer.spelled | several))
