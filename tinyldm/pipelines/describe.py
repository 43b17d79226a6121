"""A checkpoint in words and numbers: what `tinyldm info` prints, and how much memory a run will take."""

from __future__ import annotations

import contextlib
import math
import os

import numpy as np

from tinyldm import cost
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.text_to_image import latent_size

INTERPRETER_BYTES = 180 << 20  # Python, NumPy, Numba and their code
FEATURE_MAPS = 3  # of the largest size, alive at once: input, output, residual


def describe(model: LatentDiffusion) -> str:
    """The components of a checkpoint with parameters, bytes and stored dtype, and what will compute them."""
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
    h, w = latent_size(model, None, None)
    factor, scheduler = model.vae.config.factor, model.scheduler_config
    usual = SchedulerConfig()  # what a field that the file lacks is
    tokenizer = model.tokenizer or model.tokenizer_2
    if tokenizer is not None:
        lines.append(f"tokenizer      {tokenizer.vocab_size:,} tokens, {tokenizer.max_length} a prompt")
    lines.append(
        f"latent         {model.vae.config.latent_channels}×{h}×{w} for {w * factor}×{h * factor} pixels, "
        f"scaling factor {model.vae.config.scaling_factor:g}"
    )
    lines.append(
        f"schedule       {scheduler.get('beta_schedule', usual.beta_schedule)}, "
        f"{scheduler.get('num_train_timesteps', usual.num_train_timesteps)} steps, "
        f"predicts {scheduler.get('prediction_type', usual.prediction_type)}, "
        f"published with {scheduler.get('_class_name')}"
    )
    lines.append(f"computes with  {describe_runtime(model)}")
    return "\n".join(lines)


def describe_runtime(model: LatentDiffusion) -> str:
    """The backend in use, its precision, vectors and threads."""
    runtime = model.runtime
    if runtime.backend == "reference":
        return f"reference (NumPy {np.__version__}), {runtime.dtype}"
    ops = runtime.ops
    vectors = f"{ops.target().name} vectors of {ops.target().width} numbers"
    threads = f"{ops.threads()} thread{'s' * (ops.threads() > 1)}"
    return f"numba, float32, precision {runtime.precision}, {vectors}, {threads}"


def describe_shapes(model: LatentDiffusion, height: int | None = None, width: int | None = None) -> str:
    """The shape of every module's output for one picture, in the order in which a picture is made."""
    h, w = (model.vae.config.factor * side for side in latent_size(model, height, width))
    runs = {name: costs for name, (_, costs) in cost.picture_costs(model, h, w, 1).items()}
    runs["vae encode"] = cost.vae_costs(model.vae, h, w)[0]
    lines = []
    for name, costs in runs.items():
        lines += ["", name] if lines else [name]
        lines += [f"  {c.path:64} {'×'.join(map(str, c.shape))}" for c in costs if "(softmax)" not in c.path]
    return "\n".join(lines)


def describe_cost(model: LatentDiffusion, height: int | None, width: int | None, steps: int) -> str:
    """What one picture costs: multiply-adds, parameters and bytes by block, and what the latent space saves.

    The same UNet on pixels is the same network over `factor²` times as many positions; it would need no autoencoder.
    """
    size = latent_size(model, height, width)
    factor = model.vae.config.factor
    h, w = (factor * side for side in size)
    runs = cost.picture_costs(model, h, w, steps)
    times, unet = runs["unet"]
    title = f"one picture of {w}×{h}, {steps} {'guided ' if times > steps else ''}steps"
    lines = [title, "", f"{'block':34} {'multiply-adds':>18} {'parameters':>13} {'weights':>10}  output"]
    for name, (runs_of_it, costs) in {**runs, "vae encode": (1, cost.vae_costs(model.vae, h, w)[0])}.items():
        suffix = f" × {runs_of_it}" if runs_of_it > 1 else " (of a picture to begin with)" * (name == "vae encode")
        lines += ["", name + suffix]
        for c in [*cost.by_block(costs), cost.Cost("in all", costs[-1].shape, *_sums(costs))]:
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


def _sums(costs: list[cost.Cost]) -> tuple[int, int]:
    return sum(c.parameters for c in costs), cost.total(costs)


def expected_bytes(model: LatentDiffusion, h: int, w: int, count: int, low_memory: bool | None = None) -> int:
    """About how much memory a single run takes that samples `count` pictures, for latents of `h` × `w`.

    The larger of two: the UNet's weights in the runtime's dtype and what it holds for its guided batch (every skip, and
    a few maps of its largest size), or the autoencoder's and what the decoder holds for one picture. With low memory,
    of the weights only the largest one at a time, as it was read and as it is arranged for the kernel. `low_memory` is
    the model's own setting unless given.
    """
    low_memory = model.runtime.low_memory if low_memory is None else low_memory
    sizes = {name: [math.prod(s) for s in network.parameters.values()] for name, network in model.networks.items()}
    widths = model.unet.config.block_out_channels
    skips = sum(3 * c / 4**i for i, c in enumerate(widths))
    unet = 2 * count * h * w * (skips + FEATURE_MAPS * 2 * widths[0])
    factor, config = model.vae.config.factor, model.vae.config
    narrow = config.decoder_widths
    decoder = h * w * factor**2 * FEATURE_MAPS * narrow[min(1, len(narrow) - 1)]
    held = (lambda weights: 2 * max(weights)) if low_memory else sum
    numbers = max(held(sizes["unet"]) + unet, held(sizes["vae"]) + decoder)
    return int(INTERPRETER_BYTES + model.runtime.dtype.itemsize * numbers)


def machine_bytes() -> int | None:
    """The memory of this machine; None where the system does not say (Windows)."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def item_bytes(tag: str) -> int:
    """Bytes of one number of a stored type: `F16` 2, `F32` 4, `BF16` 2, …"""
    return max(1, int("".join(c for c in tag if c.isdigit()) or 8) // 8)


def human_bytes(size: float) -> str:
    """A size in the unit that fits: `18.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
