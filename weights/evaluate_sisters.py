"""Print the figures of the sisters that make whole pictures, beside the checkpoint's own, computed by tinyldm.

    python weights/evaluate_sisters.py [--count 50]

Each draws the same names (caption k with seed k): how often the nearest original is the named one, and the PSNR against
it; the same of combinations of a colour and a thing that were never trained. `emoji-lcm` in 1, 2 and 4 steps without
guidance, the others in 25 of DDIM at guidance 4. `emoji-edges` gets the edges of the named picture and no caption.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

import tinyldm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "emoji"))

import compose  # noqa: E402
import data  # noqa: E402
import judge  # noqa: E402

FULL = {"steps": 25, "guidance_scale": 4.0, "sampler": "ddim"}


def psnr(got: np.ndarray, wanted: np.ndarray) -> float:
    error = np.square(got.astype(np.float64) - wanted).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-3))).mean())


def pictures(model, captions: list[str], settings: dict) -> np.ndarray:  # -> (N, 64, 64, 3) uint8
    return np.stack([np.asarray(image) for image in model.text_to_image(captions, seed=0, **settings)])


def report(what: str, samples: np.ndarray, chosen: np.ndarray, originals: np.ndarray) -> None:
    found = judge.nearest(judge.averages(samples), judge.averages(originals))
    right = 100 * float((found == chosen).mean())
    print(f"{what}: {right:.0f} % of {len(chosen)}, {psnr(samples, originals[chosen]):.1f} dB", flush=True)


def colours(what: str, model, settings: dict, originals: np.ndarray, emoji: list, count: int) -> None:
    things = compose.nouns(emoji)
    held = compose.held_out(things, emoji).colours[:count]
    alpha = 1 - data.draw(emoji, mask=True)[..., 0] / 255
    samples = pictures(model, [f"{c} {things[n].name}" for n, c in held], settings)
    wanted = [compose.recolour(originals[things[n].index], alpha[things[n].index], c) for n, c in held]
    right = 100 * np.mean([judge.same_colour(*two) for two in zip(samples, wanted, strict=True)])
    thing = judge.things_right(samples, np.array([things[n].index for n, _ in held]), originals)
    print(f"{what}, never trained: colour {right:.0f} %, thing {100 * thing.mean():.0f} % of {count}", flush=True)


def cases() -> Iterator[tuple[str, object, dict]]:
    """What is drawn with: its name, the model, the settings."""
    yield "emoji", tinyldm.load(), FULL
    yield "emoji-pixels", tinyldm.load("emoji-pixels"), FULL
    quick = tinyldm.load(loras=["emoji-lcm"])
    for steps in (1, 2, 4):
        settings = {"steps": steps, "guidance_scale": 1.0, "sampler": "lcm"}
        yield f"emoji-lcm, {steps} step{'s' * (steps > 1)}", quick, settings
    yield "emoji-tiny as decoder", tinyldm.load(vae="emoji-tiny"), FULL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="names, and combinations (default: %(default)s)")
    arguments = parser.parse_args()
    emoji = data.read_emoji()
    originals = data.draw(emoji)
    chosen = np.random.default_rng(0).permutation(len(emoji))[: arguments.count]
    for what, model, settings in cases():
        report(what, pictures(model, [emoji[i].name for i in chosen], settings), chosen, originals)
        if what != "emoji-tiny as decoder":
            colours(what, model, settings, originals, emoji, arguments.count)
    guided = tinyldm.load(controlnet="emoji-edges")
    samples = []
    for k, i in enumerate(chosen):
        edges = cv2.Canny(cv2.cvtColor(originals[i], cv2.COLOR_RGB2GRAY), 100, 200)
        hint = np.repeat(edges[None, None] / 255, 3, axis=1)
        samples.append(np.asarray(guided.controlled(hint).text_to_image("", seed=k, steps=25, guidance_scale=1.0)[0]))
    grey = judge.things_right(np.stack(samples), chosen, originals)
    print(f"emoji-edges, no caption: nearest in grey is the picture of the edges: {100 * grey.mean():.0f} %")


if __name__ == "__main__":
    main()
