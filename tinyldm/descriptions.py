"""A model in words and numbers: what it is made of, its shapes, what a picture costs."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from tinyldm import cost
from tinyldm.bench import describe_runtime
from tinyldm.checkpoints.folder import FLOWS
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.memory import human_bytes
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.parts import place
from tinyldm.text.known import read_captions, small_vocabulary, whole_words

INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}


def describe(model: LatentDiffusion) -> str:
    """The components of a checkpoint with parameters, bytes and stored dtype, and what will compute them."""
    lines = [f"{model.path}", ""]
    lines.append(f"{'component':14} {'class':16} {'parameters':>13} {'bytes':>10}  stored as")
    total = total_bytes = 0
    for name in sorted(model.networks, key=place):
        network = model.networks[name]
        source = network.weights.source
        count = sum(math.prod(source.shape(n)) for n in network.parameters)
        stored = {source.dtype(n) for n in network.parameters}
        size = sum(math.prod(source.shape(n)) * item_bytes(source.dtype(n)) for n in network.parameters)
        total, total_bytes = total + count, total_bytes + size
        kind = type(network).__name__
        lines.append(f"{name:14} {kind:16} {count:13,} {human_bytes(size):>10}  {', '.join(sorted(stored))}")
    lines += [f"{'in all':14} {'':16} {total:13,} {human_bytes(total_bytes):>10}", ""]
    h, w = model.parts.latent_size()
    factor, scheduler = model.vae.config.factor, model.scheduler_config
    usual = SchedulerConfig()  # what a field that the file lacks is
    tokenizer = model.tokenizer or model.tokenizer_2
    if tokenizer is not None:
        lines.append(f"tokenizer      {tokenizer.vocab_size:,} tokens, {tokenizer.max_length} a prompt")
    lines.append(
        f"latent         {model.vae.latent_channels}×{h}×{w} for {w * factor}×{h * factor} pixels, "
        f"scaling factor {model.vae.config.scaling_factor:g}"
    )
    flow = scheduler.get("_class_name") in FLOWS
    kind, predicted = ("a flow", "flow_prediction") if flow else (usual.beta_schedule, usual.prediction_type)
    lines.append(
        f"schedule       {scheduler.get('beta_schedule', kind)}, "
        f"{scheduler.get('num_train_timesteps', usual.num_train_timesteps)} steps, "
        f"predicts {scheduler.get('prediction_type', predicted)}, "
        f"published with {scheduler.get('_class_name')}"
    )
    lines.append(f"computes with  {describe_runtime(model)}")
    return "\n".join(lines + describe_words(model))


def describe_words(model: LatentDiffusion) -> list[str]:
    """The words that a checkpoint of a small vocabulary knows; nothing for others."""
    tokenizer = small_vocabulary(model.tokenizer)
    if tokenizer is None:
        return []
    captions = read_captions(model.path)
    words = whole_words(tokenizer, captions)
    of = f"of {len(captions):,} captions" if captions else "that are one token, and endings of longer ones"
    return ["", f"knows {len(words):,} words {of}:", textwrap.fill(" ".join(words), 110, **INDENTED)]


def item_bytes(tag: str) -> int:
    """Bytes of one number of a stored type: `F16` 2, `F32` 4, `BF16` 2, …"""
    return max(1, int("".join(c for c in tag if c.isdigit()) or 8) // 8)


def describe_shapes(model: Any, height: int | None = None, width: int | None = None) -> str:
    """The shape of every module's output for one picture, in the order in which a picture is made."""
    h, w = (model.vae.config.factor * side for side in model.parts.latent_size(height, width))
    runs = {name: costs for name, (_, costs) in cost.picture_costs(model, h, w, 1).items()}
    runs["vae encode"] = cost.vae_costs(model.vae, h, w)[0]
    lines: list[str] = []
    for name, costs in runs.items():
        lines += ["", name] if lines else [name]
        lines += [f"  {c.path:64} {'×'.join(map(str, c.shape))}" for c in costs if "(softmax)" not in c.path]
    return "\n".join(lines)


def describe_cost(model: Any, height: int | None = None, width: int | None = None, steps: int = 25) -> str:
    """What one picture costs: multiply-adds, parameters and bytes by block, and what the latent space saves.

    The same UNet on pixels is the same network over `factor²` times as many positions; it would need no autoencoder.
    """
    factor = model.vae.config.factor
    h, w = (factor * side for side in model.parts.latent_size(height, width))
    runs = cost.picture_costs(model, h, w, steps)
    times, unet = runs["unet"]
    title = f"one picture of {w}×{h}, {steps} {'guided ' if times > steps else ''}steps"
    lines = [title, "", f"{'block':34} {'multiply-adds':>18} {'parameters':>13} {'weights':>10}  output"]
    for name, (runs_of_it, costs) in {**runs, "vae encode": (1, cost.vae_costs(model.vae, h, w)[0])}.items():
        suffix = f" × {runs_of_it}" if runs_of_it > 1 else " (of a picture to begin with)" * (name == "vae encode")
        lines += ["", name + suffix]
        if not costs:  # pixels that are no more than scaled
            lines.append(f"  {'in all':32} {0:18,} {0:13,}")
            continue
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
