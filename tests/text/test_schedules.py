"""Prompts that change over the steps. The answers are those of AUTOMATIC1111's own parser (release 1.10)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyldm.text.schedules import schedule

PLAIN = st.text("ab ,x\\", max_size=6).map(lambda text: text.replace("\\", "\\("))
NUMBERS = st.sampled_from(["1", "3", ".5", "0.25", " 2 ", "1.0", "-1", "9", "0", "+2", "1e0"])


@pytest.mark.parametrize(
    ("text", "stretches"),
    [
        ("fox", [(4, "fox")]),
        ("a [fox:owl:2] b", [(2, "a fox b"), (4, "a owl b")]),
        ("a [fox:owl:0.5] b", [(2, "a fox b"), (4, "a owl b")]),
        ("a [fox:owl:.3]", [(1, "a fox"), (4, "a owl")]),
        ("a [fox:owl: 1 ]", [(1, "a fox"), (4, "a owl")]),
        ("a [fox:3]", [(3, "a "), (4, "a fox")]),
        ("a [fox::3]", [(3, "a fox"), (4, "a ")]),
        ("a [:fox:3]", [(3, "a "), (4, "a fox")]),
        ("[fox:owl:9]", [(4, "fox")]),
        ("[fox:owl:1.0]", [(4, "fox")]),
        ("[fox:owl:0]", [(4, "owl")]),
        ("[fox:owl:-2]", [(4, "owl")]),
        ("[fox:owl:1e9]", [(4, "fox")]),
        ("[fox|owl]", [(1, "fox"), (2, "owl"), (3, "fox"), (4, "owl")]),
        ("[fe|]male", [(1, "female"), (2, "male"), (3, "female"), (4, "male")]),
        ("[a|b|]", [(1, "a"), (2, "b"), (3, ""), (4, "a")]),
        ("[[a|b]:c:2]", [(1, "a"), (2, "b"), (3, "c"), (4, "c")]),
        ("x[a:[b:c:2]:1]y", [(1, "xay"), (2, "xby"), (4, "xcy")]),
        ("[a|(b:1.1)] c", [(1, "a c"), (2, "(b:1.1) c"), (3, "a c"), (4, "(b:1.1) c")]),
        ("[(a:2):3]", [(3, ""), (4, "(a:2)")]),
        ("[[[b]]:2]", [(2, ""), (4, "[[b]]")]),
        ("[a:1][b:2]", [(1, ""), (2, "a"), (4, "ab")]),
        # no schedules: brackets that are weights, that nothing closes, that hold no number
        ("[fox]", [(4, "[fox]")]),
        ("[fox:owl]", [(4, "[fox:owl]")]),
        ("[a:b:c:2]", [(4, "[a:b:c:2]")]),
        ("a [fox", [(4, "a [fox")]),
        ("a: b) c]", [(4, "a: b) c]")]),
        (r"\[a:b:2\]", [(4, r"\[a:b:2\]")]),
        (r"[a\:b:2]", [(2, ""), (4, r"a\:b")]),
        # what a stray sign does to the rest
        ("[a:2] (b", [(2, " (b"), (4, "a (b")]),
        ("[a [b:2]", [(2, "[a "), (4, "[a b")]),
        ("[x:y] [b:2]", [(2, "[x:y] "), (4, "[x:y] b")]),
        ("[[x:y]:2]", [(4, "[[x:y]:2]")]),
        ("a | b [c:2]", [(4, "a | b [c:2]")]),
        ("[c:2] (a|b)", [(4, "[c:2] (a|b)")]),
        ("[c:2] \\", [(4, "[c:2] \\")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (4, "((a][:b:c d")]),
    ],
)
def test_stretches(text: str, stretches: list[tuple[int, str]]) -> None:
    assert schedule(text, 4) == stretches


@given(PLAIN, PLAIN, PLAIN, PLAIN, NUMBERS, st.integers(1, 12))
def test_a_change_at_a_step(head: str, before: str, after: str, tail: str, number: str, steps: int) -> None:
    last = float(number) * steps if "." in number else float(number)
    last = min(int(max(last, 0)), steps)
    found = schedule(f"{head}[{before}:{after}:{number}]{tail}", steps)
    changed, unchanged = (steps, f"{head}{after}{tail}"), (last, f"{head}{before}{tail}")
    assert found == ([changed] if last == 0 else [unchanged] if last == steps else [unchanged, changed])


@given(st.lists(PLAIN, min_size=2, max_size=4), st.integers(1, 12))
def test_alternatives_take_turns(options: list[str], steps: int) -> None:
    found = schedule(f"a [{'|'.join(options)}]", steps)
    assert found == [(k + 1, f"a {options[k % len(options)]}") for k in range(steps)]


@given(st.lists(st.sampled_from([*"ab 12.:|()[]\\\n", ":2]", "[a|b]", "[c:1]"])).map("".join), st.integers(1, 6))
def test_any_text_has_a_schedule(text: str, steps: int) -> None:
    ends = [end for end, _ in schedule(text, steps)]
    assert ends == sorted(set(ends))
    assert ends[0] >= 1
    assert ends[-1] == steps
    if "[" not in text:
        assert schedule(text, steps) == [(steps, text)]


def test_deep_brackets() -> None:
    deep = "[" * 500 + "a" + ":1]" * 500
    assert schedule(deep, 2) == [(1, ""), (2, "a")]
