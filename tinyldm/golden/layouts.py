"""Which layout the names of modules are in: that of diffusers, or the original one (CompVis)."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Beginnings of module paths that one layout has and the other has not; `(^|[/.])` since keys may have any prefix.
MARKS = {
    "compvis": re.compile(
        r"(^|[/.])(input_blocks|output_blocks|middle_block|time_embed)\.|(coder\.(down|up)\.\d|coder\.mid\.(block|attn)_\d)"
    ),
    "diffusers": re.compile(r"(^|[/.])(down_blocks|up_blocks|mid_block|time_embedding)\."),
}


def layout_of(keys: Iterable[str]) -> str | None:
    """`compvis` or `diffusers`, by the first key that only one of them has; None where there is no such key."""
    return next((layout for key in keys for layout, mark in MARKS.items() if mark.search(key)), None)
