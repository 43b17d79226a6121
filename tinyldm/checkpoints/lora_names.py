"""Which layer of which component a LoRA's file means: the namings that trainers have.

`kohya-ss/sd-scripts` writes underscores for dots (`lora_unet_down_blocks_0_…`; for Stable Diffusion XL the original
layout's names), PEFT a layer's own path (`unet.….lora_A.weight`), diffusers' older files `….processor.to_q_lora`,
others the path in the single file (`diffusion_model.input_blocks.1.1.…`). Any prefix may stand before either layout's
names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.families import Heads
from tinyldm.checkpoints.names.unet import unet_links

# What stands before a layer's own name, and the components that it may be of. The longest that fits counts.
COMPONENTS = {
    **dict.fromkeys(("lora_unet_", "lycoris_unet_", "unet.", "diffusion_model.", "model.diffusion_model."), "unet"),
    **dict.fromkeys(("lora_te_", "lora_te1_", "text_encoder.", "cond_stage_model.transformer."), "text_encoder"),
    **dict.fromkeys(("text_encoders.clip_l.transformer.", "clip_l.transformer."), "text_encoder"),
    "conditioner.embedders.0.transformer.": "text_encoder",
    **dict.fromkeys(("lora_te2_", "text_encoder_2."), "text_encoder_2"),
    **dict.fromkeys(("text_encoders.clip_g.transformer.", "clip_g.transformer."), "text_encoder_2"),
}
PEFT = "base_model.model."  # before the path in whatever model was trained


def split_layer(layer: str) -> tuple[str, str]:
    """The component and the layer's own name; the component is `` where the name tells none."""
    layer = layer.removeprefix(PEFT)
    prefix = max((p for p in COMPONENTS if layer.startswith(p)), key=len, default="")
    return COMPONENTS.get(prefix, ""), layer[len(prefix) :]


def layer_table(source: TensorSource) -> dict[str, str]:
    """The modules of a component by their names with underscores for dots, canonical and original."""
    table = {}
    if "conv_in.weight" in source and "down_blocks.0.resnets.0.norm1.weight" in source:
        for link in unet_links(source.names, "canonical", Heads(count=1), source.shape):
            if len(link.canonical) == 1 and link.original.endswith(".weight"):
                table[flat(link.original.removesuffix(".weight"))] = link.canonical[0].removesuffix(".weight")
    modules = (name.removesuffix(".weight") for name in source.names if name.endswith(".weight"))
    return table | {flat(module): module for module in modules}


def flat(layer: str) -> str:
    """A layer's name in the form in which all namings agree."""
    return layer.replace(".", "_")


def find_layer(layer: str, tables: Mapping[str, Mapping[str, str]]) -> tuple[str, str | None]:
    """The component and the module that a file's layer means; None for a module that the component does not have.

    A name that tells no component is looked for in the UNet first and then in the text encoders.
    """
    component, name = split_layer(layer)
    for place in (component,) if component else tuple(tables):
        for candidate in candidates(flat(name)):
            if candidate in tables.get(place, {}):
                return place, tables[place][candidate]
    return component or "unet", None


def candidates(layer: str) -> Iterator[str]:
    """A layer's name, and what the older namings may mean by it."""
    layer = layer.removeprefix("text_model_").replace("_processor", "")
    yield layer
    if layer.endswith("_to_out"):
        yield f"{layer}_0"
    if found := re.fullmatch(r"(.*_self_attn)_to_(q|k|v|out)", layer):
        yield f"{found[1]}_{found[2]}_proj"
