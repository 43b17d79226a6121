"""The text encoders of the original layouts and their canonical names: OpenCLIP, CLIP, and the first model's "BERT".

The canonical names of CLIP are without the `text_model.` prefix, as the models here read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tinyldm.checkpoints.names.links import Link, Side, consecutive, module_links, rename

OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
OPENCLIP_TOP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def openclip_links(names: Collection[str], side: Side, layers: int | None = None, projected: bool = True) -> list[Link]:
    """The links of an OpenCLIP text tower: q, k and v are one tensor in the original, the projection is transposed.

    `layers` takes only the first so many (Stable Diffusion 2 leaves out the last one), `projected` is whether the
    projection of the pooled output belongs to the model.
    """
    original, canonical = "transformer.resblocks.{}", "encoder.layers.{}"
    found = consecutive(names, f"{original}.ln_1.weight" if side == "original" else f"{canonical}.layer_norm1.weight")
    links = rename(OPENCLIP_TOP)
    if projected and side == "original" and "text_projection.weight" in names:
        links += rename({"text_projection.weight": "text_projection.weight"})  # as a linear layer has it
    elif projected:
        links.append(Link("text_projection", ("text_projection.weight",), transposed=True))
    for i in range(found if layers is None else min(layers, found)):
        links += openclip_layer(original.format(i), canonical.format(i), names, side)
    return links


def openclip_layer(original: str, canonical: str, names: Collection[str], side: Side) -> Iterator[Link]:
    """The links of one layer."""
    yield from module_links(original, canonical, OPENCLIP_LAYER, names, side)
    for kind in ("weight", "bias"):
        parts = tuple(f"{canonical}.self_attn.{part}.{kind}" for part in ("q_proj", "k_proj", "v_proj"))
        yield Link(f"{original}.attn.in_proj_{kind}", parts)


def bert_links(names: Collection[str], side: Side) -> list[Link]:
    """The links of the first latent-diffusion text encoder; its layers alternate attention and perceptron."""
    links = rename({"token_emb.weight": "embed_tokens.weight", "pos_emb.emb.weight": "embed_positions.weight"})
    links += rename({"norm.weight": "layer_norm.weight", "norm.bias": "layer_norm.bias"})
    inner = "attn_layers.layers.{}.0.weight" if side == "original" else "layers.{}.self_attn_layer_norm.weight"
    count = consecutive(names, inner) // (2 if side == "original" else 1)
    for i in range(count):
        attention, perceptron, layer = f"attn_layers.layers.{2 * i}", f"attn_layers.layers.{2 * i + 1}", f"layers.{i}"
        table = {f"1.to_{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")}
        links += module_links(attention, layer, {"0": "self_attn_layer_norm"} | table, names, side)
        table = {"0": "final_layer_norm", "1.net.0.0": "fc1", "1.net.2": "fc2"}
        links += module_links(perceptron, layer, table, names, side)
    return links
