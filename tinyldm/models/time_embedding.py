"""The UNet's time embedding, and the further conditions that some models add to it.

Each condition becomes a vector as wide as the time embedding and is added to it: class labels (the class-conditional
models, the noise level of the upscaler), pooled text with picture size and crop (Podell et al. 2023, arXiv:2307.01952,
section 2.2), the guidance scale of a distilled model (Meng et al. 2022, arXiv:2210.03142; Luo et al. 2023,
arXiv:2310.04378).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyldm.errors import InputError
from tinyldm.models.unet_config import BlocksConfig, UNetConfig
from tinyldm.nn import embedding, linear, silu
from tinyldm.tracing import as_module, module
from tinyldm.tree import Weights
from tinyldm.typing import Array


@dataclass(frozen=True)
class Conditions:
    """What a model takes besides z, t and the context; None where it takes none."""

    class_labels: NDArray[Any] | None = None  # (N,) ids or levels, or (N, D) vectors
    guidance: Array | None = None  # (N, D), an embedding of the guidance scale
    text_embeds: Array | None = None  # (N, D), the pooled text
    time_ids: Array | None = None  # (N, K) numbers: original size, crop, target size or aesthetic score

    @classmethod
    def check(cls, given: Mapping[str, NDArray[Any]], config: BlocksConfig, n: int, dtype: np.dtype[Any]) -> Conditions:
        """The conditions as arrays for a batch of `n`; `guidance` may be left out, whatever else the model has may not.

        Raises `InputError` naming a condition that the model lacks or does not know, or one of the wrong length.
        """
        wanted = [f.name for f in fields(cls) if config.takes(f.name)]
        for name in given:
            if name not in wanted:
                takes = ", ".join(wanted) or "none"
                raise InputError(f"UNet: it takes no condition {name!r}; the conditions of this model: {takes}")
        arrays = {}
        for f in fields(cls):
            if f.name not in given or given[f.name] is None:
                if f.name in wanted and f.name != "guidance":
                    raise InputError(f"UNet: the condition {f.name!r} is missing")
                continue
            array = np.asarray(given[f.name])
            if array.ndim == 0 or len(array) not in (1, n):
                raise InputError(f"UNet: the condition {f.name!r} of shape {array.shape} must have {n} rows")
            array = np.broadcast_to(array, (n, *array.shape[1:]))
            is_ids = f.name == "class_labels" and config.class_labels_are_ids
            arrays[f.name] = array if is_ids else array.astype(dtype, copy=False)
        return cls(**arrays)

    def arrays(self) -> dict[str, Array]:
        """Those that are there, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


def time_embedding(t: Array, given: Conditions, config: BlocksConfig, w: Weights) -> Array:  # (N,) -> (N,T)
    """Sines and cosines of the timestep through two linear layers, with what the model adds to that.

    A guidance embedding is added between the two, the further conditions behind them: `condition_embedding`.
    """
    emb = as_module("time_proj", sinusoidal, t, config.block_out_channels[0], config, w)
    if given.guidance is not None:
        emb = emb + linear(given.guidance, w.time_embedding.cond_proj)
    return condition_embedding(two_layers(emb, w.time_embedding), given, config, w)


def condition_embedding(temb: Array, given: Conditions, config: BlocksConfig, w: Weights) -> Array:
    """The time embedding with the further conditions: `(N, T) -> (N, T)`, or `(N, 2T)` where they are appended."""
    if given.class_labels is not None:
        classes = class_embedding(given.class_labels, config, w)
        temb = np.concatenate([temb, classes], axis=-1) if config.class_embeddings_concat else temb + classes
    if given.time_ids is not None and given.text_embeds is not None and isinstance(config, UNetConfig):
        n, width = len(given.time_ids), config.addition_time_embed_dim or 0
        times = given.time_ids.reshape(-1)
        numbers = as_module("add_time_proj", sinusoidal, times, width, config, w).reshape(n, -1)
        vector = np.concatenate([given.text_embeds, numbers], axis=-1)
        if vector.shape[1] != config.projection_class_embeddings_input_dim:
            raise InputError(
                f"UNet: text_embeds {given.text_embeds.shape} and time_ids {given.time_ids.shape} make "
                f"{vector.shape[1]} numbers, the model takes {config.projection_class_embeddings_input_dim}"
            )
        temb = temb + two_layers(vector, w.add_embedding)
    return temb


def class_embedding(labels: NDArray[Any], config: BlocksConfig, w: Weights) -> Array:
    """Class labels as a vector, in the way the config names: `(N,) or (N, D) -> (N, T)`."""
    kind = config.class_embed_type
    if kind is None:
        return embedding(labels, w.class_embedding)
    if kind == "timestep":
        return two_layers(sinusoidal(labels, config.block_out_channels[0], config, w), w.class_embedding)
    if kind == "projection":
        return two_layers(labels, w.class_embedding)
    return linear(labels, w.class_embedding) if kind == "simple_projection" else labels


def sinusoidal(t: Array, width: int, config: BlocksConfig, w: Weights) -> Array:
    """`ops.timestep_embedding` with the model's arrangement: `(N,) -> (N, width)`."""
    arrangement = {"flip_sin_to_cos": config.flip_sin_to_cos, "freq_shift": config.freq_shift}
    emb: Array = w.runtime.ops.timestep_embedding(t, width, **arrangement, dtype=w.runtime.dtype)
    return emb


@module
def two_layers(x: Array, w: Weights) -> Array:  # (N,C) -> (N,T)
    """Linear, SiLU, linear."""
    return linear(silu(linear(x, w.linear_1), w.linear_2), w.linear_2)
