"""Prompts of any length in chunks; ids and weights against goldens are in tests/pipelines/test_golden_prompts.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.checkpoints.embedded import embedded
from tinyldm.checkpoints.learned_word import Inversion
from tinyldm.errors import InputError
from tinyldm.text.chunks import chunked, empty_chunk
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.learned_words import extend_tokenizer
from tinyldm.text.prompt_syntax import BREAK, Part, read_weights

CLIP = Tokenizer.clip()
OPENCLIP = Tokenizer.clip(pad_token="!")
SMALL = Tokenizer.load(embedded() / "tokenizer")
PIECES = st.sampled_from(["a", " fox", ",", ", an owl", "(red:1.3)", "[blue]", " BREAK ", " crab" * 9])
PROMPTS = st.lists(PIECES, max_size=60).map("".join)


def words_of(chunks: list, tokenizer: Tokenizer) -> list[tuple[int, float]]:
    """The tokens of chunks with their weights, without start, end and padding."""
    found = []
    for ids, weights in chunks:
        stop = ids.index(tokenizer.eos_id)
        found += list(zip(ids[1:stop], weights[1:stop], strict=True))
    return found


@pytest.mark.parametrize("tokenizer", [CLIP, OPENCLIP, SMALL], ids=["clip", "openclip", "embedded"])
@settings(max_examples=40, deadline=None)
@given(prompt=PROMPTS)
def test_no_token_is_lost_and_every_chunk_is_whole(tokenizer: Tokenizer, prompt: str) -> None:
    parts = read_weights(prompt)
    chunks = chunked(parts, tokenizer)
    wanted = [(index, part.weight) for part in parts if part != BREAK for index in tokenizer.ids(part.text)]
    assert words_of(chunks, tokenizer) == wanted
    for ids, weights in chunks:
        stop = ids.index(tokenizer.eos_id)
        assert len(ids) == len(weights) == tokenizer.max_length
        assert ids[0] == tokenizer.bos_id
        assert set(ids[stop + 1 :]) <= {tokenizer.pad_id}
        assert set(weights[stop:]) == {1.0}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["a", "fox", ",", "owl"]), max_size=75).map(" ".join))
def test_a_prompt_that_fits_is_what_the_tokenizer_makes_of_it(prompt: str) -> None:
    for tokenizer in (CLIP, OPENCLIP):
        (chunk,) = chunked(read_weights(prompt), tokenizer)
        assert chunk.ids == tokenizer.encode(prompt)[0].tolist()


def lengths(prompt: str, tokenizer: Tokenizer = CLIP) -> list[int]:
    """The words of every chunk."""
    return [ids.index(tokenizer.eos_id) - 1 for ids, _ in chunked(read_weights(prompt), tokenizer)]


def test_a_full_chunk_ends_behind_its_last_comma() -> None:
    assert lengths("fox " * 80) == [75, 5]
    assert lengths("fox " * 60 + ", " + "owl " * 20) == [61, 20]
    assert lengths("fox " * 55 + ", " + "owl " * 25) == [56, 25]  # 20 tokens from the end, the comma among them
    assert lengths("fox " * 54 + ", " + "owl " * 25) == [75, 5]  # 21
    assert lengths("fox " * 75 + ", owl") == [75, 2]  # a comma begins the next one, rather than to move what is before
    assert lengths("fox " * 60 + ", " + "owl " * 20 + "BREAK crab") == [61, 20, 1]


def test_breaks() -> None:
    assert lengths("fox BREAK owl") == [1, 1]
    assert lengths("fox BREAK BREAK owl BREAK") == [1, 0, 1]
    assert lengths("BREAK fox") == [0, 1]
    assert lengths("") == lengths("BREAK") == [0]
    assert chunked([], CLIP) == [empty_chunk(CLIP)]


def test_shorter_text_encoders_have_shorter_chunks() -> None:
    """14 tokens of 16 places; a comma is looked for in the last three."""
    assert lengths("fox " * 20, SMALL) == [14, 6]
    assert lengths("fox " * 11 + "," + "owl " * 3, SMALL) == [12, 3]
    assert lengths("fox " * 10 + "," + "owl " * 4, SMALL) == [14, 1]


def test_a_learned_word_is_not_parted() -> None:
    word = Inversion("<cat-toy>", {"text_encoder": np.zeros((10, 4), np.float32)})
    tokenizer = extend_tokenizer(CLIP, [word])
    assert lengths("fox " * 70 + "<cat-toy> (owl:1.2)", tokenizer) == [70, 11]
    assert lengths("fox " * 65 + "(<cat-toy>:1.3)", tokenizer) == [75]
    (chunk,) = chunked(read_weights("a (<cat-toy>:1.3)"), tokenizer)
    assert chunk.ids[2:12] == [tokenizer.vocab[token] for token in word.tokens]
    assert chunk.weights[1:13] == [1.0, *[1.3] * 10, 1.0]
    longer = extend_tokenizer(SMALL, [Inversion("<x>", {"text_encoder": np.zeros((15, 4), np.float32)})])
    with pytest.raises(InputError, match="15 tokens is longer than a chunk of 14"):
        chunked([Part("<x>", 1.0)], longer)


def test_a_weight_that_is_no_number() -> None:
    assert math.isinf(read_weights("(" * 8000 + "a")[0].weight)
    with pytest.raises(InputError, match="the weight of 'a' is inf"):
        chunked(read_weights("(" * 8000 + "a"), CLIP)
