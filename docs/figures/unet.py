"""The UNet: where its work is, what each skip carries, what the time does, where the words look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from drawing import BLUE, INK, ORANGE, plots, save, sheet, show, write_numbers, write_table

import tinyldm
from tinyldm import cost, ops
from tinyldm.architectures import random_model
from tinyldm.diffusion.prediction import classifier_free_guidance
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.diffusion.samplers.base import denoise

STEPS, GUIDANCE = 15, 4.0


def blocks(model: tinyldm.LatentDiffusion, side: int) -> list[cost.Cost]:
    """The blocks of a UNet on a latent of this side, by their own names."""
    return cost.by_block(cost.unet_costs(model.unet, side, side, cost.context_tokens(model)))


def work(folder: Path, model: tinyldm.LatentDiffusion) -> dict[str, str]:
    """Parameters and multiply-adds by block, of the embedded checkpoint and of Stable Diffusion 1.5."""
    numbers = {}
    figure, axes = plots(2, width=7.4, height=3.2)
    for ax, (name, one, side) in zip(
        axes,
        (("the embedded checkpoint", model, 16), ("Stable Diffusion 1.5", random_model("sd15", model.runtime), 64)),
        strict=True,
    ):
        found = [b for b in blocks(one, side) if b.multiply_adds > 0]
        parameters = np.array([b.parameters for b in found]) / sum(b.parameters for b in found)
        work = np.array([b.multiply_adds for b in found]) / sum(b.multiply_adds for b in found)
        place = np.arange(len(found))
        ax.barh(place - 0.2, 100 * parameters, 0.4, color=BLUE, label="parameters")
        ax.barh(place + 0.2, 100 * work, 0.4, color=ORANGE, label="multiply-adds")
        ax.set_yticks(place, [b.path for b in found], fontsize=8)
        ax.invert_yaxis()
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("% of the UNet")
        of_up = sum(w for b, w in zip(found, work, strict=True) if b.path.startswith("up"))
        numbers |= {
            f"up_{side}": f"{100 * of_up:.0f}",
            f"parameters_{side}": f"{sum(b.parameters for b in found) / 1e6:.0f}",
            f"work_{side}": f"{sum(b.multiply_adds for b in found) / 1e9:.3g}",
        }
    axes[0].legend(fontsize=8)
    save(figure, folder / "unet-work.svg")
    rows = []
    for b in blocks(model, 16):
        shape = " × ".join(map(str, b.shape[1:]))
        rows.append((f"`{b.path}`", shape, f"{b.parameters:,}", f"{b.multiply_adds / 1e6:,.1f}"))
    write_table(
        folder / "unet-blocks.md", ("block", "shape of its output", "parameters", "million multiply-adds"), rows
    )
    return numbers


# What the skips carry -------------------------------------------------------------------------------------------------


def skip_names(model: tinyldm.LatentDiffusion) -> list[str]:
    """The modules whose outputs the way down leaves for the way up, in their order."""
    w, names = model.unet.weights, ["conv_in"]
    for i, block in enumerate(w.down_blocks):
        last = "attentions" if "attentions" in block else "resnets"
        names += [f"down_blocks.{i}.{last}.{j}" for j in range(len(block.resnets))]
        names += [f"down_blocks.{i}.downsamplers.0"] if "downsamplers" in block else []
    return names


def without_skips(model: tinyldm.LatentDiffusion, prompt: str, zeroed: Sequence[int], seed: int) -> np.ndarray:
    """The final latent of a prompt where these skips are zero in every step.

    A ControlNet's residuals are added to the skips; minus the skip itself makes it zero.
    """
    context, names = model.text_encoder(model.tokenizer.encode([prompt, ""])), skip_names(model)

    def predict(z: np.ndarray, t: np.number) -> np.ndarray:
        both = np.concatenate([z, z])
        with tinyldm.tracing.trace() as trace:
            epsilon = model.unet(both, t, context)
        skips = [trace[name] for name in names]
        if zeroed:
            residuals = [-skip if k in zeroed else np.zeros_like(skip) for k, skip in enumerate(skips)]
            epsilon = model.unet(both, t, context, [*residuals, np.zeros_like(trace["mid_block"])])
        return classifier_free_guidance(epsilon[1:], epsilon[:1], GUIDANCE)

    sampler = make_sampler("ddim", model.scheduler_config, STEPS)
    return denoise(predict, sampler, tinyldm.random.torch_randn((1, 4, 16, 16), seed=seed))


def skips(folder: Path, model: tinyldm.LatentDiffusion) -> dict[str, str]:
    """Pictures with one skip zero, and how far their latents are from those with all."""
    names, prompts = skip_names(model), (("red apple", 0), ("owl", 3))
    rows, far = [], np.zeros(len(names))
    for prompt, seed in prompts:
        whole = without_skips(model, prompt, [], seed)
        row = [model.decode(whole)[0]]
        for k in range(len(names)):
            z = without_skips(model, prompt, [k], seed)
            far[k] += np.sqrt(np.mean((z - whole) ** 2)) / len(prompts)
            row.append(model.decode(z)[0])
        rows.append((f'"{prompt}"', row))
    sides = [model.unet.config.sample_size >> level_of(name) for name in names]
    titles = ["all skips", *(f"no {k}: {side}×{side}" for k, side in enumerate(sides))]
    sheet(folder / "unet-skips.png", rows, titles, 1.05)
    write_table(
        folder / "unet-skips.md",
        ("skip", "left by", "size", "change of the final latent, RMS"),
        [(k, f"`{name}`", f"{sides[k]} × {sides[k]}", f"{far[k]:.2f}") for k, name in enumerate(names)],
    )
    most, least = (f"`{names[int(k)]}`" for k in (far.argmax(), far.argmin()))
    return {"skips": str(len(names)), "most": most, "least": least}


def level_of(name: str) -> int:
    """How often the size has been halved where a module's output is."""
    if name == "conv_in":
        return 0
    return int(name.split(".")[1]) + ("downsamplers" in name)


