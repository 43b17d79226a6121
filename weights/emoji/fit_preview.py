"""Fit the map from latents to colours that previews are made by, and write it into this folder: a few seconds.

    python weights/emoji/fit_preview.py

It is fitted on the latents of a few captions' pictures, and has to be fitted anew whenever the autoencoder changes: a
map of another autoencoder is passed over, and one is fitted on noise in its place. Prints how much of the variance of
the colours that the decoder makes a map explains, on pictures that it was not fitted on: this map, and that other one.
"""

from pathlib import Path

import numpy as np

import tinyldm
from tinyldm.pipelines import preview
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import request

FOLDER = Path(__file__).parent
STEPS, GUIDANCE, CAPTIONS = 15, 4.0, 48


def explained(parts: Parts, rgb: np.ndarray, z: np.ndarray) -> np.ndarray:  # -> (3,)
    """The share of the variance of each colour that a map explains in latents `(N, C, h, w)`."""
    colours = [preview.patch_means(parts.vae.decode(parts.vae.unscale(one[None])), z.shape[2:]) for one in z]
    wanted = np.concatenate(colours)
    found = np.moveaxis(z, 1, -1).reshape(-1, z.shape[1]) @ rgb[:-1] + rgb[-1]
    return 1 - np.mean((found - wanted) ** 2, 0) / wanted.var(0)


def main() -> None:
    model = tinyldm.load(FOLDER)
    names = (FOLDER / "captions.txt").read_text(encoding="utf-8").splitlines()
    drawn = [str(name) for name in np.random.default_rng(0).choice(names, CAPTIONS, replace=False)]
    wanted = request(drawn, steps=STEPS, guidance_scale=GUIDANCE)
    z = np.concatenate([picture.latent for picture in model.pictures(wanted)])
    fitted, held_out = z[: CAPTIONS // 2], z[CAPTIONS // 2 :]
    rgb = preview.fit(model.parts, fitted)
    preview.write_map(FOLDER / preview.FILE, preview.digest(model.parts), rgb)
    for name, found in (("this map", rgb), ("a map fitted on noise", preview.fit(model.parts, preview.patches(4)))):
        shares = ", ".join(f"{share:.2f}" for share in explained(model.parts, found, held_out))
        print(f"{name}: explains {shares} of red, green and blue on {len(held_out)} pictures")


if __name__ == "__main__":
    main()
