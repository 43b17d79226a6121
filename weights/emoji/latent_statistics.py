"""Write what the checkpoint's latents are usually like, for `tinyldm check-latent`: latent_statistics.json.

    python weights/emoji/latent_statistics.py

Of all pictures as they are, and of half as many that are composed of them: recoloured, small or elsewhere, two side
by side.
"""

from pathlib import Path

import compose
import data
import numpy as np

import tinyldm
from tinyldm.pipelines.latent_check import FILE, fit

HERE = Path(__file__).parent


def composed(emoji: list[data.Emoji], count: int) -> np.ndarray:  # -> (count, 64, 64, 3) uint8
    """Composed pictures, of each kind a third."""
    rng = np.random.default_rng(0)
    originals = data.draw(emoji)
    alpha = 1 - data.draw(emoji, mask=True)[..., 0] / 255
    things = [thing.index for thing in compose.nouns(emoji)]
    made = []
    for k in range(count):
        one, other = rng.choice(things, 2, replace=False)
        if k % 3 == 0:
            made.append(compose.recolour(originals[one], alpha[one], rng.choice(list(compose.COLOURS))))
        elif k % 3 == 1:
            made.append(compose.arrange(originals[one], rng.choice(list(compose.ARRANGEMENTS))))
        else:
            made.append(compose.pair(originals[one], originals[other]))
    return np.stack(made)


def main() -> None:
    emoji = data.read_emoji()
    pictures = np.concatenate([data.draw(emoji), composed(emoji, 704)])
    x = np.moveaxis(pictures / 127.5 - 1, -1, 1).astype(np.float32)
    model = tinyldm.load(HERE)
    found = fit((x[k : k + 64] for k in range(0, len(x), 64)), model.vae)
    found.write(HERE / FILE)
    print(f"{HERE / FILE}: {found.pictures} pictures")
    print(f"usual: distance up to {found.distance:.2f}, round trip up to {found.round_trip:.3f}")


if __name__ == "__main__":
    main()
