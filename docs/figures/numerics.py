"""Numerics: sums and their bounds, where a network loses digits in which type, and the first layer that goes wrong."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from drawing import BLUE, GREEN, INK, ORANGE, PURPLE, RED, plots, save, write_numbers, write_table
from scipy.special import erf

import tinyldm
from tinyldm import kernels, ops
from tinyldm.bench import processor_name
from tinyldm.golden.rounding import EVALUATIONS, ROUNDINGS, ordered_product, rounded_model, rounded_network
from tinyldm.golden.tolerance import FACTOR
from tinyldm.kernels.formulas import EXP_COEFFICIENTS, LN2_HIGH, LN2_LOW
from tinyldm.kernels.matmul import BLOCK_DEPTH
from tinyldm.models.build import rebuilt
from tinyldm.runtime import Runtime
from tinyldm.tracing import Trace

Array = np.ndarray
Errors = dict[str, float]
U = 2.0**-24  # the largest relative error of one rounding to float32
PRECISIONS = ("strict", "fast", "bf16")
T = 500  # of the call of the UNet that is looked at


def distance(found: Array, exact: Array) -> float:
    """The RMS error as a share of the RMS value."""
    return float(np.sqrt(np.mean(np.square(found - exact)) / np.mean(np.square(exact))))


@functools.cache
def oracle() -> tinyldm.LatentDiffusion:
    """The model in float64."""
    return tinyldm.load(backend="reference", dtype="float64")


@functools.cache
def clean_latent() -> Array:
    """The latent of a picture that the model made."""
    return oracle().encode(tinyldm.load().text_to_image("red apple", steps=10, guidance_scale=4.0, seed=0)[0])


@functools.cache
def inputs() -> tuple[Array, Array]:
    """A noisy latent and a context, as float32 holds them: the same for every arithmetic."""
    model = oracle()
    z0 = clean_latent()
    noise = tinyldm.random.torch_randn(z0.shape, seed=1)
    a = model_alpha_bar()[T]
    z = (np.sqrt(a) * z0 + np.sqrt(1 - a) * noise).astype(np.float32)
    return z, model.text_encoder(model.tokenizer.encode("red apple")).astype(np.float32)


def model_alpha_bar() -> Array:
    """The schedule, in float64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def traced(unet: Any) -> Trace:
    """Every tensor of one call of a UNet."""
    z, context = inputs()
    with tinyldm.tracing.trace() as found:
        unet(z, T, context)
    return found


@functools.cache
def exact() -> Trace:
    """Every tensor of the oracle's UNet."""
    return traced(oracle().unet)


def errors_of(unet: Any) -> Errors:
    """The error of every tensor of a UNet, against the oracle's."""
    found = traced(unet)
    return {name: distance(np.asarray(found[name], np.float64), y) for name, y in exact().items()}


def plain_operators() -> contextlib.AbstractContextManager[Trace]:
    """A trace that keeps nothing: under it the operators run one by one, and no composition of them."""
    return tinyldm.tracing.trace("nothing")


def several(lines: list[float]) -> str:
    """A range of numbers, in two digits each."""
    return f"{min(lines):.1e} … {max(lines):.1e}"


# Sums -----------------------------------------------------------------------------------------------------------------


def one_by_one(x: Array) -> Array:  # (n, trials) -> (trials,)
    """((x0 + x1) + x2) + …"""
    return np.cumsum(x, axis=0, dtype=x.dtype)[-1]


def pairwise(x: Array) -> Array:
    """Neighbours are added, then the sums of neighbours."""
    while len(x) > 1:
        x = x[::2] + x[1::2]
    return x[0]


def in_blocks(x: Array, block: int = 64) -> Array:
    """Each block one by one, then the sums of the blocks one by one."""
    return one_by_one(np.stack([one_by_one(x[k : k + block]) for k in range(0, len(x), block)]))


