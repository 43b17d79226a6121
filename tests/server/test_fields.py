"""Fields of a request: whatever comes is read as what it must be, or refused in one sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.server.fields import Fields, read_json
from tinyldm.server.refusals import Refusal, blamed

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def outcome(call):
    """What a call returns, and the refusal that it raises instead."""
    try:
        return call(), None
    except Refusal as refused:
        return None, refused


@settings(deadline=None)
@given(anything)
def test_any_value_is_read_or_refused(value):
    fields = Fields({"x": value})
    readers = {
        fields.text: str,
        fields.number: float | None,
        fields.integer: int | None,
        fields.flag: bool,
        fields.only: None,
    }
    for read, kind in readers.items():
        found, refusal = outcome(lambda read=read: read("x"))
        if refusal is None:
            assert kind is None or isinstance(found, kind)
        else:
            assert refusal.field == "x"
            assert "\n" not in str(refusal)
            assert len(str(refusal)) < 400


@settings(deadline=None)
@given(st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_an_object_or_refused(body):
    fields, refusal = outcome(lambda: read_json(body))
    assert isinstance(fields.given, dict) if refusal is None else str(refusal).startswith("the body ")


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3), (3.0, 3), ("3", 3), (" 3 ", 3), ("-3", -3), ("", None), (None, None)]
)
def test_whole_numbers(value, number):
    assert Fields({"x": value}).integer("x") == number


def test_whole_numbers_are_exact_whatever_their_size():
    assert Fields({"x": 2**63 + 1}).integer("x") == 2**63 + 1
    assert Fields({"x": str(2**63 + 1)}).integer("x") == 2**63 + 1


@pytest.mark.parametrize(
    "value", ["x", "3.5", 3.5, True, [], float("nan"), float("inf"), "inf", "1e999", "٣", "9" * 5000]
)
def test_what_is_no_whole_number(value):
    if value == "٣":  # digits of another script are digits to Python
        assert Fields({"x": value}).integer("x") == 3
        return
    with pytest.raises(Refusal, match="x must be a whole number"):
        Fields({"x": value}).integer("x")


def test_a_field_that_nobody_asks_for_is_refused():
    fields = Fields({"stepz": 3, "seed": 1})
    fields.integer("seed")
    fields.ignore("steps")
    with pytest.raises(Refusal, match="field 'stepz' is unknown; did you mean steps") as refused:
        fields.end()
    assert refused.value.field == "stepz"


@pytest.mark.parametrize(
    ("sentence", "field"),
    [
        ("steps: 0 is out of range; it must be from 1 to 1000", "steps"),
        ("width must be a multiple of 4 pixels, not 5", "width"),
        ("mask: nothing in it is white", "mask"),
        ("the model: takes class numbers as prompts, not 'a'", "prompt"),
        ("something else", None),
    ],
)
def test_the_field_that_a_sentence_blames(sentence, field):
    from tinyldm.errors import InputError

    assert blamed(InputError(sentence)) == field
