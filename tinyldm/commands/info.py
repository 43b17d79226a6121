"""`tinyldm info`: a checkpoint in words and numbers."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import TYPE_CHECKING, Any

from tinyldm.commands.options import add_model_options, add_size_options, open_model

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion

SUMMARY = "describe a checkpoint and what will compute it"
EXAMPLE = """example:
  tinyldm info
  tinyldm info --model stable-diffusion-v1-5 --shapes --width 512 --height 512
"""
INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("--shapes", action="store_true", help="the shape of every intermediate")
    add_size_options(p, "of the picture for --shapes (default: the model's own)")


def run(args: argparse.Namespace) -> None:
    """Describe a checkpoint."""
    model = open_model(args)
    print(describe(model))
    if args.shapes:
        print()
        print(describe_shapes(model, args.height, args.width))


def describe(model: LatentDiffusion) -> str:
    """The components of a checkpoint with parameters, bytes and stored dtype, and what will compute them."""
    from tinyldm.bench import describe_runtime
    from tinyldm.diffusion.config import SchedulerConfig
    from tinyldm.memory import human_bytes

    lines = [f"{model.path}", ""]
    lines.append(f"{'component':14} {'class':16} {'parameters':>13} {'bytes':>10}  stored as")
    total = total_bytes = 0
    for name, network in model.networks.items():
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
    lines.append(
        f"schedule       {scheduler.get('beta_schedule', usual.beta_schedule)}, "
        f"{scheduler.get('num_train_timesteps', usual.num_train_timesteps)} steps, "
        f"predicts {scheduler.get('prediction_type', usual.prediction_type)}, "
        f"published with {scheduler.get('_class_name')}"
    )
    lines.append(f"computes with  {describe_runtime(model)}")
    return "\n".join(lines + describe_words(model))


def describe_words(model: LatentDiffusion) -> list[str]:
    """The words that a checkpoint of a small vocabulary knows; nothing for others."""
    from tinyldm.text.known import read_captions, small_vocabulary, whole_words

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
    from tinyldm import cost

    h, w = (model.vae.config.factor * side for side in model.parts.latent_size(height, width))
    runs = {name: costs for name, (_, costs) in cost.picture_costs(model, h, w, 1).items()}
    runs["vae encode"] = cost.vae_costs(model.vae, h, w)[0]
    lines: list[str] = []
    for name, costs in runs.items():
        lines += ["", name] if lines else [name]
        lines += [f"  {c.path:64} {'×'.join(map(str, c.shape))}" for c in costs if "(softmax)" not in c.path]
    return "\n".join(lines)