# The time -------------------------------------------------------------------------------------------------------------


def times(folder: Path, model: tinyldm.LatentDiffusion) -> None:
    """The sines and cosines of the timestep, and how alike two times are behind the two layers."""
    t = np.arange(0, 1000, 5)
    waves = ops.timestep_embedding(t, model.unet.config.block_out_channels[0])
    w = model.unet.weights.time_embedding
    learned = ops.linear(
        ops.silu(ops.linear(waves, w.linear_1.weight, w.linear_1.bias)), w.linear_2.weight, w.linear_2.bias
    )
    unit = learned / np.linalg.norm(learned, axis=1, keepdims=True)
    figure, axes = plots(2, width=7, height=2.9)
    axes[0].imshow(waves, aspect="auto", cmap="RdBu", extent=(0, waves.shape[1], 1000, 0))
    axes[0].set_title("cosines, then sines", fontsize=10)
    axes[0].set_xlabel("channel")
    axes[1].imshow(unit @ unit.T, cmap="viridis", extent=(0, 1000, 1000, 0))
    axes[1].set_title("likeness behind the layers", fontsize=10)
    axes[1].set_xlabel("timestep")
    for ax in axes:
        ax.set_ylabel("timestep")
        ax.grid(visible=False)
    save(figure, folder / "unet-time.png")


# Where the words look -------------------------------------------------------------------------------------------------


def looks(model: tinyldm.LatentDiffusion, prompt: str, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """For each step the weight of each token at each of the 8×8 places, (L, 8, 8); and the latent at the end.

    The mean over all heads of all cross-attentions at that size, from their queries and keys.
    """
    context, maps = model.text_encoder(model.tokenizer.encode([prompt, ""])), []

    def predict(z: np.ndarray, t: np.number) -> np.ndarray:
        with tinyldm.tracing.trace("*attn2.to_[qk]") as trace:
            epsilon = model.unet(np.concatenate([z, z]), t, context)
        found = []
        for path, q in trace.items():
            if path.endswith("to_q") and q.shape[1] == 64:
                k, heads = trace[f"{path[:-1]}k"], model.unet.config.attention_head_dim
                qs, ks = (x[0].reshape(len(x[0]), heads, -1).swapaxes(0, 1) for x in (q, k))
                found.append(ops.softmax(qs @ ks.swapaxes(1, 2) / np.sqrt(qs.shape[-1])).mean(0))  # (64, L)
        maps.append(np.mean(found, axis=0).T.reshape(-1, 8, 8))
        return classifier_free_guidance(epsilon[1:], epsilon[:1], GUIDANCE)

    sampler = make_sampler("ddim", model.scheduler_config, STEPS)
    z = denoise(predict, sampler, tinyldm.random.torch_randn((1, 4, 16, 16), seed=seed))
    return maps, z


def words(folder: Path, model: tinyldm.LatentDiffusion) -> None:
    """A row of maps for each word of a prompt, a column for each few steps."""
    prompt, seed = "red fox and blue whale", 0
    maps, z = looks(model, prompt, seed)
    tokens = ["start", *(token.removesuffix("</w>") for token in model.tokenizer.tokenize(prompt)), "first end"]
    visited = [0, 3, 6, 9, 12, STEPS - 1]
    figure, axes = plots(len(visited) + 1, len(tokens), width=7.4, height=1.15 * len(tokens))
    for r, token in enumerate(tokens):
        for c, i in enumerate(visited):
            show(axes[r, c], maps[i][r], f"step {i + 1}" if r == 0 else "", cmap="magma")
        show(axes[r, -1], np.asarray(model.decode(z)[0]))
        axes[r, 0].text(-0.1, 0.5, token, transform=axes[r, 0].transAxes, ha="right", va="center", color=INK)
    save(figure, folder / "unet-words.png")


def make(folder: Path) -> None:
    """All of these."""
    model = tinyldm.load()
    numbers = work(folder, model)
    times(folder, model)
    words(folder, model)
    write_numbers(folder / "unet.json", numbers | skips(folder, model))
