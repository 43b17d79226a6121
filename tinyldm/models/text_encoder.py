"""The CLIP text encoder: from token ids to the context that the UNet attends to.

A transformer that reads left to right (Radford et al. 2021, arXiv:2103.00020, section 2.4). Read
`TextEncoder.__call__` first: embeddings, layers, final norm; then `encoder_layer`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.network import Network
from tinyldm.nn import attention, embedding, layer_norm, linear, linear_activation, linear_residual, linears
from tinyldm.ops import causal_mask
from tinyldm.tracing import begin, module, note
from tinyldm.tree import Settings, TensorSource, Weights
from tinyldm.typing import Array, Integers

# Fields of the published files that do not change what a trained text encoder computes here: training, generation,
# bookkeeping, and the ids that the tokenizer's own files state.
INERT = """architectures attention_dropout dropout dtype torch_dtype initializer_factor initializer_range model_type
transformers_version bos_token_id pad_token_id gradient_checkpointing output_attentions output_hidden_states
return_dict use_cache use_return_dict chunk_size_feed_forward is_decoder is_encoder_decoder add_cross_attention
tie_word_embeddings problem_type id2label label2id
""".split()  # fmt: skip


@dataclass(frozen=True)
class TextEncoderConfig:
    """The fields of a published text encoder's `config.json`; defaults are those of the original class."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    projection_dim: int = 512

    supported: ClassVar[Mapping[str, list[Any]]] = {"hidden_act": ["quick_gelu", "gelu"]}


def parameters(config: TextEncoderConfig, projection: bool = False) -> Parameters:
    """Name and shape of every weight; `projection` for the models that project their pooled output."""
    width, inner = config.hidden_size, config.intermediate_size
    yield "embeddings.token_embedding.weight", (config.vocab_size, width)
    yield "embeddings.position_embedding.weight", (config.max_position_embeddings, width)
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layers.{i}"
        yield from layer_parameters(f"{layer}.layer_norm1", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer_parameters(f"{layer}.self_attn.{name}", width, width)
        yield from layer_parameters(f"{layer}.layer_norm2", width)
        yield from layer_parameters(f"{layer}.mlp.fc1", inner, width)
        yield from layer_parameters(f"{layer}.mlp.fc2", width, inner)
    yield from layer_parameters("final_layer_norm", width)
    if projection:
        yield "text_projection.weight", (config.projection_dim, width)


def settings(config: TextEncoderConfig) -> Settings:
    """What the config binds to the nodes: norms' epsilon, attentions' heads."""
    return [("*", {"eps": config.layer_norm_eps, "heads": config.num_attention_heads})]


class TextEncoder(Network[TextEncoderConfig]):
    """The CLIP text encoder of a checkpoint: `encoder(ids) -> context`.

    `source` holds the weights under the published names, without the `text_model.` prefix.
    """

    component, name = "text encoder", "text_encoder"
    config_class, inert, extras = TextEncoderConfig, INERT, ["*position_ids"]
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def expected(self, source: TensorSource) -> Parameters:
        """The weights of the config; a projection where the source has one."""
        return parameters(self.config, "text_projection.weight" in source.names)

    def __call__(self, ids: Integers, layer: int = -1, final_norm: bool = True) -> Array:
        """The context of token ids, which is the output of a layer: `(N, L) integers -> (N, L, D)`.

        `layer=-1` is the last layer's, `-2` that of the layer before, `0` the embeddings (as in the original's list of
        hidden states); `final_norm` says whether the final layer norm follows.

        Raises `InputError` for ids that are not `(N, L)` with `L` up to the model's length, or for no such layer.
        """
        c, w = self.config, self.weights
        ids, count = checked_ids(ids, c.max_position_embeddings, c.vocab_size), c.num_hidden_layers
        if not -count - 1 <= layer <= count:
            raise InputError(f"text encoder: layer {layer} is not there; it has {-count - 1} … {count}")
        begin(self.name, ids=ids)
        h = embeddings(ids, w.embeddings)
        h = encoder(h, causal_mask(ids.shape[1], h.dtype), layer % (count + 1), c.hidden_act, w.encoder)
        h = layer_norm(h, w.final_layer_norm) if final_norm else h
        note(context=h)
        return h

    def pooled(self, ids: Integers) -> Array:
        """The output at the end-of-text token, projected if the model projects: `(N, L) integers -> (N, D)`.

        The end of a text is its first end token. Published configs that state `eos_token_id` 2 predate that rule and
        take the largest id instead, which is the same token in CLIP's vocabulary.
        """
        context, ids, eos = self(ids), np.asarray(ids), self.config.eos_token_id
        end = ids.argmax(axis=1) if eos == 2 else (ids == eos).argmax(axis=1)
        pooled = context[np.arange(len(ids)), end]
        return linear(pooled, self.weights.text_projection) if "text_projection" in self.weights else pooled


def checked_ids(ids: Integers, length: int, vocabulary: int) -> Integers:  # (N,L) -> (N,L)
    """Token ids. Raises `InputError` unless they are integers of the vocabulary, and a row has a place for each."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not 1 <= ids.shape[1] <= length:
        raise InputError(
            f"text encoder: ids must be integers of shape (N, L) with L from 1 to {length}, "
            f"not {ids.dtype} of shape {ids.shape}"
        )
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise InputError(
            f"text encoder: the ids {ids.min()} … {ids.max()} are not all in the vocabulary of "
            f"{vocabulary} entries (is this the tokenizer of another model?)"
        )
    return ids


class ProjectedTextEncoder(TextEncoder):
    """A CLIP text encoder that projects its pooled text."""

    parameters_of = staticmethod(functools.partial(parameters, projection=True))


@module
def embeddings(ids: Integers, w: Weights) -> Array:
    """A vector for each token and one for each place, added: `(N, L) integers -> (N, L, D)`."""
    position = embedding(np.arange(ids.shape[1])[None], w.position_embedding)
    return embedding(ids, w.token_embedding) + position


@module
def encoder(x: Array, mask: Array | None, layers: int, activation: str, w: Weights) -> Array:  # (N,L,D) -> (N,L,D)
    """The first so many transformer layers."""
    for i in range(layers):
        x = encoder_layer(x, mask, activation, w.layers[i])
    return x


@module
def encoder_layer(x: Array, mask: Array | None, activation: str, w: Weights) -> Array:  # (N,L,D) -> (N,L,D)
    """Attention of the tokens to each other, a text's causal, then a perceptron; norms first, around residuals."""
    q, k, v = linears(layer_norm(x, w.layer_norm1), w.self_attn, "q_proj", "k_proj", "v_proj")
    x = linear_residual(attention(q, k, v, w.self_attn, mask), w.self_attn.out_proj, x)
    h = linear_activation(layer_norm(x, w.layer_norm2), w.mlp.fc1, activation)
    return linear_residual(h, w.mlp.fc2, x)
