"""The tutorial on porting runs as it stands, and prints what the book shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "figures"))
import porting

MADE = Path(porting.__file__).parent / "made"
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


def alike(one: str, other: str) -> bool:
    """Whether two texts say the same: words as they are, numbers but for their last digits, those of rounding aside."""
    found, stored = ([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (one, other))
    same_words = NUMBER.sub("#", one) == NUMBER.sub("#", other)
    return same_words and all(
        abs(a - b) <= 0.05 * max(a, b) or max(a, b) < 1e-12 for a, b in zip(found, stored, strict=True)
    )


@pytest.mark.parametrize("part", porting.PARTS)
def test_its_blocks_print_what_the_page_shows(part: str, tmp_path: Path) -> None:
    if part == "pytorch":
        pytest.importorskip("torch", reason="PyTorch is not installed: the first half of the tutorial is not run")
    said, _ = porting.run(part, tmp_path)
    for number, text in enumerate(said, 1):
        stored = MADE / f"porting-{part}-{number}.txt"
        assert not stored.exists() or alike(text, stored.read_text("utf-8").strip()), text


def test_what_the_page_shows_is_what_a_block_in_front_of_it_printed() -> None:
    page = porting.PAGE.read_text("utf-8")
    shown = re.findall(r"made/porting-(pytorch|numpy)-(\d+)\.txt", page)
    assert len(shown) == 8
    for part, number in shown:
        before = page[: page.index(f"made/porting-{part}-{number}.txt")]
        blocks = [mark for _, mark, _ in porting.BLOCK.findall(before) if (mark == " pytorch") == (part == "pytorch")]
        assert len(blocks) == int(number)
        assert (MADE / f"porting-{part}-{number}.txt").stat().st_size


def test_numbers_are_compared_and_words_too() -> None:
    assert alike("5 of 43, agree to 2.3e-16", "5 of 43, agree to 4.1e-16")
    assert not alike("5 of 43", "6 of 43")
    assert not alike("the epsilon 1e-05", "the epsilon 1e-06")
    assert not alike("quick GELU", "GELU")
