"""From prompts to what the UNet is conditioned on: a context, and for some models a pooled text and the picture's size.

The unconditional half of a guided batch comes first, as in the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion

AESTHETIC_SCORES = (6.0, 2.5)  # what the XL refiner is told of a picture to make, and of one to stay away from


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is given besides the latent and the time; every array has one row a picture, or two with guidance.

    `context` is `(M, L, D)`, None for the unconditional models; `arrays` the model's further conditions by name.
    """

    context: np.ndarray | None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return 0 if self.context is None else len(self.context)


def encode_prompts(
    model: LatentDiffusion,
    prompts: Sequence[str],
    negatives: Sequence[str],
    guidance_scale: float,
    size: tuple[int, int],
) -> Conditioning:
    """The conditioning of prompts for pictures of `size` (height, width) in pixels; negative prompts come first.

    A prompt that stands several times is encoded once. Raises `InputError` where the model takes no prompts.
    """
    if model.text_encoder is None and model.text_encoder_2 is None:
        raise InputError(f"{model.path}: this model takes no prompts")
    guided = guidance_scale > 1
    texts = [*negatives, *prompts] if guided else list(prompts)
    unique = list(dict.fromkeys(texts))
    rows = [unique.index(text) for text in texts]
    if model.text_encoder_2 is None:
        context = model.text_encoder(model.tokenizer.encode(unique))
        return Conditioning(context[rows])
    context, pooled = encode_twice(model, unique)
    context, pooled = context[rows], pooled[rows]
    if guided and model.options.get("force_zeros_for_empty_prompt") and not any(negatives):
        context[: len(negatives)], pooled[: len(negatives)] = 0, 0  # no negative prompt at all is nothing, not ""
    return Conditioning(context, {"text_embeds": pooled, "time_ids": size_ids(model, size, len(prompts), guided)})


def encode_classes(model: LatentDiffusion, labels: Sequence[int], guidance_scale: float) -> Conditioning:
    """The conditioning of class labels; the unconditional half is the last class, which stands for none.

    Source: Ho and Salimans 2022, arXiv:2207.12598, section 3.2. Raises `InputError` where the model has no classes.
    """
    if model.class_embedder is None:
        raise InputError(f"{model.path}: this model has no classes")
    none = model.class_embedder.config.num_classes - 1
    wanted = [*[none] * len(labels), *labels] if guidance_scale > 1 else list(labels)
    return Conditioning(model.class_embedder(np.array(wanted, np.int64)))


def encode_twice(model: LatentDiffusion, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The context of the XL models, and the pooled text: the last layer but one of each encoder, side by side.

    Source: Podell et al. 2023, arXiv:2307.01952, section 2.1. The refiner has the second encoder alone.
    """
    contexts = []
    if model.text_encoder is not None:
        contexts.append(model.text_encoder(model.tokenizer.encode(texts), layer=-2, final_norm=False))
    ids = (model.tokenizer_2 or model.tokenizer).encode(texts)
    contexts.append(model.text_encoder_2(ids, layer=-2, final_norm=False))
    return np.concatenate(contexts, axis=-1), model.text_encoder_2.pooled(ids)


def size_ids(model: LatentDiffusion, size: tuple[int, int], count: int, guided: bool) -> np.ndarray:
    """What the XL models are told of the picture's size: original size, crop, and target size or aesthetic score.

    Source: Podell et al. 2023, arXiv:2307.01952, section 2.2.
    """
    original_and_crop = [*size, 0, 0]
    if model.options.get("requires_aesthetics_score"):
        wanted, unwanted = ([*original_and_crop, score] for score in AESTHETIC_SCORES)
    else:
        wanted = unwanted = [*original_and_crop, *size]
    return np.array([unwanted] * count * guided + [wanted] * count, np.float64)
