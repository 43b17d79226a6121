"""The roofline of a machine, and the operators of a network under it.

`calls` lists what a network asks for, from shapes alone; `peak` and `bandwidth` measure what the machine has to give;
`seconds` takes the time of a call by its kernel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyldm import bench, cost, kernels, tracing
from tinyldm.models.build import rebuilt
from tinyldm.runtime import Runtime

PRODUCTS = ("linear", "conv2d", "attention")
PASSES = ("group_norm", "layer_norm", "silu", "gelu", "quick_gelu", "geglu")  # a multiply-add a number, or little more


@dataclass(frozen=True)
class Call:
    """One call of an operator: the shapes that go in and come out, and the multiply-adds between them.

    Settings are a norm's groups and epsilon, an attention's heads, a convolution's stride and padding.
    """

    operator: str
    given: tuple[tuple[int, ...], ...]
    gives: tuple[int, ...]
    settings: tuple[Any, ...]
    multiply_adds: int

    @property
    def bytes(self) -> int:
        """What must be moved at least: everything that goes in is read once, what comes out is written once."""
        return 4 * sum(math.prod(shape) for shape in (*self.given, self.gives))

    @property
    def intensity(self) -> float:
        """FLOP for each byte; a multiply-add is two."""
        return 2 * self.multiply_adds / self.bytes


class Noted:
    """Operators of which only the shapes are left (`tinyldm.cost.SHAPES`), each call noted."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        operator = getattr(cost.SHAPES, name)

        def noted(*args: Any, **more: Any) -> Any:
            y = operator(*args, **more)
            if name in PRODUCTS + PASSES:
                given = tuple(a.shape for a in args if isinstance(a, np.ndarray))
                settings = (*(a for a in args if isinstance(a, int | float)), *more.values())
                products = bench.multiply_adds(name, args, y) if name in PRODUCTS else y.size
                self.calls.append(Call(name, given, y.shape, settings, products))
            return y

        return noted


def calls(network: Any, run: Callable[[Any], Any]) -> list[Call]:
    """Every call that `run` makes of the operators, in the order of execution; nothing is computed."""
    noted = Noted()
    twin = rebuilt(network, Runtime("reference", operators=noted), cost.WithoutValues(network.parameters))
    with tracing.trace(into=cost.CostTrace()):  # which takes fused operators apart
        run(twin)
    return noted.calls


def unet_calls(model: Any, side: int) -> list[Call]:
    """Those of a UNet's step on a latent of this side."""
    config = model.unet.config
    z = cost.empty(1, config.in_channels, side, side)
    context = cost.empty(1, cost.context_tokens(model), config.context_dim)
    return calls(model.unet, lambda unet: unet(z, 0, context))


# What the machine gives -----------------------------------------------------------------------------------------------


def clock() -> float:
    """Seconds; of a single thread those that the processor gave it, which the work of others does not lengthen."""
    return time.process_time() if kernels.threads() == 1 else time.perf_counter()


def best(run: Callable[[], Any], budget: float = 0.05, most: int = 50) -> float:
    """The shortest time of several runs, after one that is not counted, in seconds."""
    run()
    shortest, spent, runs = math.inf, 0.0, 0
    while runs < 2 or (spent < budget and runs < most):
        began = clock()
        run()
        took = clock() - began
        shortest, spent, runs = min(shortest, took), spent + took, runs + 1
    return shortest


def peak() -> float:
    """FLOP a second of the package's own product where all of it lies in the level-2 cache: the best of some sizes."""
    rng, rates = np.random.default_rng(0), []
    for rows, c_in, c_out in ((240, 384, 320), (480, 384, 320), (480, 768, 640), (960, 768, 640)):
        x, weight = (rng.standard_normal(shape, np.float32) for shape in ((rows, c_in), (c_out, c_in)))
        packed = kernels.prepare_linear(weight)
        rates.append(2 * rows * c_in * c_out / best(lambda x=x, packed=packed: kernels.linear(x, packed)))
    return max(rates)


def bandwidth(size: int = 1 << 24) -> float:
    """Bytes a second between memory and all processors, where two arrays of `size` are read and a third is written."""
    count = kernels.threads()
    a, b, c = (np.ones(size, np.float32) for _ in range(3))
    parts = [slice(i * size // count, (i + 1) * size // count) for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return 12 * size / best(lambda: list(pool.map(lambda part: np.add(a[part], b[part], out=c[part]), parts)))


def seconds(call: Call) -> float:
    """The time that the kernel of a call takes on arrays of its shapes."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for shape in call.given]
    operator = getattr(kernels, call.operator)
    if call.operator == "linear":
        arrays[1] = kernels.prepare_linear(arrays[1])
    if call.operator == "conv2d":
        stride, padding = call.settings
        arrays[1] = kernels.prepare_conv2d(arrays[1], stride)
        return best(lambda: operator(*arrays, stride=stride, padding=padding))
    return best(lambda: operator(*arrays, *call.settings))
