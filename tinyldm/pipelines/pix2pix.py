r"""Editing by an instruction: the picture stands beside the latent, and two scales guide.

$\tilde\epsilon = \epsilon(\varnothing, \varnothing) + s_I\,(\epsilon(p, \varnothing) - \epsilon(\varnothing,
\varnothing)) + s_T\,(\epsilon(p, t) - \epsilon(p, \varnothing))$ for a picture $p$ and a text $t$.

Source: Brooks, Holynski and Efros 2023, arXiv:2211.09800, eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion.prediction import rescale_guidance
from tinyldm.diffusion.types import NoiseSource, Predict
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.image_prompt import of_rows
from tinyldm.pipelines.masks import padded
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Request
from tinyldm.typing import Array


def picture_channels(parts: Parts, request: Request) -> Callable[[NoiseSource, int], Array]:
    """The picture's latent beside each: the mean of its posterior, scaled in the models alone that say so."""
    image = request.image
    assert isinstance(image, Image.Image)
    mean, _ = parts.posterior(padded(image, parts.vae.factor, edge=True))
    latent: Array = parts.vae.scale(mean) if parts.options.get("is_cosxl_edit") else mean
    return lambda rng, count: np.repeat(latent, count, axis=0)


def threefold(condition: Conditioning, picture: Array) -> Conditioning:
    """The condition of three predictions for each picture: without anything, with the picture, with both.

    `condition` is guided, its first half without the text; `picture` `(N, C, h, w)` stands beside the latent.
    """
    condition.check_fixed("editing by an instruction")
    count = len(picture)
    rows = [*range(count), *range(count), *range(count, 2 * count)]
    images = condition.images
    return replace(
        condition.each(lambda array: array[rows]),
        concat=np.concatenate([np.zeros_like(picture), picture, picture]),
        guided=False,
        images=None if images is None else of_rows(images, rows),
    )


def guided(predict: Predict, request: Request) -> Predict:
    """The prediction for each latent from the three of `predict`, by both scales: `(N, C, h, w), t -> (N, …)`."""

    def predict_guided(z: Array, t: np.number[Any]) -> Array:
        neither, picture, both = np.split(predict(np.concatenate([z] * 3), t), 3)
        by_picture = neither + (request.image_guidance_scale or 0.0) * (picture - neither)
        prediction = by_picture + (request.guidance_scale or 0.0) * (both - picture)
        amount = request.guidance_rescale
        return rescale_guidance(prediction, both, amount) if amount else prediction

    return predict_guided
