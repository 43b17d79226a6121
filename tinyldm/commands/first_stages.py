"""Progress of encoding and decoding large pictures, which take as long as many steps."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion

SHOWN_FROM = 128 * 128  # pixels; smaller pictures take no time
PATIENCE = 2.0  # seconds, before which nothing is shown
BAR = "{l_bar}{bar:24}| {remaining} left"
# The convolutions, whose filters are 3×3, but for those of the plain ones without padding, which are 1×1.
PLAIN = ("conv2d", "conv2d_residual")
CONVOLUTIONS = (*PLAIN, "norm_silu_conv2d", "affine_silu_conv2d", "upsample_conv2d")


class Counted:
    """The operators of a backend, which tell after each call how many multiply-adds it took."""

    def __init__(self, operators: Any, tell: Callable[[int], object]) -> None:
        self._operators, self._tell = operators, tell

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._operators, name)
        if name not in (*CONVOLUTIONS, "attention"):
            return function

        def counted(x: Any, *args: Any, **more: Any) -> Any:
            y = function(x, *args, **more)
            if name == "attention":
                self._tell(2 * x.size * args[0].shape[1])
            else:
                self._tell(y.size * x.shape[-1] * (1 if name in PLAIN and not more["padding"] else 9))
            return y

        setattr(self, name, counted)
        return counted


def with_progress(model: LatentDiffusion) -> LatentDiffusion:
    """The same model, whose first stage shows a bar while it takes longer than a moment."""
    from tqdm import tqdm

    from tinyldm.cost import total, vae_costs

    vae, bars = model.vae, list[Any]()

    @contextlib.contextmanager
    def shown(what: str, shape: tuple[int, ...]) -> Iterator[None]:
        height, width = (side * (1 if what == "encode" else vae.factor) for side in shape[2:])
        encoding, decoding = vae_costs(vae, height, width) if math.prod((height, width)) >= SHOWN_FROM else ([], [])
        work = shape[0] * total(encoding if what == "encode" else decoding)
        if not work:
            yield
            return
        with tqdm(total=work, desc=f"{what[:-1]}ing", bar_format=BAR, delay=PATIENCE, leave=False) as bar:
            bars.append(bar)
            try:
                yield
            finally:
                bars.remove(bar)

    result = copy.copy(vae)
    operators = Counted(vae.runtime.ops, lambda work: [bar.update(min(work, bar.total - bar.n)) for bar in bars])
    result.around, result.runtime = shown, replace(vae.runtime, operators=operators)
    result.weights = vae.weights.computed_by(result.runtime)
    return model.replaced(vae=result)