def sums(folder: Path) -> None:
    """The error of three ways of adding, by the number of terms, beside what theory promises at most."""
    rng, counts = np.random.default_rng(0), 2 ** np.arange(6, 18)
    chains = {
        "one by one": (one_by_one, lambda n: n - 1, BLUE),
        "in blocks of 64": (in_blocks, lambda n: 63 + n // 64 - 1, ORANGE),
        "pairwise": (pairwise, lambda n: math.log2(n), GREEN),
    }
    figure, ax = plots(width=6.4, height=3.4)
    found: dict[str, list[float]] = {name: [] for name in chains}
    for n in counts:
        x = rng.random((n, 50)).astype(np.float32)
        true = x.sum(0, dtype=np.float64)
        for name, (way, _, _) in chains.items():
            found[name].append(float(np.abs(way(x) / true - 1).max()))
    for name, (_, depth, colour) in chains.items():
        ax.loglog(counts, found[name], "o-", markersize=3, color=colour, label=name)
        ax.loglog(counts, [depth(int(n)) * U for n in counts], "--", linewidth=1, color=colour)
    ax.set_xlabel("terms")
    ax.set_ylabel("relative error, largest of 50 sums")
    ax.legend(fontsize=8)
    save(figure, folder / "numerics-sums.svg")


def step_by_step(a: Array, b: Array, round_: Callable[[Array], Array]) -> Array:  # (M, K), (K, N) -> (M, N)
    """A product of matrices in which every partial sum is rounded."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(len(b)):
        total = round_(total + a[:, k, None] * b[k])
    return total


def product(folder: Path) -> dict[str, str]:
    """One real convolution, its terms added in many ways."""
    name = "up_blocks.1.resnets.0"
    x = np.moveaxis(exact()[f"{name}.nonlinearity"], 1, -1).astype(np.float32)  # (1, 8, 8, C)
    weight = oracle().unet.weights.at(f"{name}.conv1").weight.astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    a = windows.reshape(-1, weight[0].size)  # (pixels, K)
    b = np.ascontiguousarray(weight.reshape(len(weight), -1).T)  # (K, C_out)
    true = a.astype(np.float64) @ b
    size = np.abs(a).astype(np.float64) @ np.abs(b)

    def kernel(precision: str) -> Array:
        prepared = kernels.prepare_conv2d(weight, precision=precision)
        return kernels.conv2d(x, prepared, padding=1).reshape(true.shape)

    terms = len(b)
    bound = terms * U * np.sqrt(np.mean(size**2) / np.mean(true**2))
    ways = [distance(ordered_product(a, b, e), true) for e in range(EVALUATIONS)]
    half, brain = ROUNDINGS["float16"], ROUNDINGS["bfloat16"]
    rows = [
        ("one by one, at most (the bound)", f"{bound:.1e}"),
        (f"one by one, in {EVALUATIONS} orders", several(ways)),
        ("NumPy", f"{distance(a @ b, true):.1e}"),
        ("the kernel, `strict`", f"{distance(kernel('strict'), true):.1e}"),
        ("the kernel, `fast` (Winograd)", f"{distance(kernel('fast'), true):.1e}"),
        ("factors rounded to float16, sums in float32", f"{distance(half(a) @ half(b), true):.1e}"),
        ("factors rounded to bfloat16, sums in float32", f"{distance(brain(a) @ brain(b), true):.1e}"),
        ("the kernel, `bf16` (the same)", f"{distance(kernel('bf16'), true):.1e}"),
        ("every partial sum rounded to float16", f"{distance(step_by_step(a, b, half), true):.1e}"),
        ("every partial sum rounded to bfloat16", f"{distance(step_by_step(a, b, brain), true):.1e}"),
    ]
    write_table(folder / "numerics-product.md", ("how the terms are added", "error"), rows)
    return {"terms": f"{terms:,}", "product": f"`{name}.conv1`", "block_depth": str(BLOCK_DEPTH)}


# Norms ----------------------------------------------------------------------------------------------------------------


class NormInputs(Trace):
    """The ratio of mean to deviation in every group that a group norm sees."""

    ratios: list[Array]

    def wants_inputs(self, path: str) -> bool:
        """Of norms alone."""
        return path.rpartition(".")[2] in ("norm", "norm1", "norm2", "conv_norm_out", "group_norm")

    def record(self, path: str, output: Array, inputs: tuple[Array, ...], w: Any) -> None:
        """Take the ratios down; a layer norm, in a transformer block, has no groups."""
        if inputs and w is not None and inputs[0].ndim in (3, 4) and "transformer_blocks" not in path:
            x = inputs[0].reshape(w.settings["groups"], -1)  # channels first, a single sample
            self.ratios.append(np.abs(x.mean(1)) / x.std(1))


def variance(folder: Path) -> dict[str, str]:
    """The error of the variance by the formula in one pass and in two, and where the checkpoint's groups are."""
    rng, ratios = np.random.default_rng(0), np.logspace(-1, 4.5, 23)
    found: dict[str, list[float]] = {"one pass": [], "two passes": [], "one pass, sums in float64": []}
    for r in ratios:
        x = (r + rng.standard_normal((200, 1024))).astype(np.float32)
        true = x.astype(np.float64).var(1)
        mean = x.mean(1, keepdims=True)
        wide = x.astype(np.float64)
        ways = [np.square(x).mean(1) - mean[:, 0] ** 2, np.square(x - mean).mean(1)]
        ways.append(np.square(wide).mean(1) - wide.mean(1) ** 2)
        for name, way in zip(found, ways, strict=True):
            found[name].append(distance(way, true))
    seen = NormInputs()
    seen.ratios = []
    z, context = inputs()
    with tinyldm.tracing.trace(into=seen):
        oracle().unet(z, T, context)
        oracle().vae.decode(oracle().vae.unscale(z.astype(np.float64)))
    groups = np.concatenate(seen.ratios)
    figure, ax = plots(width=6.4, height=3.2)
    for (name, line), colour in zip(found.items(), (RED, BLUE, GREEN), strict=True):
        ax.loglog(ratios, line, "o-", markersize=3, color=colour, label=name)
    ax.loglog(ratios, U * (1 + ratios**2), "--", linewidth=1, color=INK, label=r"$u\,(1 + \mu^2 / \sigma^2)$")
    ax.plot(groups, np.full(len(groups), 3e-17), "|", color=INK, alpha=0.5, markersize=9)
    ax.text(groups.max() * 1.4, 2e-17, "the groups of the checkpoint", color=INK, fontsize=8, va="center")
    ax.set_xlim(1e-3, 1e5)
    ax.set_ylim(1e-17, 1e3)
    ax.set_xlabel(r"mean / deviation, $\mu / \sigma$")
    ax.set_ylabel("error of the variance")
    ax.legend(fontsize=8, loc="upper left")
    save(figure, folder / "numerics-variance.svg")
    return {"groups": str(len(groups)), "ratio": f"{groups.max():.1f}", "ratio_median": f"{np.median(groups):.2f}"}


def ranges() -> dict[str, str]:
    """The largest score of an attention in the UNet, and the largest number in any of its tensors and the decoder's."""
    scores = []
    for name in (n for n in exact() if n.endswith(".to_q")):
        q, k = exact()[name][0], exact()[name.removesuffix("to_q") + "to_k"][0]
        heads = oracle().unet.weights.at(name).settings["heads"]
        width = q.shape[1] // heads
        parts = [slice(h * width, (h + 1) * width) for h in range(heads)]
        scores += [float((q[:, part] @ k[:, part].T / math.sqrt(width)).max()) for part in parts]
    z, _ = inputs()
    with tinyldm.tracing.trace() as decoded:
        oracle().vae.decode(oracle().vae.unscale(z.astype(np.float64)))
    largest = max(float(np.abs(y).max()) for found in (exact(), decoded) for y in found.values())
    return {"score": f"{max(scores):.1f}", "largest": f"{largest:.0f}"}


# Functions ------------------------------------------------------------------------------------------------------------


def exponential(x: Array, parts: tuple[float, ...]) -> Array:
    """e^x in float32 by 2^n e^r, the logarithm of 2 in so many parts."""
    f = np.float32
    n = np.rint(x * f(1 / math.log(2)))
    r = x
    for part in parts:
        r = r - n * f(part)
    total = np.full_like(x, f(EXP_COEFFICIENTS[-1]))
    for c in EXP_COEFFICIENTS[-2::-1]:
        total = total * r + f(c)
    return np.ldexp(total, n.astype(np.int32))


def middles(x: Array) -> Array:
    """The middles of 200 intervals."""
    return x.reshape(200, -1).mean(1)


def largest(wrong: Array) -> Array:
    """The largest value in each of 200 intervals."""
    return wrong.reshape(200, -1).max(1)


def functions(folder: Path) -> None:
    """The error of e^x with ln 2 in one part and in two, and of GELU by three formulas."""
    figure, axes = plots(2, width=7.6, height=3)
    x = np.linspace(-80, 0, 400_000, dtype=np.float32)
    true = np.exp(x.astype(np.float64))
    for (name, parts), colour in zip(
        {"ln 2 as one float32": (math.log(2),), "ln 2 in two parts": (LN2_HIGH, LN2_LOW)}.items(),
        (RED, BLUE),
        strict=True,
    ):
        wrong = np.abs(exponential(x, parts) / true - 1)
        axes[0].semilogy(middles(x), largest(wrong), color=colour, label=name)
    axes[0].axhline(U, color=INK, linestyle="--", linewidth=0.8)
    axes[0].set_xlabel("x")
    axes[0].set_ylabel("relative error of $e^x$")
    axes[0].set_ylim(1e-8, 1e-4)
    axes[0].legend(fontsize=8)
    x = np.linspace(-7, 5, 48_000, dtype=np.float32)
    true = ops.gelu(x.astype(np.float64))
    f = np.float32
    ways = {
        "by tanh": x / 2 * (1 + np.tanh(f(math.sqrt(2 / math.pi)) * (x + f(0.044715) * x**3))),
        "by 1 + erf, in float32": x / 2 * (1 + erf(x / f(math.sqrt(2)))),
        "the kernel": kernels.gelu(x),
    }
    for (name, y), colour in zip(ways.items(), (RED, ORANGE, BLUE), strict=True):
        axes[1].semilogy(middles(x), largest(np.abs(y / true - 1)), color=colour, label=name)
    axes[1].set_xlabel("x")
    axes[1].set_ylabel("relative error of GELU(x)")
    axes[1].legend(fontsize=8)
    save(figure, folder / "numerics-functions.svg")


# The samplers ---------------------------------------------------------------------------------------------------------

TIMES = (1, 21, 61, 121, 201, 301, 401, 501, 601, 701, 801, 881, 941, 981, 999)


def samplers(folder: Path) -> dict[str, str]:
    """What an error of the noise becomes in the clean latent and in the next latent, by timestep."""
    z, context = inputs()
    model, rounded = oracle(), tinyldm.load(precision="bf16")
    alpha_bar = model_alpha_bar()
    z0 = clean_latent()
    noise = tinyldm.random.torch_randn(z0.shape, seed=2)
    lines: dict[str, list[float]] = {"the noise": [], "the clean latent": [], "the next latent": []}
    factors = []
    for t in TIMES:
        a, s = np.sqrt(alpha_bar[t]), np.sqrt(1 - alpha_bar[t])
        after = alpha_bar[t - 40] if t > 40 else 1.0
        a2, s2 = np.sqrt(after), np.sqrt(1 - after)
        z = (a * z0 + s * noise).astype(np.float32)
        pair = [np.asarray(m.unet(z, t, context), np.float64) for m in (model, rounded)]
        clean = [(z - s * epsilon) / a for epsilon in pair]
        following = [a2 * x0 + s2 * epsilon for x0, epsilon in zip(clean, pair, strict=True)]
        for line, (right, wrong) in zip(lines.values(), (pair, clean, following), strict=True):
            line.append(float(np.sqrt(np.mean((wrong - right) ** 2))))
        factors.append(s / a)
    figure, ax = plots(width=6.4, height=3.2)
    for (name, line), colour in zip(lines.items(), (BLUE, RED, GREEN), strict=True):
        ax.semilogy(TIMES, line, "o-", markersize=3, color=colour, label=f"of {name}")
    promised = np.array(factors) * np.array(lines["the noise"])
    ax.semilogy(TIMES, promised, "--", linewidth=1, color=INK, label=r"$s / a$ × that of the noise")
    ax.set_xlabel("timestep")
    ax.set_ylabel("error, RMS (products in bfloat16)")
    ax.legend(fontsize=8)
    save(figure, folder / "numerics-samplers.svg")
    return {"factor": f"{factors[-1]:.1f}", "last_signal": f"{np.sqrt(alpha_bar[-1]):.3f}"}


# Layer by layer -------------------------------------------------------------------------------------------------------

ARITHMETICS = {"float16": PURPLE, "bfloat16": RED, "float32": BLUE}


def worst(arithmetic: str, evaluations: int) -> Errors:
    """The largest error of every tensor over so many honest evaluations."""
    found = [errors_of(rounded_network(oracle().unet, arithmetic, e)) for e in range(evaluations)]
    return {name: max(errors[name] for errors in found) for name in exact()}


def marked(ax: Any, names: list[str]) -> None:
    """The blocks of the UNet along the axis of its tensors."""
    parts = [name.partition(".")[0] if name.startswith(("down", "mid", "up")) else "" for name in names]
    for part, label in (("down_blocks", "down"), ("mid_block", "middle"), ("up_blocks", "up")):
        places = [k for k, p in enumerate(parts) if p == part]
        ax.axvline(places[0], color=INK, linewidth=0.6, alpha=0.6)
        ax.text(places[0] + 2, 0.97, label, transform=ax.get_xaxis_transform(), color=INK, fontsize=8, va="top")


def of_the_latent() -> list[str]:
    """The tensors that depend on the latent, in order; the others come from the timestep or from the words alone."""
    words = (".attn2.to_k", ".attn2.to_v")
    return [name for name, y in exact().items() if y.ndim > 2 and not name.endswith(words)]


def depth(folder: Path) -> None:
    """The error of every tensor of the UNet, in the order in which they are computed, by arithmetic."""
    names = of_the_latent()
    figure, ax = plots(width=7.4, height=3.6)
    lines = {f"all results in {a}": (worst(a, 1), colour) for a, colour in ARITHMETICS.items()}
    for precision, colour in (("bf16", ORANGE), ("strict", GREEN)):
        lines[f"the kernels, {precision}"] = errors_of(tinyldm.load(precision=precision).unet), colour
    for label, (line, colour) in lines.items():
        ax.semilogy([line[name] for name in names], color=colour, linewidth=1, label=label)
    marked(ax, names)
    ax.set_xlabel("tensors of the UNet, in order")
    ax.set_ylabel("relative error, RMS")
    ax.legend(fontsize=8, ncol=2, loc="center", bbox_to_anchor=(0.5, 0.52))
    save(figure, folder / "numerics-depth.svg")


def parts(folder: Path) -> None:
    """The error of each network's output in each arithmetic, on the oracle's own inputs."""
    model = oracle()
    z, context = inputs()
    ids = model.tokenizer.encode("red apple")
    calls: dict[str, Callable[[Any], Array]] = {
        "text encoder": lambda m: m.text_encoder(ids),
        "UNet": lambda m: m.unet(z, T, context),
        "decoder": lambda m: m.vae.decode(model.vae.unscale(z)),
    }
    true = {name: call(model) for name, call in calls.items()}
    rows = []
    kinds: dict[str, tinyldm.LatentDiffusion] = {f"all results in {a}": rounded_model(model, a) for a in ARITHMETICS}
    kinds |= {f"`{p}`": tinyldm.load(precision=p) for p in PRECISIONS}
    for kind, one in kinds.items():
        row = [kind]
        for name, call in calls.items():
            with plain_operators() if kind[0] == "a" else contextlib.nullcontext():
                row.append(f"{distance(np.asarray(call(one), np.float64), true[name]):.1e}")
        rows.append(row)
    write_table(folder / "numerics-parts.md", ("arithmetic", *calls), rows)


# Bugs -----------------------------------------------------------------------------------------------------------------


def with_operators(**changed: Callable[..., Array]) -> Any:
    """The oracle's UNet with some operators exchanged."""
    own = SimpleNamespace(**{name: getattr(ops, name) for name in ops.__all__} | changed)
    return rebuilt(oracle().unet, Runtime("reference", np.dtype(np.float64), operators=own))


def with_settings(setting: str, value: float, *ends: str) -> Any:
    """The oracle's UNet with a setting of some of its nodes changed."""
    unet = rebuilt(oracle().unet, oracle().runtime)
    for node in unet.weights.modules():
        if node.path.endswith(ends) and "transformer_blocks" not in node.path:
            node.settings[setting] = value
    return unet


def tanh_geglu(x: Array) -> Array:
    """GEGLU with the approximation of GELU by tanh."""
    a, g = np.split(x, 2, axis=-1)
    return a * g / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))


