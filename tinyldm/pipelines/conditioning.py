"""What the UNet is conditioned on: a context, and for some models a pooled text, the picture's size, another picture.

It is made of prompts, of class labels, or of arrays that the caller has. The unconditional half of a guided batch comes
first, as in the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    `context` is `(M, L, D)`, None for the unconditional models; `arrays` the model's further conditions by name;
    `concat` `(M, C, h, w)` stands behind the latent along the channels. `guided` says that each picture has two rows.
    """

    context: np.ndarray | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    concat: np.ndarray | None = None
    guided: bool = False


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
        more = "; without a text encoder: give it CLIP's with projection (text_encoder=…)" if model.embeds_text else ""
        raise InputError(f"{model.path}: this model takes no prompts{more}")
    if model.tokenizer is None and model.tokenizer_2 is None:
        raise InputError(f"{model.path}: its text encoder reads no text; give `from_conditions` its context")
    distilled = getattr(model.unet.config, "time_cond_proj_dim", None)
    guided = guidance_scale > 1 and distilled is None
    texts = [*negatives, *prompts] if guided else list(prompts)
    unique = list(dict.fromkeys(texts))
    rows = [unique.index(text) for text in texts]
    arrays = {}
    if distilled is not None:
        arrays["guidance"] = np.repeat(guidance_embedding(guidance_scale - 1, distilled), len(prompts), axis=0)
    if model.embeds_text:
        return embedded_texts(model, prompts, guided)
    if model.text_encoder_2 is None:
        context = model.text_encoder(model.tokenizer.encode(unique))
        return Conditioning(context[rows], arrays, guided=guided)
    context, pooled = encode_twice(model, unique)
    context, pooled = context[rows], pooled[rows]
    if guided and model.options.get("force_zeros_for_empty_prompt") and not any(negatives):
        context[: len(negatives)], pooled[: len(negatives)] = 0, 0  # no negative prompt at all is nothing, not ""
    arrays |= {"text_embeds": pooled, "time_ids": size_ids(model, size, len(prompts), guided)}
    return Conditioning(context, arrays, guided=guided)


def guidance_embedding(w: float, width: int) -> np.ndarray:  # -> (1, width)
    r"""What the models that were distilled with guidance are told of its scale: sines and cosines of $1000 w$.

    Such a model makes the guided prediction in one call; $w$ is the guidance scale less one. Source: Luo et al. 2023,
    arXiv:2310.04378, section 4.2 and appendix; Kingma et al. 2021, arXiv:2107.00630, for the embedding.
    """
    half = width // 2
    angles = 1000 * w * np.exp(-np.log(10000.0) / (half - 1) * np.arange(half))
    embedded = np.concatenate([np.sin(angles), np.cos(angles)])
    return np.pad(embedded, (0, width - 2 * half))[None]


def embedded_texts(model: LatentDiffusion, prompts: Sequence[str], guided: bool) -> Conditioning:
    """The context of the retrieval-augmented model: CLIP's embedding of the text, of length one, as its only token.

    The unconditional half is zeros. Source: Blattmann et al. 2022, arXiv:2204.11824, section 3.2 and appendix.
    """
    encoder, tokenizer = model.text_encoder, model.tokenizer
    if "text_projection" not in encoder.weights:
        raise InputError(
            f"{model.path}: its context is a projected embedding; this text encoder has no text_projection"
        )
    pooled = encoder.pooled(tokenizer.encode(list(prompts)))
    context = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True))[:, None]
    return Conditioning(np.concatenate([np.zeros_like(context), context]) if guided else context, guided=guided)


def encode_classes(model: LatentDiffusion, labels: Sequence[int], guidance_scale: float) -> Conditioning:
    """The conditioning of class labels; the unconditional half is the last class, which stands for none.

    Source: Ho and Salimans 2022, arXiv:2207.12598, section 3.2. Raises `InputError` where the model has no classes.
    """
    if model.class_embedder is None:
        raise InputError(f"{model.path}: this model has no classes")
    none, guided = model.class_embedder.config.num_classes - 1, guidance_scale > 1
    wanted = [*[none] * len(labels), *labels] if guided else list(labels)
    return Conditioning(model.class_embedder(np.array(wanted, np.int64)), guided=guided)


def check_conditions(
    model: LatentDiffusion,
    context: np.ndarray | None,
    negative_context: np.ndarray | None,
    concat: np.ndarray | None,
    guidance_scale: float,
    arrays: Mapping[str, np.ndarray],
) -> tuple[Conditioning, int]:
    """Conditioning arrays as they are given, with the number of pictures that they are for.

    With a `negative_context` and a guidance scale above 1, everything else is given to both halves. Raises `InputError`
    where arrays are of different lengths, or are not those that the UNet takes.
    """
    config, dtype = model.unet.config, model.runtime.dtype
    context = None if context is None else np.asarray(context, dtype)
    concat = None if concat is None else np.asarray(concat, dtype)
    more = config.in_channels - model.vae.config.latent_channels
    takes_context = hasattr(config, "context_dim")
    if (context is not None) != takes_context:
        raise InputError("context is missing" if takes_context else "this UNet takes no context")
    if (0 if concat is None or concat.ndim != 4 else concat.shape[1]) != more or (concat is not None and not more):
        found = "nothing" if concat is None else f"an array of shape {concat.shape}"
        raise InputError(f"concat must have the shape (N, {more}, h, w) for this UNet, not {found}")
    given = {"context": context, "concat": concat} | dict(arrays)
    counts = {len(np.asarray(value)) for value in given.values() if value is not None} - {1}
    if len(counts) > 1:
        raise InputError(f"the conditions are for {' and '.join(map(str, sorted(counts)))} pictures; wanted one number")
    count = counts.pop() if counts else 1
    guided = negative_context is not None and guidance_scale > 1
    times = 2 * count if guided else count

    def rows(value: np.ndarray) -> np.ndarray:
        value = np.broadcast_to(value, (count, *value.shape[1:]))
        return np.concatenate([value] * (times // count))

    if guided and context is not None:
        other = np.asarray(negative_context, dtype)
        if other.shape[1:] != context.shape[1:] or len(other) not in (1, count):
            raise InputError(f"negative_context must be like context, {context.shape}, not {other.shape}")
        halves = [np.broadcast_to(c, (count, *c.shape[1:])) for c in (other, context)]
        context = np.concatenate(halves)
    elif context is not None:
        context = rows(context)
    made = {name: rows(np.asarray(value)) for name, value in arrays.items()}
    return Conditioning(context, made, None if concat is None else rows(concat), guided), count


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
