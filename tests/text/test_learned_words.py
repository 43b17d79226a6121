"""Learned words: files of every published kind, the tokenizer and the text encoder with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import write_tokenizer

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.learned_word import Inversion, extend_encoder, read_inversion
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


def test_a_file_that_states_its_word() -> None:
    source = MemorySource({"string_to_param.*": VECTORS}, path="a.pt", metadata={"name": "my-style", "step": "500"})
    assert read_inversion(source).word == "my-style"
    assert read_inversion(source, "owl").word == "owl"


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


def word(name: str, vectors: int) -> Inversion:
    return Inversion(name, {"text_encoder": VECTORS[:vectors]})


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("first", "second"), [("<cat>", "<cat>2"), ("zxq", "zxqdog"), ("a_zxq", "zxq"), ("zxq", "zxq_1x")]
)
@pytest.mark.parametrize("vectors", [(1, 1), (3, 1), (1, 3), (3, 2)])
def test_a_word_that_begins_as_another(order: int, first: str, second: str, vectors: tuple[int, int]) -> None:
    words = [word(first, vectors[0]), word(second, vectors[1])]
    ordered = words[::-1] if order else words
    at_once = extend_tokenizer(Tokenizer.clip(), ordered)
    in_turn = extend_tokenizer(extend_tokenizer(Tokenizer.clip(), ordered[:1]), ordered[1:])
    for tokenizer in (at_once, in_turn):
        for w in words:
            assert tokenizer.tokenize(w.word.upper()) == w.tokens
        assert tokenizer.tokenize(f"{second} {first} {second}") == words[1].tokens + words[0].tokens + words[1].tokens
        ids = tokenizer.ids(first)
        assert ids == list(range(ids[0], ids[0] + vectors[0]))


def test_a_single_token_of_a_word() -> None:
    tokenizer = extend_tokenizer(Tokenizer.clip(), [word("<fox>", 3)])
    assert tokenizer.tokenize("<fox>_1 <fox>") == ["<fox>_1", "<fox>", "<fox>_1", "<fox>_2"]
    apart = extend_tokenizer(Tokenizer.clip(), [word("zxq", 1), word("zxq_1", 1)])
    assert apart.tokenize("zxq zxq_1") == ["zxq", "zxq_1"]  # two words, each of one vector


@pytest.mark.parametrize("layout", ["added_tokens_decoder", "added_tokens.json"])
def test_a_saved_pipeline_with_a_word_of_several_vectors(tmp_path: Path, layout: str) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    words = {"<fox>": 514, "<fox>_1": 515, "<fox>_2": 516, "<owl>": 517, "<owl>_1": 600}
    if layout == "added_tokens.json":
        (tmp_path / "tokenizer" / "added_tokens.json").write_text(json.dumps(words))
    else:
        entries = {w: {"content": w, "normalized": True, "special": False} for w in words}
        special = {"<|startoftext|>": 512, "<|endoftext|>": 513}
        entries |= {w: {"content": w, "normalized": False, "special": True} for w in special}
        config["added_tokens_decoder"] = {str((words | special)[w]): entry for w, entry in entries.items()}
        file.write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert tokenizer.ids("<fox><owl>") == [514, 515, 516, 517]  # the other's second token is not the next


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
