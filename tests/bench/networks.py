"""How much of a run is spent in networks: `python tests/bench/networks.py FILE COMMAND …` runs a command of tinyldm.

The seconds are written to FILE. What is not among them is outside: imports, opening, tokens, noise, sampler, files.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CALLS = {"UNet": ("__call__", "prepare"), "TextEncoder": ("__call__",)}  # of the other networks `decode`


class Spent:
    """The seconds within the networks of these classes, from now on; a call within a call counts once."""

    def __init__(self, classes: Iterable[type]) -> None:
        self.seconds, self._depth = 0.0, 0
        for kind in classes:
            for name in CALLS.get(kind.__name__, ("decode",)):
                setattr(kind, name, self._counted(getattr(kind, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            start, self._depth = time.perf_counter(), self._depth + 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                self.seconds += (time.perf_counter() - start) * (self._depth == 0)

        return run


def main() -> None:
    """Run the command as `python -m tinyldm` does."""
    from tinyldm.cli import main as command
    from tinyldm.models.text_encoder import TextEncoder
    from tinyldm.models.unet import UNet
    from tinyldm.models.vae import AutoencoderKL

    file, *words = sys.argv[1:]
    spent = Spent([TextEncoder, UNet, AutoencoderKL])
    status = command(words)
    Path(file).write_text(str(spent.seconds))
    sys.exit(status)


if __name__ == "__main__":
    main()
