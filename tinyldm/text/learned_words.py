"""Learned words (textual inversion) in a tokenizer; a word with several vectors stands for as many tokens.

Source: Gal et al. 2022, arXiv:2208.01618.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tinyldm.checkpoints.learned_word import Inversion
from tinyldm.errors import InputError
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.tokenizer_files import AddedToken, TokenizerFiles


class ExtendedTokenizer(Tokenizer):
    """A tokenizer that knows learned words; a word of several tokens is spelled out in prompts before anything else."""

    def __init__(self, content: TokenizerFiles, spelled: Mapping[str, str]) -> None:
        super().__init__(content)
        self.spelled = dict(spelled)

    def encode(self, texts: str | Sequence[str]) -> np.ndarray:
        """Token ids of prompts, `(N, L)`, as `Tokenizer.encode`."""
        return super().encode([self._spell(t) for t in ([texts] if isinstance(texts, str) else texts)])

    def _spell(self, text: str) -> str:
        for word, tokens in self.spelled.items():
            text = text.replace(word, tokens)
        return text


def extend_tokenizer(tokenizer: Tokenizer, inversions: Sequence[Inversion]) -> ExtendedTokenizer:
    """A tokenizer with the learned words added behind its vocabulary. Raises `InputError` for a word it has already."""
    vocab, added = dict(tokenizer.vocab), list(tokenizer.added.values())
    for inversion in inversions:
        for token in inversion.tokens:
            if token in vocab:
                raise InputError(f"the learned word {token!r} is a token already; give it another name")
            vocab[token] = len(vocab)
            added.append(AddedToken(token, normalized=True, special=False))
    content = TokenizerFiles(
        vocab,
        list(tokenizer.ranks),
        added,
        tokenizer.bos_token,
        tokenizer.eos_token,
        tokenizer.pad_token,
        tokenizer.unk_token,
        tokenizer.max_length,
    )
    return ExtendedTokenizer(content, {i.word: " ".join(i.tokens) for i in inversions if len(i.tokens) > 1})
