"""Which words a small vocabulary knows, which captions are near, and what is prompt syntax elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.checkpoints.embedded import embedded
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.known import (
    nearest_captions,
    read_captions,
    small_vocabulary,
    unknown_words,
    unread_syntax,
    whole_words,
)
from tinyldm.text.wordpiece import WordPiece

FOLDER = embedded()
TOKENIZER = Tokenizer.load(FOLDER / "tokenizer")
CAPTIONS = read_captions(FOLDER)


@pytest.mark.parametrize(
    ("prompt", "unread"),
    [
        ("a <lora:watercolor:0.8> fox", ["<lora:watercolor:0.8>"]),
        ("<hypernet:a:1> <lyco:b>", ["<hypernet:a:1>", "<lyco:b>"]),
        ("(red:1.3) ((big)) [blurry] (soft)", ["(red:1.3)", "((big))", "[blurry]", "(soft)"]),
        ("{red|green} apple++", ["{red|green}", "apple++"]),
        ("fox BREAK owl AND crab", ["BREAK", "AND"]),
        ("a fox, an owl and a crab; <cat-toy> 3-4 it's: x", []),
    ],
)
def test_prompt_syntax(prompt: str, unread: list[str]) -> None:
    assert unread_syntax([prompt]) == unread
    assert unread_syntax([prompt, prompt]) == unread
    assert unread_syntax([prompt], "webui") == [part for part in unread if part[0] == "{" or part.endswith("++")]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(CAPTIONS), min_size=1, max_size=3))
def test_every_caption_is_known_and_nearest_to_itself(captions: list[str]) -> None:
    assert unknown_words(TOKENIZER, ", ".join(captions), CAPTIONS) == []
    assert unknown_words(TOKENIZER, ", ".join(captions)) == []
    assert captions[0] in nearest_captions(captions[0], CAPTIONS, count=25)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_an_answer(text: str) -> None:
    unknown = unknown_words(TOKENIZER, text, CAPTIONS)
    assert len(unknown) == len(set(unknown))
    assert set(nearest_captions(text, CAPTIONS)) <= set(CAPTIONS)
    unread_syntax([text])


def test_words_in_pieces_and_endings_of_others() -> None:
    assert unknown_words(TOKENIZER, "a photo of zxqv", CAPTIONS) == ["photo", "zxqv"]
    assert unknown_words(TOKENIZER, "a maple", CAPTIONS) == []
    assert unknown_words(TOKENIZER, "an aple", CAPTIONS) == ["aple"]  # a token, as the end of maple
    assert unknown_words(TOKENIZER, "an aple") == []  # which shows by the captions alone
    assert unknown_words(TOKENIZER, "яблоко", CAPTIONS) == ["яблоко"]


def test_near_captions() -> None:
    assert nearest_captions("a photo of a cat riding a bicycle", CAPTIONS)[:2] == ["bicycle", "cat"]
    assert nearest_captions("strawbery", CAPTIONS)[0] == "strawberry"
    assert nearest_captions("zxqv", CAPTIONS) == []
    assert nearest_captions("fox", []) == []


def test_words_of_a_vocabulary() -> None:
    words = whole_words(TOKENIZER, CAPTIONS)
    assert words == sorted(set(words))
    assert {"apple", "fox", "zebra"} <= set(words)
    assert set(words) <= set(whole_words(TOKENIZER))  # which has endings besides


def test_large_vocabularies_spell_what_they_know() -> None:
    assert small_vocabulary(Tokenizer.clip()) is None
    assert small_vocabulary(WordPiece.bert(77)) is None
    assert small_vocabulary(None) is None
    assert small_vocabulary(TOKENIZER) is TOKENIZER


def test_folder_without_captions(tmp_path: Path) -> None:
    assert read_captions(tmp_path) == []
