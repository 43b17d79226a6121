"""LDMBertModel: the text encoder of the first latent-diffusion text-to-image models.

A transformer over the ids of BERT's tokenizer that looks both ways (Vaswani et al. 2017, arXiv:1706.03762, with the
norms first), trained together with the UNet (Rombach et al. 2022, arXiv:2112.10752, section 4.3.1 and appendix E.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.network import Network, Supported
from tinyldm.models.text_encoder import checked_ids
from tinyldm.nn import attention, embedding, layer_norm, linear_activation, linear_residual, linears
from tinyldm.tracing import begin, module, note
from tinyldm.tree import Settings, Weights
from tinyldm.typing import Array, Integers

INERT = """architectures model_type torch_dtype dtype transformers_version dropout attention_dropout activation_dropout
encoder_layerdrop init_std classifier_dropout scale_embedding use_cache pad_token_id num_hidden_layers""".split()


@dataclass(frozen=True)
class BertConfig:
    """The fields of a published LDMBertModel's `config.json`; defaults are those of the original class."""

    vocab_size: int = 30522
    max_position_embeddings: int = 77
    encoder_layers: int = 32
    encoder_ffn_dim: int = 5120
    encoder_attention_heads: int = 8
    head_dim: int = 64
    d_model: int = 1280

    supported: ClassVar[Supported] = {"activation_function": ["gelu"]}


def parameters(c: BertConfig) -> Parameters:
    """Name and shape of every weight."""
    inner = c.encoder_attention_heads * c.head_dim
    yield "embed_tokens.weight", (c.vocab_size, c.d_model)
    yield "embed_positions.weight", (c.max_position_embeddings, c.d_model)
    for i in range(c.encoder_layers):
        layer = f"layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj"):
            yield from layer_parameters(f"{layer}.self_attn.{name}", inner, c.d_model, bias=False)
        yield from layer_parameters(f"{layer}.self_attn.out_proj", c.d_model, inner)
        yield from layer_parameters(f"{layer}.self_attn_layer_norm", c.d_model)
        yield from layer_parameters(f"{layer}.fc1", c.encoder_ffn_dim, c.d_model)
        yield from layer_parameters(f"{layer}.fc2", c.d_model, c.encoder_ffn_dim)
        yield from layer_parameters(f"{layer}.final_layer_norm", c.d_model)
    yield from layer_parameters("layer_norm", c.d_model)


def settings(c: BertConfig) -> Settings:
    """What the config binds to the nodes: norms' epsilon, attentions' heads."""
    return [("*", {"eps": 1e-5, "heads": c.encoder_attention_heads})]


class BertEncoder(Network[BertConfig]):
    """The first text encoder of a checkpoint: `encoder(ids) -> context`.

    `source` holds the weights under the published names, without the `model.` prefix.
    """

    component, name = "text encoder", "text_encoder"
    config_class, inert, extras = BertConfig, INERT, ["to_logits.*"]
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def __call__(self, ids: Integers) -> Array:
        """The context of token ids: `(N, L) integers -> (N, L, D)`; every token sees every other, padding too.

        Raises `InputError` for ids that are not `(N, L)` integers of the vocabulary with L up to the model's length.
        """
        c, w = self.config, self.weights
        ids = checked_ids(ids, c.max_position_embeddings, c.vocab_size)
        begin(self.name, ids=ids)
        h = embedding(ids, w.embed_tokens) + w.embed_positions.weight[: ids.shape[1]]
        for layer in w.layers:
            h = encoder_layer(h, layer)
        h = layer_norm(h, w.layer_norm)
        note(context=h)
        return h


@module
def encoder_layer(x: Array, w: Weights) -> Array:  # (N,L,D) -> (N,L,D)
    """Attention of all tokens to all, then a two-layer perceptron; norms first, each around a residual."""
    h, a = layer_norm(x, w.self_attn_layer_norm), w.self_attn
    q, k, v = linears(h, a, "q_proj", "k_proj", "v_proj")
    x = linear_residual(attention(q, k, v, a), a.out_proj, x)
    return linear_residual(linear_activation(layer_norm(x, w.final_layer_norm), w.fc1, "gelu"), w.fc2, x)
