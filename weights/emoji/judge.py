"""Is the picture what the caption says? The measures of the model card, on 16x16 averages of 4x4 pixels.

- Colour: the mean hue of the saturated pixels that are not white is within 30 degrees of the recoloured original's.
- Thing: the nearest original, in grey, is the one that was asked for.
- Pair: in each half, the nearest of all originals at that place is the one that was asked for.
- Size or place: of the thing's original in every arrangement, the nearest is the one that was asked for.

Nearest: the least sum of squared differences.
"""

import compose
import data
import numpy as np

HUE_TOLERANCE = 30.0  # degrees
LEAST_SATURATION = 0.25
LUMA = np.array([0.299, 0.587, 0.114])


def averages(pictures: np.ndarray) -> np.ndarray:  # (N, 64, 64, 3) -> (N, 16, 16, 3)
    """Averages of 4x4 pixels."""
    return pictures.astype(np.float64).reshape(-1, 16, 4, 16, 4, 3).mean((2, 4))


def nearest(samples: np.ndarray, choices: np.ndarray) -> np.ndarray:  # (N, ...), (M, ...) -> (N,)
    """For each sample the number of the nearest choice."""
    flat = choices.reshape(len(choices), -1)
    return np.array([np.square(flat - row.ravel()).sum(1).argmin() for row in samples], dtype=int)


def mean_hue(picture: np.ndarray) -> float | None:  # (64, 64, 3) uint8
    """The mean hue in degrees of the saturated pixels, as directions weighted by chroma; None where there are none."""
    rgb = picture.reshape(-1, 3) / 255.0
    high, low = rgb.max(1), rgb.min(1)
    chroma = high - low
    rgb = rgb[chroma > LEAST_SATURATION * np.maximum(high, 1e-6)]
    if not len(rgb):
        return None
    red, green, blue = rgb.T
    x, y = red - (green + blue) / 2, np.sqrt(0.75) * (green - blue)
    return float(np.degrees(np.arctan2(y.sum(), x.sum())) % 360)


def same_colour(sample: np.ndarray, wanted: np.ndarray) -> bool:
    got, asked = mean_hue(sample), mean_hue(wanted)
    return got is not None and asked is not None and abs((got - asked + 180) % 360 - 180) <= HUE_TOLERANCE


def things_right(samples: np.ndarray, wanted: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Whether the nearest original in grey is the wanted one (its number)."""
    return nearest(averages(samples) @ LUMA, averages(pictures) @ LUMA) == wanted


def halves_right(samples: np.ndarray, wanted: np.ndarray, pictures: np.ndarray) -> np.ndarray:  # -> (N, 2)
    """For the left and the right half, whether the nearest original there is the wanted one; `wanted` is (N, 2)."""
    middle = data.SIDE // 8
    right = []
    for side, (name, part) in enumerate((("left", slice(0, middle)), ("right", slice(middle, None)))):
        choices = averages(np.stack([compose.arrange(picture, name) for picture in pictures]))[:, :, part]
        right.append(nearest(averages(samples)[:, :, part], choices) == wanted[:, side])
    return np.stack(right, 1)


def arrangement_of(sample: np.ndarray, picture: np.ndarray) -> str:
    """The arrangement of the picture, or "plain", that is nearest to the sample."""
    names = [*compose.ARRANGEMENTS, "plain"]
    choices = np.stack([*(compose.arrange(picture, name) for name in compose.ARRANGEMENTS), picture])
    return names[nearest(averages(sample[None]), averages(choices))[0]]


def same_place(sample: np.ndarray, picture: np.ndarray, wanted: str) -> bool:
    found = arrangement_of(sample, picture)
    return found in compose.CORNERS if wanted == "corner" else found == wanted
