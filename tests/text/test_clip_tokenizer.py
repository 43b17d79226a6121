"""The tokenizer against the original's goldens, a naive byte-pair encoder, and its own invariants."""

import hashlib
import json
import random
import re
import sys
import time
import unicodedata
import warnings
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinyldm.errors import CheckpointError, ConfigError, InputError
from tinyldm.text.clip_tokenizer import (
    AddedToken,
    Tokenizer,
    TruncationWarning,
    byte_symbols,
    merge_pairs,
    normalize,
    split_words,
    token_bytes,
)

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/tokenizer"
EMOJI = ROOT / "weights/emoji/tokenizer"
START, END = "<|startoftext|>", "<|endoftext|>"

# What every supported Python agrees on: the sweep covers the code points, these texts their neighbourhoods.
ASSIGNED = st.characters(max_codepoint=0x2FFFF, categories=("L", "M", "N", "P", "S", "Z", "Cc", "Cf"))
TEXT = st.lists(st.one_of(ASSIGNED, st.sampled_from([" ", "a", "'s", "Σ", "́", "1", END, END.upper(), "photo"]))).map(
    "".join
)


@cache
def clip():
    return Tokenizer.clip()


def golden(name):
    """A golden file's content, its digest verified."""
    content = json.loads((GOLDEN / f"{name}.json").read_text())
    provenance = content.pop("provenance")
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == provenance["sha256"]
    return content, provenance


