"""The components of a checkpoint as one file in the original layout: every tensor under its name there."""

from __future__ import annotations

from collections.abc import Iterator

from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.families import Heads
from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.text import bert_links, openclip_links
from tinyldm.checkpoints.names.unet import controlnet_links, unet_links
from tinyldm.checkpoints.recognised import Component, Recognised
from tinyldm.checkpoints.views import Place
from tinyldm.errors import CheckpointError


def original_tensors(found: Recognised) -> dict[str, Place]:
    """Every tensor under its name in the original layout: which view holds it, and under which name there.

    Raises `CheckpointError` for a component that the layout has no place for.
    """
    views = dict(original_views(found))
    return {prefix + name: (view, name) for prefix, view in views.items() for name in view.names}


def original_views(found: Recognised) -> Iterator[tuple[str, TensorSource]]:
    """Prefix and view of each component in original names; of a single component, its canonical names."""
    if len(found.components) == 1:
        yield "", next(iter(found.components.values())).source
        return
    two = "text_encoder_2" in found.components
    for name, component in found.components.items():
        source, kind = component.source, component.class_name
        if name == "unet":
            links = unet_links(source.names, "canonical", heads_of(component), source.shape)
            yield "model.diffusion_model.", LinkedSource(source, links, to="original")
        elif kind in ("AutoencoderKL", "VQModel"):
            links = autoencoder_links(source.names, "canonical")
            yield "first_stage_model.", LinkedSource(source, links, to="original")
        elif kind == "LDMBertModel":
            links = bert_links(source.names, "canonical")
            yield "cond_stage_model.transformer.", LinkedSource(source, links, to="original")
        elif name == "text_encoder_2" or component.config.get("hidden_act") == "gelu":
            links = openclip_links(source.names, "canonical", projected="text_projection.weight" in source)
            place = f"conditioner.embedders.{int('text_encoder' in found.components)}" if two else "cond_stage_model"
            yield f"{place}.model.", LinkedSource(source, links, to="original")
        elif kind == "CLIPTextModel":
            yield ("conditioner.embedders.0" if two else "cond_stage_model") + ".transformer.text_model.", source
        elif kind == "ControlNetModel":
            links = controlnet_links(source.names, "canonical", source.shape)
            yield "control_model.", LinkedSource(source, links, to="original")
        elif kind == "AutoencoderTiny":
            yield "first_stage_model.", source
        elif kind in ("ClassEmbedder", "SpatialRescaler"):
            yield "cond_stage_model.", source
        else:
            raise CheckpointError(f"{source.path}: a {kind} has no place in a single file")


def heads_of(component: Component) -> Heads:
    """How a UNet divides its attention over pixels; of transformers it does not matter here."""
    if component.class_name != "UNet2DModel":
        return Heads(count=1)
    count = component.config.get("num_attention_heads")
    return Heads(count=count) if count else Heads(channels=component.config.get("attention_head_dim", 8))
