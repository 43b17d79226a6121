"""What a prompt says beside its words: adapters, AND, weights, escapes, BREAK."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.text.prompt_syntax import (
    BREAK,
    STRONGER,
    WEAKER,
    Part,
    Tag,
    read_prompt,
    read_weights,
    split_and,
    split_tags,
)

WORDS = st.text("abc xyz,.!()[]\\:é", max_size=12)
WEIGHTS = st.floats(0.1, 9).map(lambda weight: round(weight, 3))
PIECES = [*"ab :()[]|\\<>.1-\n", "BREAK", " AND ", ":1.3)", ":0.5]", "<lora:x:1>"]
ANYTHING = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def escaped(text: str) -> str:
    """A text as it is written so that it is read as itself."""
    return re.sub(r"([()\[\]\\])", r"\\\1", text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a red apple", [("a red apple", 1)]),
        ("", [("", 1)]),
        ("a (red) apple", [("a ", 1), ("red", 1.1), (" apple", 1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("[[red]]", [("red", 1 / 1.1 * (1 / 1.1))]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red : 1.3 )", [("red ", 1.3)]),
        ("(red:-.5)", [("red", -0.5)]),
        ("(red:0) apple", [("red", 0), (" apple", 1)]),
        ("(a (b:1.5) c:2)", [("a ", 2), ("b", 3), (" c", 2)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("([a])", [("a", 1 / 1.1 * 1.1)]),
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1)]),
        (r"\a", [("a", 1)]),
        (r"(\(a:1.5)", [("(a", 1.5)]),
        ("(a", [("a", 1.1)]),
        ("[a (b", [("a ", 1 / 1.1), ("b", 1.1 * (1 / 1.1))]),
        ("a) b]", [("a) b]", 1)]),
        ("a: b", [("a: b", 1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a:1.3)", [("a:1.3)", 1)]),
        ("[a:1.3]", [("a:1.3", 1 / 1.1)]),
        ("a BREAK b", [("a", 1), BREAK, ("b", 1)]),
        ("a\nBREAK (b)", [("a", 1), BREAK, ("", 1), ("b", 1.1)]),
        ("a BREAK BREAK b", [("a", 1), BREAK, ("", 1), BREAK, ("b", 1)]),
        ("aBREAK breaks", [("aBREAK breaks", 1)]),
        ("(a BREAK b:2)", [("a", 2), ("BREAK", -2), ("b", 2)]),
    ],
)
def test_weights(text: str, parts: list[tuple[str, float]]) -> None:
    found = read_weights(text)
    assert [part.text for part in found] == [part[0] for part in parts]
    assert [part.weight for part in found] == pytest.approx([part[1] for part in parts], rel=1e-15)


@given(st.lists(st.tuples(WORDS.filter(bool), WEIGHTS), min_size=1, max_size=6))
def test_what_is_written_with_weights_is_read_with_them(parts: list[tuple[str, float]]) -> None:
    found = read_weights("".join(f"({escaped(text)}:{weight})" for text, weight in parts))
    assert "".join(part.text for part in found) == "".join(text for text, _ in parts)
    every = [weight for part in found for weight in [part.weight] * len(part.text)]
    assert every == [weight for text, weight in parts for _ in text]


@given(WORDS.filter(bool), WEIGHTS, WEIGHTS, st.integers(0, 3), st.integers(0, 3))
def test_weights_multiply(text: str, inner: float, outer: float, stronger: int, weaker: int) -> None:
    written = f"(({escaped(text)}:{inner}):{outer})"
    (part,) = read_weights("(" * stronger + "[" * weaker + written + "]" * weaker + ")" * stronger)
    assert part.text == text
    assert part.weight == pytest.approx(inner * outer * STRONGER**stronger * WEAKER**weaker)


@given(ANYTHING)
def test_any_text_is_read(text: str) -> None:
    parts = read_weights(text)
    assert parts
    assert all(before.weight != after.weight for before, after in pairwise(parts))
    prompt = read_prompt(text, 4)
    assert prompt.joined
    assert len(prompt.texts) == sum(len(joined.stretches) for joined in prompt.joined)
    if not re.search(r"[()\[\]\\<|]|BREAK|AND|:", text):
        assert prompt.plain
        assert prompt.texts == (text.rstrip(),)


@given(WORDS)
def test_an_escaped_text_is_itself(text: str) -> None:
    assert read_weights(escaped(text)) == [Part(text, 1.0)]


@pytest.mark.parametrize("bracket", ["(", "[", ")", "]", "[a:", "\\", "(a:1.1"])
def test_a_thousand_open_brackets(bracket: str) -> None:
    assert read_prompt(bracket * 1000, 4).joined


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("fox", [("fox", 1)]),
        ("fox AND owl", [("fox ", 1), (" owl", 1)]),
        ("fox :0.5 AND owl:-1.5 AND crab: 2.", [("fox", 0.5), (" owl", -1.5), (" crab", 2)]),
        ("ANDROID and SAND", [("ANDROID and SAND", 1)]),
        ("fox:0.5", [("fox", 0.5)]),
        ("(fox:0.5)", [("(fox:0.5)", 1)]),
        ("AND", [("", 1), ("", 1)]),
    ],
)
def test_joined_prompts(text: str, joined: list[tuple[str, float]]) -> None:
    assert [(part.strip(), weight) for part, weight in split_and(text)] == [(t.strip(), w) for t, w in joined]
    assert [prompt.weight for prompt in read_prompt(text, 4).joined] == [weight for _, weight in joined]


def test_adapters() -> None:
    text, tags = split_tags("a <lora:soft ink:0.8> fox<lora:b><hypernet:c:1> <cat-toy>")
    assert text == "a  fox <cat-toy>"
    assert tags == [Tag("lora", ("soft ink", "0.8")), Tag("lora", ("b",)), Tag("hypernet", ("c", "1"))]
    assert str(tags[0]) == "<lora:soft ink:0.8>"
    prompt = read_prompt("fox <lora:b>", 4)
    assert not prompt.plain
    assert prompt.texts == ("fox",)


def test_a_negative_prompt_has_neither_adapters_nor_and() -> None:
    prompt = read_prompt("(blurry:1.2) AND <lora:b:1> :0.5", 4, negative=True)
    assert [joined.weight for joined in prompt.joined] == [1.0]
    assert prompt.texts[0].split() == ["blurry", "AND", "<lora:b:1>", ":0.5"]


@pytest.mark.parametrize("text", ["[a:b:4]", "[a:b:0]", "[a|a]", "(a)", "a BREAK b", "a:1", r"\(", "a <lora:x>", "[a"])
def test_what_is_not_plain(text: str) -> None:
    assert not read_prompt(text, 4).plain


@settings(max_examples=20)
@given(st.text(max_size=20).filter(lambda text: not set(text) & set("()[]\\<:|") and "AND" not in text))
def test_words_are_plain(text: str) -> None:
    assert read_prompt(text, 4).plain == ("BREAK" not in text)
