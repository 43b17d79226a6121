"""Learned words: files of every published kind, the tokenizer and the text encoder with them."""

from __future__ import annotations

import numpy as np
import pytest

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.learned_word import extend_encoder, read_inversion
from tinyldm.errors import CheckpointError, InputError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.text_encoder import TextEncoder, TextEncoderConfig, parameters
from tinyldm.runtime import Runtime
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.learned_words import extend_tokenizer

FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64))
VECTORS = np.arange(24, dtype=np.float32).reshape(3, 8) / 24


def file(**tensors: np.ndarray) -> MemorySource:
    return MemorySource(tensors, path="word.safetensors")


@pytest.mark.parametrize(
    ("tensors", "word", "wanted"),
    [
        ({"<fox>": VECTORS}, None, "<fox>"),
        ({"<fox>": VECTORS}, "owl", "owl"),
        ({"emb_params": VECTORS}, "owl", "owl"),
        ({"string_to_param.*": VECTORS, "string_to_token.*": np.array(265)}, "owl", "owl"),
    ],
)
def test_files_for_one_text_encoder(tensors, word, wanted) -> None:
    inversion = read_inversion(file(**tensors), word)
    assert inversion.word == wanted
    assert list(inversion.vectors) == ["text_encoder"]
    np.testing.assert_array_equal(inversion.vectors["text_encoder"], VECTORS)
    assert inversion.tokens == [wanted, f"{wanted}_1", f"{wanted}_2"]


def test_files_for_two_text_encoders() -> None:
    inversion = read_inversion(file(clip_l=VECTORS, clip_g=2 * VECTORS), "fox")
    np.testing.assert_array_equal(inversion.vectors["text_encoder_2"], 2 * VECTORS)


def test_one_vector() -> None:
    assert read_inversion(file(fox=VECTORS[0])).vectors["text_encoder"].shape == (1, 8)


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"emb_params": VECTORS}, InputError, "name one"),
        ({"a": VECTORS, "b": VECTORS}, CheckpointError, "not the vectors of one learned word"),
        ({"a": np.zeros((2, 2, 2))}, CheckpointError, "is no learned word"),
        ({"a": np.full((2, 2), np.nan)}, CheckpointError, "is no learned word"),
        ({"clip_l": VECTORS, "clip_g": VECTORS[:1]}, CheckpointError, "different numbers"),
    ],
)
def test_what_is_refused(tensors, error, message) -> None:
    with pytest.raises(error, match=message):
        read_inversion(file(**tensors), "x" if "clip_l" in tensors else None)


def test_the_tokenizer_spells_a_word_out() -> None:
    clip = Tokenizer.clip()
    words = [read_inversion(file(**{"<fox>": VECTORS})), read_inversion(file(**{"<owl>": VECTORS[:1]}))]
    tokenizer = extend_tokenizer(clip, words)
    assert tokenizer.vocab_size == 49408 + 4
    a, in_ = clip.encode("a")[0, 1], clip.encode("in")[0, 1]
    np.testing.assert_array_equal(
        tokenizer.encode("a <fox> in <owl>")[0, :8], [49406, a, 49408, 49409, 49410, in_, 49411, 49407]
    )
    np.testing.assert_array_equal(tokenizer.encode(["a fox", "two owls"]), clip.encode(["a fox", "two owls"]))
    with pytest.raises(InputError, match="a token already"):
        extend_tokenizer(tokenizer, words[:1])


def test_the_text_encoder_has_further_rows() -> None:
    config = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "max_position_embeddings": 6, "eos_token_id": 9}
    weights = seeded_weights(dict(parameters(TextEncoderConfig(**config))))
    words = [read_inversion(file(fox=VECTORS)), read_inversion(file(owl=VECTORS[:1]))]
    extended, source = extend_encoder(config, MemorySource(weights), words)
    assert extended["vocab_size"] == 14
    table = "embeddings.token_embedding.weight"
    by_hand = {**weights, table: np.concatenate([weights[table], VECTORS, VECTORS[:1]])}
    ids = np.array([[8, 3, 10, 11, 13, 9]])
    wanted = TextEncoder({**config, "vocab_size": 14}, MemorySource(by_hand), FLOAT64)(ids)
    np.testing.assert_array_equal(TextEncoder(extended, source, FLOAT64)(ids), wanted)
    assert extend_encoder(config, source, words, "text_encoder_2") == (config, source)
    with pytest.raises(CheckpointError, match="8 wide, those of the learned word 5"):
        extend_encoder(config, MemorySource(weights), [read_inversion(file(a=np.zeros(5)))])
