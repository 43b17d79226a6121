"""The components of a single file: their configurations, and their tensors brought to canonical names."""

from __future__ import annotations

from collections.abc import Iterator

from tinyldm.checkpoints import architecture
from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.families import Facts, Heads, family_of
from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.published import clip_names
from tinyldm.checkpoints.names.text import bert_links, openclip_links
from tinyldm.checkpoints.names.unet import controlnet_links, unet_links
from tinyldm.checkpoints.recognised import Component
from tinyldm.checkpoints.stated import Stated
from tinyldm.checkpoints.views import RenamedSource, inner

OPENCLIP_LAYERS = 24  # of the tower of Stable Diffusion 2
CLIP_WIDEST = 768  # of OpenAI's text encoders, which have a GELU of their own; wider ones are OpenCLIP's


def unet(source: TensorSource, notes: list[str], stated: Stated, factor: int = 8) -> Component:
    """A UNet with original names, for a first stage that makes pictures `factor` times as large as latents."""
    facts = architecture.unet_facts(source)
    family, heads = family_of(facts), stated.heads or usual_heads(facts)
    if family is None:
        shown = f"{heads.count} heads" if heads.count else f"heads of {heads.channels} channels"
        notes.append(f"a UNet of no published family: {shown} and the schedule of Stable Diffusion are assumed")
    config = architecture.unet_config(source, family, heads, factor)
    if stated.size:
        config["sample_size"] = stated.size // factor
    canonical = LinkedSource.of(source, "original", unet_links, heads, source.shape)
    return Component(config["_class_name"], config, canonical)


def usual_heads(facts: Facts) -> Heads:
    """How the family of a UNet divides its attention; of no family, as Stable Diffusion 2 or 1 does."""
    family = family_of(facts)
    return family.heads if family else Heads(channels=64) if facts.linear else Heads(count=8)


def first_stage(source: TensorSource, scaling_factor: float, size: int) -> Component:
    """An autoencoder with original names."""
    config = architecture.autoencoder_config(source, scaling_factor, size)
    return Component(config["_class_name"], config, LinkedSource.of(source, "original", autoencoder_links))


def tiny(source: TensorSource) -> Component:
    """A tiny autoencoder, whose names are the same in all layouts."""
    return Component("AutoencoderTiny", architecture.tiny_config(source), source)


def controlnet(source: TensorSource) -> Component:
    """A ControlNet with original names."""
    heads = usual_heads(architecture.unet_facts(source))
    config = architecture.controlnet_config(source, heads)
    return Component("ControlNetModel", config, LinkedSource.of(source, "original", controlnet_links, source.shape))


def text_encoder(source: TensorSource, penultimate: bool = False, taken: int | None = None) -> Component | None:
    """A text encoder of any kind, None where it is none; `penultimate` leaves out an OpenCLIP one's last layer.

    Stable Diffusion 2 does so, and has no use for the projection. `taken` states how many layers are to be taken.
    """
    if "transformer.resblocks.0.ln_1.weight" in source:
        layers = len({n.split(".")[2] for n in source.names if n.startswith("transformer.resblocks.")})
        projected = any(name.startswith("text_projection") for name in source.names)
        whole = projected or layers == OPENCLIP_LAYERS  # of a tower without its projection the last block is gone, too
        if taken is None and penultimate and whole:
            taken = layers - 1
        projected = projected and not penultimate
        view: TensorSource = LinkedSource.of(source, "original", openclip_links, taken, projected)
        config = architecture.clip_config(view, "gelu")
    elif "token_emb.weight" in source:
        view = LinkedSource.of(source, "original", bert_links)
        config = architecture.bert_config(view)
    else:
        view = clip_names(source)
        if "embeddings.token_embedding.weight" not in view:
            return None
        config = architecture.clip_config(view, "gelu")
        if config["hidden_size"] <= CLIP_WIDEST:
            config["hidden_act"] = "quick_gelu"
    return Component(config["architectures"][0], config, view)


TEXT_ENCODERS = {
    "cond_stage_model.transformer.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "cond_stage_model.model.": "text_encoder",
    "conditioner.embedders.0.model.": "text_encoder_2",
    "conditioner.embedders.1.model.": "text_encoder_2",
    "conditioner.embedders.1.transformer.": "text_encoder_2",
}


def conditioners(source: TensorSource, stated: Stated) -> Iterator[tuple[str, Component]]:
    """What makes the context: text encoders, a table of classes, a map of segments; none for unconditional models."""
    for prefix, name in TEXT_ENCODERS.items():
        penultimate = prefix == "cond_stage_model.model." and stated.penultimate is not False
        layers = stated.configs[name][1].get("num_hidden_layers") if name in stated.configs else None
        taken = layers if isinstance(layers, int) else None
        if encoder := text_encoder(inner(source, prefix), penultimate, taken):
            yield name, encoder
    if "cond_stage_model.embedding.weight" in source:
        count, width = architecture.sizes(source, "cond_stage_model.embedding.weight", 2)
        config = {"_class_name": "ClassEmbedder", "num_classes": count, "embed_dim": width}
        table = RenamedSource(source, {"embedding.weight": "cond_stage_model.embedding.weight"})
        yield "class_embedder", Component("ClassEmbedder", config, table)
    if "cond_stage_model.channel_mapper.weight" in source:
        out, channels = architecture.sizes(source, "cond_stage_model.channel_mapper.weight", 4)[:2]
        config = {"_class_name": "SpatialRescaler", "in_channels": channels, "out_channels": out, "n_stages": 2}
        yield "spatial_rescaler", Component("SpatialRescaler", config, inner(source, "cond_stage_model."))
