"""T2I-Adapters in single files, as they were first published: their config from shapes, their names made canonical.

The first names number all residual blocks of the network in a row (`body.5.block1`); the canonical ones, of diffusers,
those of each level (`adapter.body.2.resnets.1.block1`). Light adapters have levels in both.
"""

from __future__ import annotations

import re
from typing import Any

from tinyldm.checkpoints.architecture import sizes
from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.names.links import consecutive
from tinyldm.checkpoints.recognised import Component
from tinyldm.checkpoints.views import RenamedSource
from tinyldm.errors import CheckpointError

KIND = "T2IAdapter"
XL_FACTOR = 16
FACTORS = (8, 4, 2, 1)  # the first that fits; all that were published have 8
LIGHT = re.compile(r"^body\.(\d+)\.body\.(\d+)\.")
FULL = re.compile(r"body\.(\d+)\.(block[12])\.(.+)")


def t2i_adapter(source: TensorSource) -> Component | None:
    """The T2I-Adapter that a file holds, None where it holds none."""
    if "adapter.body.0.resnets.0.block1.weight" in source:
        return Component(KIND, adapter_config(source), source)
    if "body.0.body.0.block1.weight" in source:
        names = {"adapter." + LIGHT.sub(r"body.\1.resnets.\2.", name): name for name in source.names}
        view: TensorSource = RenamedSource(source, names)
    elif "body.0.block1.weight" in source and "conv_in.weight" in source:
        view = full_names(source)
    else:
        return None
    return Component(KIND, adapter_config(view), view)


def full_names(source: TensorSource) -> TensorSource:
    """A full adapter in canonical names; the first block that begins by a convolution begins the second level."""
    count = next((i for i in range(1, len(source)) if f"body.{i}.in_conv.weight" in source), 0)
    if not count:
        raise CheckpointError(f"{source.path}: a T2I-Adapter of one width, whose levels can't be told apart")

    def canonical(name: str) -> str:
        if block := FULL.fullmatch(name):
            level, j = divmod(int(block[1]), count)
            return f"adapter.body.{level}.resnets.{j}.{block[2]}.{block[3]}"
        if block := re.fullmatch(r"body\.(\d+)\.in_conv\.(.+)", name):
            return f"adapter.body.{int(block[1]) // count}.in_conv.{block[2]}"
        return f"adapter.{name}"

    return RenamedSource(source, {canonical(name): name for name in source.names})


def adapter_config(source: TensorSource) -> dict[str, Any]:
    """The config of an adapter with canonical names."""
    body = "adapter.body"
    light = f"{body}.0.out_conv.weight" in source
    levels = consecutive(source, body + ".{}.resnets.0.block1.weight")
    blocks = consecutive(source, body + ".0.resnets.{}.block1.weight")
    last = "out_conv" if light else "resnets.0.block1"
    widths = [sizes(source, f"{body}.{i}.{last}.weight", 4)[0] for i in range(levels)]
    unshuffled = sizes(source, f"{body}.0.in_conv.weight" if light else "adapter.conv_in.weight", 4)[1]
    xl = not light and unshuffled in (XL_FACTOR**2, 3 * XL_FACTOR**2)
    factor = XL_FACTOR if xl else next(f for f in FACTORS if unshuffled % f**2 == 0)
    return {
        "_class_name": KIND,
        "in_channels": unshuffled // factor**2,
        "channels": widths[:-1] if light else widths,
        "num_res_blocks": blocks,
        "downscale_factor": factor,
        "adapter_type": "light_adapter" if light else "full_adapter_xl" if xl else "full_adapter",
    }
