"""BERT's tokenizer against the original: texts, every code point, and what it refuses."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tinyldm.errors import CheckpointError, ConfigError, InputError
from tinyldm.text.clip_tokenizer import TruncationWarning
from tinyldm.text.wordpiece import WordPiece, longest_pieces, split_words

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer" / "bert.json"
SMALL = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a", "a", "!"])}


@cache
def bert() -> WordPiece:
    return WordPiece.bert()


@cache
def golden() -> dict:
    content = json.loads(GOLDEN.read_text())
    provenance = content.pop("provenance")
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == provenance["sha256"]
    return content


def test_the_vocabulary_is_the_published_one() -> None:
    import tinyldm.text

    file = Path(tinyldm.text.__file__).parent / "data" / "bert-base-uncased-vocab.txt.gz"
    blob = gzip.decompress(file.read_bytes())
    assert hashlib.sha256(blob).hexdigest() == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert bert().vocab_size == 30522


def test_texts() -> None:
    texts, rows = zip(*golden()["texts"], strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        np.testing.assert_array_equal(bert().encode(list(texts)), np.array(rows))


def sweep(blocks) -> None:
    """Compare the digests of the ids of all code points in blocks of 256."""
    flat = golden()["ranges"][0]
    runs = list(zip(flat[::2], flat[1::2], strict=True))
    wanted = dict(golden()["blocks"][0])
    for block in blocks(sorted(wanted)):
        digest = hashlib.sha256()
        for code in (c for c in range(block << 8, (block + 1) << 8) if any(a <= c <= b for a, b in runs)):
            for pattern in golden()["surroundings"]:
                ids = [bert().vocab[piece] for piece in bert().tokenize(pattern.replace("{}", chr(code)))]
                digest.update(json.dumps(ids).encode())
        assert digest.hexdigest()[:16] == wanted[block], f"code points U+{block:02X}00 to U+{block:02X}FF"


def test_code_points_sampled() -> None:
    """The first 1,536 code points and a fifteenth of the others, another one each time."""
    sweep(lambda blocks: blocks[:6] + random.sample(blocks[6:], len(blocks) // 15))


@pytest.mark.slow
def test_every_code_point() -> None:
    sweep(lambda blocks: blocks)


def test_words_and_pieces() -> None:
    assert split_words("it's a_b  c.") == ["it", "'", "s", "a", "_", "b", "c", "."]
    assert longest_pieces("unaffable", SMALL) == ["un", "##aff", "##able"]
    assert longest_pieces("unaffax", SMALL) == ["[UNK]"]
    np.testing.assert_array_equal(WordPiece(SMALL, 6).encode("Unaffable"), [[2, 4, 5, 6, 3, 0]])


def test_what_is_cut_is_said() -> None:
    with pytest.warns(TruncationWarning, match=r"3 tokens and the text encoder reads 2; cut off: '!'"):
        row = WordPiece(SMALL, 4).encode("a a!")
    np.testing.assert_array_equal(row, [[2, 8, 8, 3]])


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither vocab\.txt"):
        WordPiece.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": SMALL}}))
    assert WordPiece.load(tmp_path).vocab == SMALL
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in SMALL))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, "do_lower_case": True}))
    loaded = WordPiece.load(tmp_path)
    assert (loaded.vocab, loaded.max_length) == (SMALL, 77)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"strip_accents": False}))
    with pytest.raises(ConfigError, match="strip_accents"):
        WordPiece.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="is not JSON"):
        WordPiece.load(tmp_path)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="must be a text"):
        bert().encode([3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="lone surrogate"):
        bert().encode("a\ud800")
    with pytest.raises(CheckpointError, match=r"no \[UNK\]"):
        WordPiece({"[PAD]": 0})
