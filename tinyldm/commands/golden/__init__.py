"""Record what a model computes, and find where another computation differs.

examples:
  tinyldm golden record -o apple.safetensors --prompt "red apple" --steps 2 --dtype float64 --inputs
  tinyldm golden diff apple.safetensors mine.safetensors
  tinyldm golden report apple.safetensors mine.safetensors -o report.html

exit status: 0 all within tolerance, 1 not all, 2 not comparable or bad input
"""

from __future__ import annotations

from tinyldm.commands.golden import bisect, check, diff, record, report
from tinyldm.commands.grammar import by_name

COMMANDS = by_name(record, diff, bisect, check, report)
