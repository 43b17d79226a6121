"""What the pages of the three questions say: cost on pixels and on latents, first stages, and the latent's contract."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from autoencoder import psnr, shown
from collect_pictures import pictures
from drawing import plots, save, sheet, write_numbers, write_table

import tinyldm
from tinyldm import architectures, cost
from tinyldm.pipelines.request import request
from tinyldm.runtime import Runtime

ROOT = Path(__file__).parents[2]
NAMES = ("red apple", "fox", "pizza", "blue apple")


def timed(call: Callable[[], object]) -> float:
    """The least seconds of three calls, after one that prepares."""
    call()
    spans = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        spans.append(time.perf_counter() - began)
    return min(spans)


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import tinyldm

def held(name):
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) / 1000

def call(side):
    unet(np.zeros((1, 4, side, side), np.float32), 500, np.zeros((1, 16, 128), np.float32))

unet = tinyldm.load().unet
call(4)  # weights are read, kernels compiled
Path("/proc/self/clear_refs").write_text("5")  # the most that was held is forgotten
before = held("VmRSS:")
call(int(sys.argv[1]))
print(held("VmHWM:") - before)
"""


def peak(side: int) -> float:
    """The memory in MB that a call of the UNet on a map of this side takes beside weights and libraries (Linux)."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(side)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def multiply_adds(unet: object, side: int) -> tuple[float, float]:
    """Of one call of a UNet on maps of this side: all of them, and of these the products of attention."""
    costs = cost.unet_costs(unet, side, side)
    return cost.total(costs), cost.attention_products(costs)


def compression(folder: Path, model: tinyldm.LatentDiffusion) -> dict[str, str]:
    """One call of the same UNet on pixels and on latents: seconds where they are few, multiply-adds everywhere."""
    large = architectures.random_model("sd15", Runtime("reference")).unet
    context = np.zeros((1, 16, model.unet.config.cross_attention_dim), np.float32)
    rows = []
    numbers = {}
    for side in (64, 128, 256, 512, 1024):
        row: list[str] = [f"{side}×{side}"]
        for unet, factor in ((model.unet, 4), (large, 8)):
            (small, _), (whole, attention) = multiply_adds(unet, side // factor), multiply_adds(unet, side)
            row += [
                f"{small / 1e9:.3g}",
                f"{whole / 1e9:.4g}",
                f"{whole / small:.0f}",
                f"{100 * attention / whole:.0f} %",
            ]
            numbers[f"ratio_{factor}_{side}"] = f"{whole / small:.0f}"
        rows.append(row)
    head = ["picture", "latents", "pixels", "ratio", "attention's part"]
    write_table(folder / "questions-cost.md", [*head, *(f"{name} (SD 1.5)" for name in head[1:])], rows)
    seconds = {}
    for name, side in (("latents", 16), ("pixels", 64), ("latents_large", 32), ("pixels_large", 128)):
        z = np.zeros((1, 4, side, side), np.float32)
        seconds[name] = timed(lambda z=z: model.unet(z, 500, context))
    numbers |= {f"seconds_{k}": f"{1000 * v:.0f}" for k, v in seconds.items()}
    numbers["seconds_ratio"] = f"{seconds['pixels'] / seconds['latents']:.0f}"
    numbers["seconds_ratio_large"] = f"{seconds['pixels_large'] / seconds['latents_large']:.0f}"
    numbers |= {"memory_latents": f"{peak(32):.0f}", "memory_pixels": f"{peak(128):.0f}"}
    step, decoder = multiply_adds(large, 64)[0], sum(c.multiply_adds for c in cost.vae_costs(_vae(), 512, 512)[1])
    numbers["decoder_in_calls"] = f"{decoder / step:.1f}"
    return numbers


def _vae() -> object:
    return architectures.random_model("sd15", Runtime("reference")).vae


def first_stages(folder: Path, x: np.ndarray) -> None:
    """The first stages behind one interface: what they make of pictures, how well, how fast."""
    kinds = (
        ("KL, `emoji`", "emoji", "1,024 numbers"),
        ("a heavier decoder, `emoji-asymmetric`", "emoji-asymmetric", "1,024 numbers"),
        ("tiny, `emoji-tiny`", "emoji-tiny", "1,024 numbers"),
        ("VQ, `emoji-vq`", "emoji-vq", "256 codes, 2,560 bits"),
        ("flow, `emoji-flow`", "emoji-flow", "12,288 numbers"),
        ("none, `emoji-pixels`", "emoji-pixels", "12,288 numbers"),
    )
    rows = []
    for what, name, size in kinds:
        vae = tinyldm.load(name).vae
        z = vae.encode(x)[0]
        quality = psnr(x, np.clip(vae.decode(z), -1, 1)).mean()
        one, encoded = x[:1], z[:1]
        spans = [timed(partial(vae.encode, one)), timed(partial(vae.decode, encoded))]
        exact = "exact" if quality > 90 else f"{quality:.1f} dB"
        rows.append((what, "×".join(map(str, z.shape[1:])), size, exact, *(f"{1000 * s:.0f}" for s in spans)))
    head = ("first stage", "latent", "size", "PSNR", "encode, ms", "decode, ms")
    write_table(folder / "questions-stages.md", head, rows)


def drawn(model: tinyldm.LatentDiffusion, names: list[str], **settings: object) -> tuple[np.ndarray, np.ndarray]:
    """Latents and pictures in [-1, 1] of prompts, the k-th with seed k."""
    made = list(model.pictures(request(names, seed=0, sampler="ddim", **settings)))
    return np.concatenate([p.latent for p in made]), np.stack(
        [np.moveaxis(np.asarray(p.image) / 127.5 - 1, -1, 0) for p in made]
    )


def two_models(folder: Path, x: np.ndarray, names: list[str]) -> dict[str, str]:
    """Pictures by name on latents and on pixels: seconds, likeness, and how often the nearest is the named one."""
    picked = [k for k in range(len(names)) if len(names[k].split()) == 1][:6]
    numbers, rows = {}, [("original", [shown(x[k]) for k in picked])]
    for name in ("emoji", "emoji-pixels"):
        model = tinyldm.load(name)
        began = time.perf_counter()
        y = drawn(model, [names[k] for k in picked], steps=12, guidance_scale=4.0)[1]
        seconds = (time.perf_counter() - began) / len(picked)
        rows.append((name, [shown(one) for one in y]))
        far = np.square(y[:, None] - x[None]).mean((2, 3, 4))
        key = name.replace("-", "_")
        numbers[f"{key}_right"] = f"{int((far.argmin(1) == picked).sum())}"
        numbers[f"{key}_psnr"] = f"{psnr(x[picked], y).mean():.1f}"
        numbers[f"seconds_{key}"] = f"{seconds:.2f}"
        calls = cost.unet_costs(model.unet, *model.parts.latent_size(), 16)
        numbers[f"{key}_call"] = f"{cost.total(calls) / 1e6:.0f}"
    sheet(folder / "questions-models.png", rows, side=0.8)
    return numbers | {"asked": f"{len(picked)}"}


def equal_training() -> dict[str, str]:
    """What `weights/emoji-pixels/equal_training.py` measured, which takes longer than all figures together."""
    found = json.loads((ROOT / "weights" / "emoji-pixels" / "equal_training.json").read_text(encoding="utf-8"))
    numbers = {"equal_pictures": f"{found['pictures']}", "equal_time": f"{found['minutes']:.0f}"}
    for key, name in {"pixels": "pixels", "latents": "latents", "fewer": "latents_equal_examples"}.items():
        run = found[name]
        numbers |= {f"{key}_examples": f"{run['examples']:,}", f"{key}_minutes": f"{run['minutes']:.0f}"}
        numbers |= {f"{key}_right": f"{run['right']}", f"{key}_psnr": f"{run['psnr']:.1f}"}
    return numbers


def damages(vae: object, other: np.ndarray, n: np.ndarray) -> dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """What is done to latents, in English and in Chinese."""
    return {
        "as it is": ("原样", lambda z: z),
        "× 0.25": ("× 0.25", lambda z: z / 4),
        "× 0.5": ("× 0.5", lambda z: z / 2),
        "× 2": ("× 2", lambda z: 2 * z),
        "× 4": ("× 4", lambda z: 4 * z),
        "no scaling factor": ("未乘缩放因子", lambda z: vae.unscale(z)),
        "channels 0, 1 swapped": ("通道 0、1 互换", lambda z: z[:, [1, 0, 2, 3]]),
        "sign turned": ("符号取反", lambda z: -z),
        "+ 0.5": ("+ 0.5", lambda z: z + 0.5),
        "clipped to ±1": ("截断到 ±1", lambda z: np.clip(z, -1, 1)),
        "+ noise 0.1": ("+ 噪声 0.1", lambda z: z + 0.1 * n),
        "+ noise 0.5": ("+ 噪声 0.5", lambda z: z + 0.5 * n),
        "another model's": ("另一模型的潜变量", lambda z: other),
    }


CHINESE = {
    "none": "无",
    "scale": "尺度",
    "scaling factor": "缩放因子",
    "channels swapped": "通道互换",
    "sign": "符号",
    "shift": "平移",
    "clipped": "截断",
    "noise": "噪声",
    "unlike": "无简单解释",
}


def contract(folder: Path, model: tinyldm.LatentDiffusion, x: np.ndarray) -> dict[str, str]:
    """Latents damaged in each way: what is drawn, how far that is from the picture, what the check says."""
    z = model.encode(x)
    n = np.random.default_rng(0).standard_normal(z.shape).astype(np.float32)
    english, chinese, sheets = [], [], []
    for name, (name_zh, damage) in damages(model.vae, tinyldm.load("emoji-vq").encode(x), n).items():
        bad = damage(z).astype(np.float32)
        y = np.clip(model.vae.decode(model.vae.unscale(bad)), -1, 1)
        report = model.check_latent(bad)
        said = [fault.name for checked in report.latents for fault in checked.faults] or ["none"]
        named = max(set(said), key=said.count)
        score = np.median([checked.score for checked in report.latents])
        row = f"{psnr(x, y).mean():.1f}", f"{bad.std():.2f}", f"{score:.1f}"
        english.append((name, *row, named))
        chinese.append((name_zh, *row, CHINESE[named]))
        sheets.append((name, [shown(one) for one in y]))
    write_table(folder / "questions-contract.md", ("latent", "PSNR, dB", "deviation", "score", "said"), english)
    write_table(folder / "questions-contract-zh.md", ("潜变量", "PSNR, dB", "标准差", "得分", "诊断"), chinese)
    turned = [(str(k), [row[1][k] for row in sheets]) for k in range(4)]
    sheet(folder / "questions-contract.png", turned, [name.replace(" ", "\n") for name, _ in sheets], 0.85)
    return forgiven(model, x, z, n)


def forgiven(model: tinyldm.LatentDiffusion, x: np.ndarray, z: np.ndarray, n: np.ndarray) -> dict[str, str]:
    """How large an error may be before decoding is more than 1 dB worse, by bisection."""

    def quality(bad: np.ndarray) -> float:
        y = np.clip(model.vae.decode(model.vae.unscale(bad.astype(np.float32))), -1, 1)
        return float(psnr(x, y).mean())

    best = quality(z)
    kinds = {
        "noise": lambda a: z + a * n,
        "scale": lambda a: z * (1 + a),
        "shift": lambda a: z + a,
        "coarse": lambda a: z + a * n.mean((2, 3), keepdims=True) / n.mean((2, 3)).std(),
    }
    numbers = {"best": f"{best:.1f}"}
    for name, damage in kinds.items():
        low, high = 0.0, 0.5
        for _ in range(10):
            middle = (low + high) / 2
            low, high = (middle, high) if quality(damage(middle)) > best - 1 else (low, middle)
        numbers[f"forgiven_{name}"] = f"{100 * low:.1f}"
    return numbers


def guidance(folder: Path, model: tinyldm.LatentDiffusion) -> dict[str, str]:
    """What guidance does to latents: deviation, score, and how much of the picture is at the end of the range."""
    rows, sheets, spread = [], [], {}
    for scale in (1.0, 2.0, 4.0, 7.5, 15.0):
        z, y = drawn(model, list(NAMES), steps=20, guidance_scale=scale)
        report = model.check_latent(z)
        spread[scale] = float(z.std((2, 3)).mean())
        raw = model.vae.decode(model.vae.unscale(z))
        over = 100 * float((np.abs(raw) > 1.02).mean())
        score = np.median([checked.score for checked in report.latents])
        rows.append((f"{scale:g}", f"{spread[scale]:.3f}", f"{np.abs(z).max():.1f}", f"{over:.1f} %", f"{score:.2f}"))
        sheets.append((f"{scale:g}", [shown(one) for one in y]))
    write_table(folder / "questions-guidance.md", ("w", "σ(z)", "max ∣z∣", "∣x∣ > 1.02", "score"), rows)
    sheet(folder / "questions-guidance.png", sheets, side=0.9)
    return {f"spread_{k:g}".replace(".", "_"): f"{v:.3f}" for k, v in spread.items()}


def updates(folder: Path, model: tinyldm.LatentDiffusion) -> dict[str, str]:
    """Twenty-five steps of z - ε beside as many of DDIM, from the same noise."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)  # ᾱ
    times = np.arange(960, -1, -40) + 1
    context = model.text_encoder(model.tokenizer.encode("red apple"))
    start = tinyldm.random.torch_randn((1, 4, 16, 16), seed=0)
    rows, spreads, against, right = [], {}, [], start
    for name in ("DDIM", "z - ε"):
        z, seen = start.copy(), []
        for k, t in enumerate(times):
            e = model.unet(z, t, context)
            if name == "DDIM":
                later = kept[times[k + 1]] if k + 1 < len(times) else kept[0]
                clean = (z - np.sqrt(1 - kept[t]) * e) / np.sqrt(kept[t])
                z = (np.sqrt(later) * clean + np.sqrt(1 - later) * e).astype(np.float32)
            else:
                z = z - e
                against.append(float(np.corrcoef(e.ravel(), right.ravel())[0, 1]))
            if k in (0, 1, 2, 6, 12, 18, 24):
                seen.append(shown(np.clip(model.vae.decode(model.vae.unscale(z))[0], -1, 1)))
        rows.append((name, seen))
        spreads[name] = float(z.std())
        right = z if name == "DDIM" else right
    sheet(folder / "questions-updates.png", rows, [f"step {k}" for k in (1, 2, 3, 7, 13, 19, 25)], 0.95)
    numbers = {"spread_right": f"{spreads['DDIM']:.2f}", "spread_wrong": f"{spreads['z - ε']:.2f}"}
    scores = [checked.score for checked in model.check_latent(np.concatenate([right, z])).latents]
    numbers |= {"score_right": f"{scores[0]:.1f}", "score_wrong": f"{scores[1]:.1f}"}
    return numbers | {"against": f"{np.mean(against[1:13]):.2f}", "against_first": f"{against[0]:.2f}"}


