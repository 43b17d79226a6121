"""What the embedded checkpoint's autoencoder loses, and what upscaling gives back: spectra and PSNR.

    pip install matplotlib && python tests/bench/upscaling.py -o docs/upscaling.md

The pictures are those of `weights/emoji/data.py` (a font of Debian's), drawn at 64×64, which the checkpoint was trained
on, and at 128×128, which it has never seen. Writes the tables, and `docs/upscaling.svg` beside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "weights" / "emoji"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import data
from bench.page import table, write_section

import tinyldm
from tinyldm.bench import machine
from tinyldm.typing import Array

RUNS = ((0.05, 1.0), (0.1, 1.0), (0.2, 1.0), (0.2, 4.0))  # strength and guidance scale
STEPS = 20
SMALL, LARGE = 64, 128
GREY = "#808080"  # of axes and words: as far from a white page as from a black one
COLOURS = ("#808080", "#2a8fd8", "#2aa876", "#e07b1f", "#d05050", "#c8509b", "#8a6fd1")


def drawn(count: int, side: int) -> tuple[list[str], list[Image.Image]]:
    """Names and pictures of emoji, evenly through the list."""
    chosen = data.read_emoji()
    chosen = chosen[:: len(chosen) // count][:count]
    data.SIDE = side
    return [emoji.name for emoji in chosen], [Image.fromarray(picture) for picture in data.draw(chosen)]


def grey(image: Image.Image) -> Array:
    """Luma, (H, W) in [0, 255]."""
    return np.asarray(image.convert("RGB"), np.float64) @ np.array([0.299, 0.587, 0.114])


def spectrum(image: Image.Image) -> Array:  # -> (H / 2,)
    """Power of the luma by spatial frequency: the mean over rings, of which the last ends at half a cycle a pixel."""
    luma = grey(image)
    side = len(luma)
    hann = np.hanning(side)
    power = np.abs(np.fft.fft2((luma - luma.mean()) * hann[:, None] * hann)) ** 2
    k = np.fft.fftfreq(side) * side
    radius = np.rint(np.hypot(k[:, None], k)).astype(int).ravel()
    return (np.bincount(radius, power.ravel()) / np.bincount(radius))[1 : side // 2 + 1]


def psnr(found: list[Image.Image], truth: list[Image.Image]) -> float:
    """Mean over pictures of 10 log10(255² / mean squared error), in dB."""
    pairs = zip(found, truth, strict=True)
    errors = [
        np.square(np.asarray(a.convert("RGB"), float) - np.asarray(b.convert("RGB"), float)).mean() for a, b in pairs
    ]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


def octaves(found: Array, truth: Array) -> list[str]:
    """Power that is left of the truth's in the three octaves below half a cycle a pixel."""
    n = len(truth)
    bands = [slice(n // 8, n // 4), slice(n // 4, n // 2), slice(n // 2, n)]
    return [f"{found[band].sum() / truth[band].sum():.2f}" for band in bands]


def measured(count: int) -> tuple[dict[str, dict[str, list[Image.Image]]], dict[str, float]]:
    """The pictures by size and name, and seconds a picture."""
    model = tinyldm.load()
    names, small = drawn(count, SMALL)
    _, large = drawn(count, LARGE)
    through = [model.decode(model.encode(image))[0] for image in small]
    enlarged = [image.resize((LARGE, LARGE), Image.Resampling.LANCZOS) for image in through]
    by_size = {"64": {"drawn": small, "through the autoencoder": through}}
    by_size["128"] = {"drawn": large, "the second, enlarged by Lanczos": enlarged}
    seconds = {}
    by_size["128"]["drawn, through the autoencoder"] = [model.decode(model.encode(image))[0] for image in large]
    for strength, scale in RUNS:
        title = f"`--strength {strength} --guidance-scale {scale:g}`"
        start = time.perf_counter()
        pictures = [
            model.upscale(image, name, strength=strength, steps=STEPS, seed=k, guidance_scale=scale)
            for k, (image, name) in enumerate(zip(through, names, strict=True))
        ]
        by_size["128"][title] = pictures
        seconds[title] = (time.perf_counter() - start) / count
    return by_size, seconds


def tables(by_size: dict[str, dict[str, list[Image.Image]]], seconds: dict[str, float]) -> str:
    """PSNR against what was drawn, and the power that is left."""
    parts = []
    for size, kinds in by_size.items():
        truth = kinds["drawn"]
        power = {name: np.mean([spectrum(image) for image in images], axis=0) for name, images in kinds.items()}
        rows = [
            [name, f"{psnr(images, truth):.1f}", *octaves(power[name], power["drawn"]), f"{seconds.get(name, 0):.1f}"]
            for name, images in kinds.items()
            if name != "drawn"
        ]
        head = [f"{size}×{size}", "PSNR, dB", "1/16 to 1/8", "1/8 to 1/4", "1/4 to 1/2 cycles a pixel", "seconds"]
        parts.append(table(head if size == "128" else head[:-1], rows if size == "128" else [row[:-1] for row in rows]))
    return "\n\n".join(parts)


def plot(by_size: dict[str, dict[str, list[Image.Image]]], file: Path) -> None:
    """The radial spectra, on no background, in colours that stand out from white and from black."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "upscaling", "text.color": GREY, "font.size": 9})
    mpl.rcParams.update({f"{name}.color": GREY for name in ("xtick", "ytick")})
    mpl.rcParams.update({"axes.labelcolor": GREY, "axes.edgecolor": GREY, "axes.titlecolor": GREY})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=False, layout="constrained")
    for panel, (size, kinds) in zip(axes, by_size.items(), strict=True):
        for colour, (name, images) in zip(COLOURS, kinds.items(), strict=False):
            power = np.mean([spectrum(image) for image in images], axis=0)
            cycles = np.arange(1, len(power) + 1) / int(size)
            panel.loglog(cycles, power, color=colour, label=name.strip("`"), linewidth=2 if name == "drawn" else 1.4)
        panel.set_title(f"{size}×{size}")
        panel.set_xlabel("cycles a pixel")
        panel.set_xticks([1 / k for k in (32, 16, 8, 4, 2)], [f"1/{k}" for k in (32, 16, 8, 4, 2)])
        panel.minorticks_off()
        panel.grid(visible=True, color=GREY, alpha=0.25)
        panel.legend(frameon=False, fontsize=8, loc="lower left")
        panel.patch.set_alpha(0)
    axes[0].set_ylabel("power of the luma")
    figure.patch.set_alpha(0)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Measure, and print or write the section and the figure."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=12)
    p.add_argument("-o", "--output", type=Path)
    args = p.parse_args()
    by_size, seconds = measured(args.count)
    text = f"{args.count} pictures, {STEPS} steps of the whole walk, tiles of 64×64 that overlap by 16.\n"
    text += f"{machine()}.\n\n"
    text += tables(by_size, seconds)
    text += f"\n\nMade by `python tests/bench/upscaling.py --count {args.count} -o docs/upscaling.md`."
    if args.output:
        write_section(args.output, "upscaling.py", text)
        plot(by_size, args.output.with_suffix(".svg"))
    else:
        print(text)


if __name__ == "__main__":
    main()