def float32_embedding(*arguments: Any, **more: Any) -> Array:
    """The waves of the timestep from frequencies that were computed in float32."""
    return rounded_network(oracle().unet, "float32").runtime.ops.timestep_embedding(*arguments, **more).view(np.ndarray)


def sample_variance(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    """Group norm with the variance of a sample, divided by n - 1."""
    n = x[0].size // groups
    return (ops.group_norm(x, np.ones_like(weight), np.zeros_like(bias), groups, eps * (n - 1) / n)) * (
        weight * math.sqrt((n - 1) / n)
    ) + bias


def off_by_one(z: Array, t: int, context: Array) -> Array:
    """The next timestep."""
    return oracle().unet(z, t + 1, context)


def bugs(folder: Path) -> dict[str, str]:
    """How far small mistakes move the prediction, beside what float32 costs."""
    z, context = inputs()
    true = oracle().unet(z, T, context)
    ports = {
        "nothing: right, in float32": tinyldm.load(backend="reference").unet,
        "the norms before transformers with ε = 1e-5, which is 1e-6": with_settings("eps", 1e-5, ".norm"),
        "the waves of the timestep in float32": with_operators(timestep_embedding=float32_embedding),
        "the norms of residual blocks with ε = 1e-6, which is 1e-5": with_settings("eps", 1e-6, ".norm1", ".norm2"),
        "GELU by tanh": with_operators(geglu=tanh_geglu),
        "variances divided by n − 1": with_operators(group_norm=sample_variance),
        "the timestep one too large": off_by_one,
    }
    found = {}
    for name, unet in ports.items():
        with plain_operators():
            found[name] = distance(np.asarray(unet(z, T, context), np.float64), true)
    single, *wrong = found.items()
    seen = [["yes" if error > bar else "no" for bar in (1e-4, 1e-9)] for _, error in wrong]
    rows = [(name, f"{error:.1e}", *shown) for (name, error), shown in zip(wrong, seen, strict=True)]
    head = ("what is wrong", "difference of the prediction", "above 1e-4, the bar of float32", "above 1e-9, of float64")
    write_table(folder / "numerics-bugs.md", head, rows)
    return {"float32_error": f"{single[1]:.1e}", "eps_error": f"{wrong[0][1]:.1e}"}


def by_halves(operator: Callable[..., Array]) -> Callable[..., Array]:
    """A product over channels as the sum of two: the even channels and the odd ones."""

    def run(x: Array, weight: Array, bias: Array | None = None, **more: Any) -> Array:
        y = operator(x[..., ::2], weight[:, ::2], **more) + operator(x[..., 1::2], weight[:, 1::2], **more)
        return y if bias is None else y + bias

    return run


def first_wrong(folder: Path) -> dict[str, str]:
    """The error of a right and of a wrong port by layer, in float32 and in float64, beside what is allowed."""
    names = of_the_latent()
    allowed = {name: FACTOR * max(e, U) for name, e in worst("float32", EVALUATIONS).items()}
    single = [tinyldm.load(backend="reference").unet for _ in range(2)]
    double = [with_operators(linear=by_halves(ops.linear), conv2d=by_halves(ops.conv2d)) for _ in range(2)]
    for unet in (single[1], double[1]):
        for node in unet.weights.modules():
            if node.path.endswith(".norm"):
                node.settings["eps"] = 1e-5
    right, wrong, right64, wrong64 = (errors_of(unet) for unet in (*single, *double))
    figure, ax = plots(width=7.4, height=3.8)
    ax.semilogy([allowed[n] for n in names], "--", color=INK, linewidth=1, label="allowed in float32")
    for line, colour, name in (
        (wrong, RED, "wrong, in float32"),
        (right, BLUE, "right, in float32"),
        (wrong64, ORANGE, "wrong, in float64"),
        (right64, GREEN, "right, in float64"),
    ):
        ax.semilogy([line[n] or np.nan for n in names], color=colour, linewidth=1, label=name)
    first = next(n for n in names if wrong64[n] > 1e-9)
    ax.plot(names.index(first), wrong64[first], "o", color=ORANGE, markersize=6, fillstyle="none")
    ax.annotate(first, (names.index(first), wrong64[first]), (8, 16), textcoords="offset points", color=INK, fontsize=8)
    marked(ax, names)
    ax.set_ylim(1e-17, 1e-3)
    ax.set_xlabel("tensors of the UNet, in order")
    ax.set_ylabel("relative error, RMS")
    ax.legend(fontsize=8, ncol=2, loc="center right", bbox_to_anchor=(1, 0.36))
    save(figure, folder / "numerics-first-wrong.svg")
    last = names[-1]
    behind = names[names.index(first) :]
    return {
        "first": first,
        "first_place": str(names.index(first) + 1),
        "first_error": f"{wrong[first]:.1e}",
        "first_allowed": f"{allowed[first]:.1e}",
        "first_right": f"{right[first]:.1e}",
        "over": str(sum(wrong[n] > allowed[n] for n in names)),
        "over_64": str(sum(wrong64[n] > 1e-9 for n in behind)),
        "behind": str(len(behind)),
        "count": str(len(names)),
        "last_wrong": f"{wrong[last]:.1e}",
        "last_right": f"{right[last]:.1e}",
        "largest_64": f"{max(right64.values()):.0e}",
        "spread": f"{max(allowed[n] for n in names) / min(allowed[n] for n in names):.0f}",
    }


# Pictures, threads and processors -------------------------------------------------------------------------------------

PROMPTS, STEPS = ["red apple", "owl"], 10


def picture(model: tinyldm.LatentDiffusion) -> Array:  # -> (N, H, W, 3)
    """Pictures as levels."""
    made = model.text_to_image(PROMPTS, steps=STEPS, guidance_scale=4.0, seed=0)
    return np.stack([np.asarray(p, float) for p in made])


def pictures(folder: Path) -> None:
    """How far pictures are from the oracle's, by arithmetic."""
    true, rows = picture(oracle()), []
    for arithmetic in ARITHMETICS:
        with plain_operators():
            rows.append((f"all results in {arithmetic}", picture(rounded_model(oracle(), arithmetic))))
    rows += [(f"`{p}`", picture(tinyldm.load(precision=p))) for p in PRECISIONS]
    table = []
    for name, found in rows:
        far = np.abs(found - true)
        table.append((name, f"{far.max():.0f}", f"{np.sqrt(np.mean(far**2)):.2f}", f"{100 * (far > 1).mean():.2f} %"))
    head = ("arithmetic", "largest difference, levels of 255", "RMS", "more than one level off")
    write_table(folder / "numerics-pictures.md", head, table)


DIGEST = """
import hashlib, sys
import tinyldm
z = tinyldm.random.torch_randn((1, 4, 16, 16), seed=0)
for precision in ("strict", "fast", "bf16"):
    model = tinyldm.load(precision=precision, threads=int(sys.argv[1]))
    epsilon = model.unet(z, 500, model.text_encoder(model.tokenizer.encode("owl")))
    print(hashlib.sha256(epsilon.tobytes()).hexdigest()[:8])
"""
RUNS = (("", "1"), ("", "3"), ("avx512", "1"), ("avx2", "1"))  # instructions, threads


def digests(folder: Path) -> dict[str, str]:
    """The prediction's digest on one thread and on three, and with the instructions of other processors."""
    rows = []
    for instructions, threads in RUNS:
        environment = {**os.environ, **({"TINYLDM_SIMD": instructions} if instructions else {})}
        command = [sys.executable, "-c", DIGEST, threads]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows.append((instructions or "all that it has", threads, *(f"`{digest}`" for digest in done.stdout.split())))
    write_table(folder / "numerics-digests.md", ("instructions", "threads", *(f"`{p}`" for p in PRECISIONS)), rows)
    return {"processor": processor_name()}


def make(folder: Path) -> None:
    """All of these."""
    sums(folder)
    numbers = product(folder) | variance(folder) | ranges() | samplers(folder) | bugs(folder) | first_wrong(folder)
    functions(folder)
    depth(folder)
    parts(folder)
    pictures(folder)
    write_numbers(folder / "numerics.json", numbers | digests(folder))