def histogram(folder: Path, model: tinyldm.LatentDiffusion, x: np.ndarray) -> dict[str, str]:
    """All values of scaled latents beside the normal distribution."""
    z = model.encode(x)
    figure, axes = plots(1, width=6, height=2.6)
    grid = np.linspace(-5, 5, 300)
    for k in range(4):
        axes.hist(z[:, k].ravel(), bins=100, range=(-5, 5), density=True, histtype="step", label=f"{k}")
    axes.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), "--", color="#808080", label="N(0, 1)")
    axes.legend(fontsize=8)
    save(figure, folder / "questions-histogram.svg")
    near = np.corrcoef(z[..., :-1].ravel(), z[..., 1:].ravel())[0, 1]
    tails = ((z - z.mean()) ** 4).mean() / z.var() ** 2 - 3
    return {"kurtosis": f"{tails:.1f}", "neighbours": f"{near:.2f}", "mean": f"{z.mean():.2f}", "std": f"{z.std():.2f}"}


def make(folder: Path) -> None:
    """All of these."""
    model = tinyldm.load()
    levels, names = pictures()
    x = np.moveaxis(levels / 127.5 - 1, -1, 1).astype(np.float32)
    numbers = updates(folder, model) | histogram(folder, model, x) | contract(folder, model, x[::24])
    first_stages(folder, x[::6])
    numbers |= equal_training() | compression(folder, model) | guidance(folder, model) | two_models(folder, x, names)
    write_numbers(folder / "questions.json", numbers)