def quiet(tokenizer, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        return tokenizer.encode(texts)


# ------------------------------------------------------------------------------------------- against the original


def test_vocabulary_is_the_published_one():
    content, _ = golden("texts")
    table = json.dumps(sorted(clip().vocab.items()))
    assert hashlib.sha256(table.encode()).hexdigest() == content["vocabulary"]
    assert (clip().vocab_size, clip().bos_id, clip().eos_id, clip().pad_id) == (49408, 49406, 49407, 49407)


def test_texts_have_the_original_ids():
    content, _ = golden("texts")
    for text, ids in content["texts"]:
        assert clip().ids(text) == ids, ascii(text)


def test_decoded_as_the_original():
    content, _ = golden("texts")
    for ids, skip, text in content["decoded"]:
        assert clip().decode(ids, skip_special=skip) == text


def sweep(blocks):
    """Compare the digests of the ids of all code points in blocks of 256."""
    content, _ = golden("sweep")
    flat = content["ranges"][0]
    runs = list(zip(flat[::2], flat[1::2], strict=True))
    wanted = dict(content["blocks"][0])
    for block in blocks(sorted(wanted)):
        codes = range(block << 8, (block + 1) << 8)
        digest = hashlib.sha256()
        for code in (c for c in codes if any(first <= c <= last for first, last in runs)):
            for pattern in content["surroundings"]:
                digest.update(json.dumps(clip().ids(pattern.replace("{}", chr(code)))).encode())
        assert digest.hexdigest()[:16] == wanted[block], f"code points U+{block:02X}00 to U+{block:02X}FF"


def test_code_points_sampled():
    """The first 1,536 code points and a fifteenth of the others, another one each time."""
    sweep(lambda blocks: blocks[:6] + random.sample(blocks[6:], len(blocks) // 15))


@pytest.mark.slow
def test_every_code_point():
    sweep(lambda blocks: blocks)


def fill_folder(folder, item, merges):
    """Write a golden's folder: its settings, and CLIP's vocabulary cut after the first merges."""
    merges = list(clip().ranks)[:merges]
    vocab = {token: index for index, token in enumerate([*list(clip().vocab)[: 512 + len(merges)], START, END])}
    for name, content in item["files"].items():
        if name == "tokenizer.json":
            content["model"] |= {"vocab": vocab, "merges": [list(pair) for pair in merges]}
        (folder / name).write_text(json.dumps(content))
    if "tokenizer.json" not in item["files"]:
        (folder / "vocab.json").write_text(json.dumps(vocab))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


FOLDERS = golden("folders")[0]


@pytest.mark.parametrize("item", FOLDERS["folders"], ids=[item["name"] for item in FOLDERS["folders"]])
def test_published_folder(item, tmp_path):
    fill_folder(tmp_path, item, FOLDERS["merges"])
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.max_length == item["max_length"]
    assert tokenizer.vocab_size == item["size"]
    assert {role: getattr(tokenizer, f"{role}_id") for role in item["ids"]} == item["ids"]
    for text, ids in item["rows"]:
        assert quiet(tokenizer, text).tolist() == [ids], text


def test_unknown_bytes_and_merges_in_any_order():
    for item in golden("small")[0]["vocabularies"]:
        tokenizer = Tokenizer.from_vocabulary(item["vocab"], [tuple(pair) for pair in item["merges"]])
        for text, ids in item["texts"]:
            assert tokenizer.ids(text) == ids, (text, item["merges"])


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the embedded checkpoint is not here")
def test_embedded_tokenizer(tmp_path):
    tokenizer = Tokenizer.load(EMOJI)
    if (EMOJI / "vocab.json").is_file() and (EMOJI / "merges.txt").is_file():  # both ways of storing it agree
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((EMOJI / name).read_bytes())
        other = Tokenizer.load(tmp_path)
        assert (other.vocab, other.ranks, other.max_length) == (tokenizer.vocab, tokenizer.ranks, tokenizer.max_length)
    assert tokenizer.decode(tokenizer.encode("Red  Apple")[0]) == "red apple"
    if (GOLDEN / "emoji.json").is_file():
        content, provenance = golden("emoji")
        digest = hashlib.sha256((EMOJI / "tokenizer.json").read_bytes()).hexdigest()
        assert digest == provenance["tokenizer_json"], "made for another tokenizer: run tests/golden/make_tokenizer.py"
        for text, ids in content["texts"]:
            assert quiet(tokenizer, text).tolist() == [ids], text


# ------------------------------------------------------------------------------------ against a naive byte-pair encoder


def naive_bpe(symbols, merges):
    """Sennrich et al., algorithm 1, replayed: for each merge in order, join it wherever it occurs."""
    symbols = list(symbols)
    for pair in merges:
        i = 0
        while i + 1 < len(symbols):
            if (symbols[i], symbols[i + 1]) == pair:
                symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
            i += 1
    return symbols


@st.composite
def learned_merges(draw):
    """Merges as training gives them: each joins symbols that exist by then, no product twice."""
    symbols = ["a", "b", "c", "a</w>", "b</w>", "c</w>"]
    merges = []
    for _ in range(draw(st.integers(0, 12))):
        left = draw(st.sampled_from([s for s in symbols if not s.endswith("</w>")]))
        right = draw(st.sampled_from(symbols))
        if left + right not in symbols:
            merges.append((left, right))
            symbols.append(left + right)
    return merges


@settings(deadline=None, max_examples=200)
@given(merges=learned_merges(), word=st.text("abc", min_size=1, max_size=30))
def test_merging_by_rank_is_replaying_the_merges(merges, word):
    symbols = byte_symbols(word)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    assert merge_pairs(symbols, ranks) == naive_bpe(symbols, merges)


@settings(deadline=None, max_examples=100)
@given(word=st.text("aeinorstlc", min_size=1, max_size=40))
def test_published_merges_by_the_naive_rule(word):
    """At each step search the whole word for the pair of lowest rank, leftmost first."""
    symbols = byte_symbols(word)
    found = merge_pairs(symbols, clip().ranks)
    while candidates := [(clip().ranks[p], i) for i, p in enumerate(pairwise(symbols)) if p in clip().ranks]:
        i = min(candidates)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    assert found == symbols


def test_example_of_the_docstring():
    ranks = {("l", "o"): 0, ("e", "r</w>"): 1, ("lo", "w"): 2}
    assert merge_pairs(byte_symbols("lower"), ranks) == ["low", "er</w>"]


def test_long_words_are_no_trouble():
    word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=20_000))
    start = time.perf_counter()
    ids = clip().ids(word)
    assert time.perf_counter() - start < 5  # some 0.1 s; a search of the whole word at each merge takes minutes
    assert clip().decode(ids) == word


# ------------------------------------------------------------------------------------------------------ invariants


@settings(deadline=None, max_examples=200)
@given(text=TEXT)
def test_round_trip_of_words(text):
    """Decoding gives the words back, whatever they are made of, with single spaces between."""
    words = [word for part in text.split(END) for word in split_words(normalize(part))]
    assume("</w>" not in " ".join(words))  # which decoding cannot tell from an end of word
    assert clip().decode(clip().ids(text)) == " ".join(words).strip()  # as the original strips


@settings(deadline=None, max_examples=200)
@given(text=TEXT)
def test_words_lose_nothing_but_white_space(text):
    words = split_words(normalize(text))
    assert "".join(words) == normalize(text).replace(" ", "")
    for word in words:
        assert b"".join(token_bytes(token) for token in byte_symbols(word)) == word.encode() + b"</w>"


@settings(deadline=None, max_examples=200)
@given(text=TEXT)
def test_normal_form(text):
    once = normalize(text)
    assert "  " not in once
    assert set(once) & set("\t\n\v\f\r\x85\xa0\u2003\u2028\u3000") == set()
    if all(ord(c) < 0x250 for c in text):  # no sigma there, no late marks, little white space
        assert once == re.sub("[\t-\r \x85\xa0]+", " ", unicodedata.normalize("NFC", text).lower())


@settings(deadline=None, max_examples=100)
@given(texts=st.lists(TEXT, max_size=4), length=st.integers(2, 20))
def test_rows_are_start_tokens_end_padding(texts, length):
    tokenizer = Tokenizer.from_vocabulary(clip().vocab, [], pad_token="!", max_length=length)
    rows = quiet(tokenizer, texts)
    assert rows.shape == (len(texts), length)
    assert rows.dtype == np.int64
    for row, text in zip(rows.tolist(), texts, strict=True):
        ids = tokenizer.ids(text)[: length - 2]
        assert row == [49406, *ids, 49407] + [0] * (length - 2 - len(ids))


def test_one_text_is_a_batch_of_one():
    assert clip().encode("a cat").shape == (1, 77)
    assert clip().encode([]).shape == (0, 77)
    assert clip().encode("a cat")[0, :5].tolist() == [49406, 320, 2368, 49407, 49407]
    assert clip().encode(("a cat", "a dog")).shape == (2, 77)


def test_nothing_is_cut_without_a_warning():
    fits = "word " * 75
    assert clip().encode(fits)[0, -1] == clip().eos_id  # warnings are errors here
    with pytest.warns(
        TruncationWarning, match=r"has 76 tokens and the text encoder reads 75; cut off: 'last'"
    ) as record:
        clip().encode(fits + "last")
    assert record[0].filename == __file__


def test_warning_names_words_cut_in_part():
    with pytest.warns(TruncationWarning, match=r"cut off: 'supercalifragilistic !\?'"):
        clip().encode("a " * 74 + "SUPERCALIFRAGILISTIC !?")


def test_special_tokens_in_a_prompt():
    assert clip().tokenize(f"a{END}b") == ["a</w>", END, "b</w>"]
    assert clip().tokenize("<|ENDOFTEXT|>!")[-2:] == ["></w>", "!</w>"]
    anycase = Tokenizer.from_vocabulary(clip().vocab, list(clip().ranks), added=[AddedToken(END, normalized=True)])
    assert anycase.tokenize("a<|EndOfText|>B") == ["a</w>", END, "b</w>"]


def test_longest_added_token_wins():
    words = ["red</w>", "reddish</w>", "ish</w>"]
    tokenizer = Tokenizer.from_vocabulary(clip().vocab, [], added=[AddedToken(word) for word in words])
    assert tokenizer.tokenize("red</w>reddish</w>") == ["red</w>", "reddish</w>"]
    nested = Tokenizer.from_vocabulary(clip().vocab, [], added=[AddedToken("red"), AddedToken("reddish</w>")])
    assert nested.tokenize("reddish</w>red") == ["reddish</w>", "red"]


def test_decode_leaves_special_tokens_out():
    ids = clip().encode("Red apple's")[0]
    assert clip().decode(ids) == "red apple 's"
    assert clip().decode(ids[:5], skip_special=False) == "<|startoftext|>red apple 's <|endoftext|>"
    assert clip().decode([]) == ""


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(("text", "position"), [("\ud83d", 0), ("a cat \udc00!", 6), ("👍\udfff", 1)])
def test_lone_surrogate(text, position):
    with pytest.raises(InputError, match=rf"character {position} of the prompt is U\+D.*lone surrogate"):
        clip().encode(["fine", text])


@pytest.mark.parametrize("texts", [[None], [b"bytes"], [["nested"]], [3]])
def test_prompts_are_texts(texts):
    with pytest.raises(InputError, match="a prompt must be a text, not"):
        clip().encode(texts)


@pytest.mark.parametrize("index", [-1, 49408, 1.5])
def test_decode_of_an_unknown_id(index):
    with pytest.raises(InputError, match="is not one of the vocabulary's 49408"):
        clip().decode([index])


VOCAB = {"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab": 4, START: 5, END: 6}


def test_bad_vocabulary():
    with pytest.raises(CheckpointError, match="same id"):
        Tokenizer.from_vocabulary(VOCAB | {"b": 0}, [])
    with pytest.raises(CheckpointError, match=r"merge 1, 'b' \+ 'a': 'ba' is not in the vocabulary"):
        Tokenizer.from_vocabulary(VOCAB, [("a", "b"), ("b", "a")])
    with pytest.raises(ConfigError, match=r"pad_token '!' is not in the vocabulary"):
        Tokenizer.from_vocabulary(VOCAB, [], pad_token="!")
    with pytest.raises(CheckpointError, match=r"added token '<x>' is not in the vocabulary"):
        Tokenizer.from_vocabulary(VOCAB, [], added=[AddedToken("<x>")])
    with pytest.raises(ConfigError, match="model_max_length is 1"):
        Tokenizer.from_vocabulary(VOCAB, [], max_length=1)


def whole_file(**changes):
    """A minimal tokenizer.json; changes go into its model, or over it with a leading underscore."""
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": VOCAB, "merges": ["a b"]}
    steps = {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Replace"}, {"type": "Lowercase"}],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]},
    }
    top = {key[1:]: value for key, value in changes.items() if key.startswith("_")}
    model |= {key: value for key, value in changes.items() if not key.startswith("_")}
    return steps | {"model": model} | top


BROKEN = [
    ({}, CheckpointError, "neither tokenizer.json nor both vocab.json and merges.txt"),
    ({"vocab.json": VOCAB}, CheckpointError, "neither tokenizer.json nor"),
    ({"vocab.json": "{", "merges.txt": ""}, CheckpointError, "vocab.json: is not JSON"),
    ({"vocab.json": [1], "merges.txt": ""}, CheckpointError, "vocab.json: is a JSON list, wanted an object"),
    ({"vocab.json": {"a": "x"}, "merges.txt": ""}, CheckpointError, "token 'a' has id 'x'"),
    (
        {"vocab.json": VOCAB, "merges.txt": "#version: 0.2\na b\na\n"},
        CheckpointError,
        "merge at line 3 must be two tokens",
    ),
    ({"tokenizer.json": {"version": "1.0"}}, CheckpointError, "has no object `model`"),
    ({"tokenizer.json": whole_file(type="WordPiece")}, ConfigError, "model.type is 'WordPiece'"),
    ({"tokenizer.json": whole_file(end_of_word_suffix=None)}, ConfigError, "model.end_of_word_suffix is None"),
    ({"tokenizer.json": whole_file(dropout=0.1)}, ConfigError, "model.dropout is 0.1"),
    ({"tokenizer.json": whole_file(merges=None)}, CheckpointError, "model.merges must be a list"),
    ({"tokenizer.json": whole_file(merges=[["a"]])}, CheckpointError, "must be two tokens"),
    ({"tokenizer.json": whole_file(vocab=[])}, CheckpointError, "must be an object that maps tokens"),
    ({"tokenizer.json": whole_file(_normalizer=None)}, ConfigError, r"steps of normalizer are \[\]"),
    ({"tokenizer.json": whole_file(_pre_tokenizer={"type": "ByteLevel"})}, ConfigError, "steps of pre_tokenizer"),
    (
        {
            "tokenizer.json": whole_file(
                _post_processor={"type": "RobertaProcessing", "sep": ["a", 0], "cls": [START, 5]}
            )
        },
        ConfigError,
        "post_processor makes",
    ),
    ({"tokenizer.json": whole_file(_post_processor={"type": "Other"})}, CheckpointError, "post_processor is malformed"),
    (
        {"tokenizer.json": whole_file(_added_tokens=[{"id": 9, "content": END}])},
        CheckpointError,
        "has two ids, 9 and 6",
    ),
    ({"tokenizer.json": whole_file(_added_tokens=[{"content": "z"}])}, CheckpointError, "has id None"),
    (
        {"tokenizer.json": whole_file(), "tokenizer_config.json": {"padding_side": "left"}},
        ConfigError,
        "padding_side is 'left'",
    ),
    (
        {"tokenizer.json": whole_file(), "tokenizer_config.json": {"model_max_length": "77"}},
        ConfigError,
        "model_max_length",
    ),
    (
        {"tokenizer.json": whole_file(), "tokenizer_config.json": {"bos_token": 3}},
        CheckpointError,
        "a token must be a string",
    ),
    (
        {"tokenizer.json": whole_file(), "tokenizer_config.json": {"pad_token": {"content": "a", "lstrip": True}}},
        ConfigError,
        "has lstrip; only false is supported",
    ),
    (
        {"tokenizer.json": whole_file(), "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}},
        ConfigError,
        "T5Tokenizer",
    ),
]


@pytest.mark.parametrize(("content", "error", "message"), BROKEN)
def test_broken_folder(content, error, message, tmp_path):
    for name, value in content.items():
        (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(error, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_minimal_file_is_fine(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole_file()))
    assert Tokenizer.load(tmp_path).ids("abb ab") == [4, 3, 0, 3]


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        Tokenizer.load(tmp_path / "tokenizer")


def test_python_knows_unicode_14():
    assert tuple(map(int, unicodedata.unidata_version.split("."))) >= (14, 0, 0), sys.version
