"""A file that holds one model: an autoencoder, a UNet, a ControlNet or a text encoder, in either layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tinyldm.checkpoints import components
from tinyldm.checkpoints.architecture import unet_facts
from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.families import Heads, family_of
from tinyldm.checkpoints.ip_adapter import image_encoder, ip_adapter
from tinyldm.checkpoints.leftovers import sort_leftovers
from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.published import vae_names
from tinyldm.checkpoints.names.unet import controlnet_links, unet_links
from tinyldm.checkpoints.recognised import Component, Recognised
from tinyldm.checkpoints.stated import Stated
from tinyldm.checkpoints.t2i_adapter import t2i_adapter
from tinyldm.checkpoints.views import inner
from tinyldm.checkpoints.whole_file import FIRST_STAGE, UNET, add_schedule
from tinyldm.errors import CheckpointError

Kind = Callable[[TensorSource, Stated], Recognised | None]  # what a file of this kind is recognised as

# What a component may stand under in a file that holds it alone.
BARE_PREFIXES = (
    "",
    "control_model.",
    UNET,
    FIRST_STAGE,
    "vae.",
    "unet.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
)


def bare_component(source: TensorSource, ema: bool | None, stated: Stated) -> Recognised | None:
    """A file of one model in either layout; None for anything else."""
    if "lora_controlnet" in source:
        title = "a ControlNet stored as a LoRA of a UNet, to be given with that UNet's checkpoint"
        return Recognised("controlnet", title, extras=list(source.names))
    for prefix in BARE_PREFIXES:
        view = inner(source, prefix) if prefix else source
        for kind in KINDS:
            if found := kind(view, stated):
                if ema:
                    raise CheckpointError(f"{source.path}: is {found.title}: it has no running average (EMA)")
                if found.family == "controlnet" and "difference" in source:
                    found.title += ", stored as a difference to be given with its checkpoint"
                sort_leftovers(found, source)
                return found
    return None


def with_canonical(component: Component, original: TensorSource, source: TensorSource) -> Component:
    """A component that was made of a view in original names, with the file's own tensors where those are canonical."""
    return component if original is source else replace(component, source=source)


def bare_controlnet(source: TensorSource, stated: Stated) -> Recognised | None:
    """A ControlNet."""
    original: TensorSource = source
    if "controlnet_cond_embedding.conv_in.weight" in source:
        original = LinkedSource.of(source, "canonical", controlnet_links, source.shape)
    elif "input_hint_block.0.weight" not in source:
        return None
    family = family_of(unet_facts(original))
    component = with_canonical(components.controlnet(original), original, source)
    title = f"a ControlNet of {family.title if family else 'a UNet'}"
    return Recognised("controlnet", title, {"controlnet": component})


def bare_tiny(source: TensorSource, stated: Stated) -> Recognised | None:
    """A tiny autoencoder."""
    wanted = ("encoder.layers.0.weight", "decoder.layers.0.weight", "decoder.layers.2.conv.0.weight")
    if not all(name in source for name in wanted):
        return None
    return Recognised("tiny", "an autoencoder, tiny (TAESD)", {"vae": components.tiny(source)})


def bare_unet(source: TensorSource, stated: Stated) -> Recognised | None:
    """A UNet alone."""
    original: TensorSource = source
    if "down_blocks.0.resnets.0.norm1.weight" in source and "conv_in.weight" in source:
        # Only names and shapes are wanted of this view, so that heads do not matter.
        original = LinkedSource.of(source, "canonical", unet_links, Heads(count=1), source.shape)
    elif "input_blocks.0.0.weight" not in source:
        return None
    family = family_of(unet_facts(original))
    title = f"the UNet of {family.title}" if family else "a UNet"
    found = Recognised(family.name if family else "unknown", title)
    found.components["unet"] = with_canonical(components.unet(original, found.notes, stated), original, source)
    add_schedule(found, family, stated)
    return found


def bare_first_stage(source: TensorSource, stated: Stated) -> Recognised | None:
    """A first stage alone; the scale of its latents is nowhere in its weights."""
    original: TensorSource = source
    if "encoder.down_blocks.0.resnets.0.norm1.weight" in source:
        source = vae_names(source)
        original = LinkedSource.of(source, "canonical", autoencoder_links)
    elif "encoder.down.0.block.0.norm1.weight" not in source:
        return None
    quantised = "quantize.embedding.weight" in source
    component = components.first_stage(original, 1.0 if quantised else 0.18215, 256 if quantised else 512)
    found = Recognised("vq" if quantised else "kl", "an autoencoder, " + ("VQ" if quantised else "KL"))
    found.components["vae"] = with_canonical(component, original, source)
    if "scaling_factor" not in stated.components.get("vae", {}):
        found.assumed.add("scaling_factor")
        scale = component.config["scaling_factor"]
        found.notes.append(f"scaling factor {scale} is assumed; Stable Diffusion XL's is 0.13025")
    return found


def bare(read: Callable[[TensorSource], Component | None], family: str, name: str, title: str) -> Kind:
    """A kind of file with the one component that `read` makes of it; the title is of that component, `c`."""

    def kind(source: TensorSource, stated: Stated) -> Recognised | None:
        component = read(source)
        return None if component is None else Recognised(family, title.format(c=component), {name: component})

    return kind


# The first that knows a file is right.
KINDS: tuple[Kind, ...] = (
    bare(ip_adapter, "ip-adapter", "ip_adapter", "an IP-Adapter ({c.config[kind]})"),
    bare_controlnet,
    bare(t2i_adapter, "t2i-adapter", "controlnet", "a T2I-Adapter ({c.config[adapter_type]})"),
    bare_unet,
    bare_tiny,
    bare_first_stage,
    bare(components.text_encoder, "text-encoder", "text_encoder", "a text encoder, {c.class_name}"),
    bare(image_encoder, "image-encoder", "image_encoder", "an image encoder, {c.class_name}"),
)
