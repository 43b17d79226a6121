"""`tinyldm cost`: what a picture costs in multiply-adds."""

from __future__ import annotations

import argparse
from typing import Any

from tinyldm.commands.options import add_measured_options, open_measured
from tinyldm.errors import InputError

SUMMARY = "count what a picture costs, and what the latent space saves"
EXAMPLE = """example:
  tinyldm cost
  tinyldm cost --architecture sd15 --steps 20
  tinyldm cost --architecture sdxl --width 1024 --height 768
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_measured_options(p)
    p.add_argument("--steps", metavar="N", type=int, default=25, help="steps of the sampler (default 25)")


def run(args: argparse.Namespace) -> None:
    """Count multiply-adds."""
    if args.steps < 1:
        raise InputError(f"--steps must be 1 or more, not {args.steps}")
    print(describe_cost(open_measured(args), args.height, args.width, args.steps))


def describe_cost(model: Any, height: int | None, width: int | None, steps: int) -> str:
    """What one picture costs: multiply-adds, parameters and bytes by block, and what the latent space saves.

    The same UNet on pixels is the same network over `factor²` times as many positions; it would need no autoencoder.
    """
    from tinyldm import cost
    from tinyldm.memory import human_bytes

    factor = model.vae.config.factor
    h, w = (factor * side for side in model.parts.latent_size(height, width))
    runs = cost.picture_costs(model, h, w, steps)
    times, unet = runs["unet"]
    title = f"one picture of {w}×{h}, {steps} {'guided ' if times > steps else ''}steps"
    lines = [title, "", f"{'block':34} {'multiply-adds':>18} {'parameters':>13} {'weights':>10}  output"]
    for name, (runs_of_it, costs) in {**runs, "vae encode": (1, cost.vae_costs(model.vae, h, w)[0])}.items():
        suffix = f" × {runs_of_it}" if runs_of_it > 1 else " (of a picture to begin with)" * (name == "vae encode")
        lines += ["", name + suffix]
        in_all = cost.Cost("in all", costs[-1].shape, sum(c.parameters for c in costs), cost.total(costs))
        for c in [*cost.by_block(costs), in_all]:
            bytes_, shape = human_bytes(4 * c.parameters), "×".join(map(str, c.shape))
            lines.append(f"  {c.path:32} {c.multiply_adds:18,} {c.parameters:13,} {bytes_:>10}  {shape}")
        if attention := cost.attention_products(costs):
            lines.append(f"  {'of it QKᵀ and its product with V':32} {attention:18,}")
    picture = sum(n * cost.total(costs) for n, costs in runs.values())
    own, pixels = cost.total(unet), cost.total(cost.unet_costs(model.unet, h, w, cost.context_tokens(model)))
    lines += [
        "",
        f"the whole picture: {picture:,} multiply-adds ({2e-12 * picture:.2f} TFLOP), of which the UNet's are "
        f"{times * own / picture:.1%}",
        f"the UNet's own step {own:,}, the same UNet on pixels {pixels:,}: {pixels / own:.1f} times as many",
        f"the whole picture with the UNet on pixels: {times * pixels / picture:.1f} times as many",
    ]
    return "\n".join(lines)
