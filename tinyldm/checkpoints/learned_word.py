"""Textual inversion: files of new words whose embeddings were learned, and their rows in a text encoder.

Source: Gal et al. 2022, arXiv:2208.01618. A file holds one or more vectors for one word; a word with several vectors
stands for as many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.views import ChangedSource
from tinyldm.errors import CheckpointError, InputError

TABLE = "embeddings.token_embedding.weight"
# Names of the vectors in files for two text encoders, and of those that name no word.
BY_ENCODER = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
NAMELESS = ("emb_params", "string_to_param.*")


@dataclass(frozen=True)
class Inversion:
    """A learned word: for each text encoder its vectors, `(tokens, D)` float32."""

    word: str
    vectors: dict[str, np.ndarray]

    @property
    def tokens(self) -> list[str]:
        """The tokens that the word stands for: itself, then `word_1`, `word_2`, …"""
        count = len(next(iter(self.vectors.values())))
        return [self.word, *(f"{self.word}_{i}" for i in range(1, count))]


def read_inversion(source: TensorSource, word: str | None = None) -> Inversion:
    """Read a file of a learned word; `word` names it, where the file does not or another name is wanted.

    Raises `CheckpointError` for a file that is none, and `InputError` where no word is named.
    """
    names = list(source.names)
    if set(names) & set(BY_ENCODER):
        vectors = {BY_ENCODER[name]: _vectors(source, name) for name in names if name in BY_ENCODER}
    else:
        found = [name for name in names if name in NAMELESS] or names
        if len(found) != 1:
            raise CheckpointError(f"{source.path}: holds {len(names)} tensors, not the vectors of one learned word")
        vectors = {"text_encoder": _vectors(source, found[0])}
        word = word or (source.metadata.get("name") if found[0] in NAMELESS else found[0])
    if not word:
        raise InputError(f"{source.path}: does not say which word it is; name one")
    if len({len(v) for v in vectors.values()}) != 1:
        raise CheckpointError(f"{source.path}: has different numbers of vectors for its two text encoders")
    return Inversion(word, vectors)


def _vectors(source: TensorSource, name: str) -> np.ndarray:
    value = source.read(name, np.float32)
    value = value[None] if value.ndim == 1 else value
    if value.ndim != 2 or 0 in value.shape or not np.isfinite(value).all():
        raise CheckpointError(f"{source.path}: tensor {quoted(name)} of shape {value.shape} is no learned word")
    return value


class ExtendedTable(ChangedSource):
    """A view of a text encoder whose table of tokens has further rows."""

    def __init__(self, source: TensorSource, rows: np.ndarray):
        super().__init__(source)
        width = source.shape(TABLE)[1]
        if rows.shape[1] != width:
            raise CheckpointError(
                f"{source.path}: its tokens are {width} wide, those of the learned word {rows.shape[1]}"
            )
        self._rows = rows

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        shape = super().shape(name)
        return (shape[0] + len(self._rows), shape[1]) if name == TABLE else shape

    def changes(self, name: str) -> bool:
        """Whether it is the table."""
        return name == TABLE

    def shown(self, name: str, value: np.ndarray) -> np.ndarray:
        """The table with the further rows."""
        return np.concatenate([value, self._rows.astype(value.dtype)])


def extend_encoder(
    config: Mapping[str, Any], source: TensorSource, inversions: Sequence[Inversion], component: str = "text_encoder"
) -> tuple[dict[str, Any], TensorSource]:
    """Config and tensors of a text encoder that knows the learned words, in the order of the tokenizer's."""
    rows = [inversion.vectors[component] for inversion in inversions if component in inversion.vectors]
    if not rows:
        return dict(config), source
    table = ExtendedTable(source, np.concatenate(rows))
    return {**config, "vocab_size": table.shape(TABLE)[0]}, table
