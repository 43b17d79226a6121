"""IP-Adapters in their published files, and CLIP image encoders in files of their own: configs from shapes.

Source: tencent-ailab/IP-Adapter. The names are `image_proj.…` for what makes the tokens, and `ip_adapter.N.to_k_ip`
and `…to_v_ip` for the attention with the number N among all of the UNet's, of which every second is to a context.
"""

from __future__ import annotations

import math
from typing import Any

from tinyldm.checkpoints.architecture import sizes
from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.names.links import consecutive
from tinyldm.checkpoints.names.published import vision_names
from tinyldm.checkpoints.recognised import Component
from tinyldm.errors import CheckpointError

HEAD = 64  # channels of a head of the resampler, in all that were published
HEADS = 16  # of the published image encoders of more than 12 layers, whatever their width
OPENAI_WIDTHS = (768, 1024)  # of OpenAI's image encoders, which have a GELU of their own; others are OpenCLIP's


def ip_adapter(source: TensorSource) -> Component | None:
    """The IP-Adapter that a file holds, None where it holds none. Raises `CheckpointError` for FaceID's."""
    if not any(name.startswith("ip_adapter.") for name in source.names):
        return None
    p = "image_proj"
    if f"{p}.perceiver_resampler.proj_in.weight" in source or {f"{p}.proj.2.weight", f"{p}.norm.weight"} <= {*source}:
        what = "which reads a face's identity from another network and is not supported"
        raise CheckpointError(f"{source.path}: is an IP-Adapter of FaceID, {what}")
    if f"{p}.proj.weight" in source:
        context = sizes(source, f"{p}.norm.weight", 1)[0]
        total, embed = sizes(source, f"{p}.proj.weight", 2)
        config = {"kind": "projection", "embed_dim": embed, "tokens": total // context}
    elif f"{p}.proj.3.weight" in source:
        context, embed = sizes(source, f"{p}.proj.2.weight", 2)
        config = {"kind": "full", "embed_dim": embed, "tokens": 0}
    elif f"{p}.latents" in source:
        config, context = resampler_config(source, p), sizes(source, f"{p}.proj_out.weight", 2)[0]
    else:
        raise CheckpointError(f"{source.path}: is an IP-Adapter without {p}, which makes tokens of a picture")
    keys = [name for name in source.names if name.startswith("ip_adapter.") and name.endswith("k_ip.weight")]
    in_order = sorted(keys, key=lambda name: int(name.split(".")[1]))
    widths = [sizes(source, name, 2)[0] for name in in_order]
    fields = {"_class_name": "IPAdapter", "context_dim": context, "widths": widths} | config
    return Component("IPAdapter", fields, source)


def resampler_config(source: TensorSource, p: str) -> dict[str, Any]:
    """The fields of a "plus" adapter."""
    _, tokens, width = sizes(source, f"{p}.latents", 3)
    return {
        "kind": "plus",
        "embed_dim": sizes(source, f"{p}.proj_in.weight", 2)[1],
        "tokens": tokens,
        "hidden_dim": width,
        "depth": consecutive(source, p + ".layers.{}.0.to_q.weight"),
        "heads": max(1, sizes(source, f"{p}.layers.0.0.to_q.weight", 2)[0] // HEAD),
        "inner_dim": sizes(source, f"{p}.layers.0.1.1.weight", 2)[0],
    }


def image_encoder(source: TensorSource) -> Component | None:
    """The CLIP image encoder that a file holds under its published names, None where it holds none."""
    view = vision_names(source)
    if "pre_layrnorm.weight" not in view or "visual_projection.weight" not in view:
        return None
    width, channels, patch, _ = sizes(view, "embeddings.patch_embedding.weight", 4)
    layers = consecutive(view, "encoder.layers.{}.layer_norm1.weight")
    squares = math.isqrt(sizes(view, "embeddings.position_embedding.weight", 2)[0] - 1)
    config = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": sizes(view, "encoder.layers.0.mlp.fc1.weight", 2)[0],
        "projection_dim": sizes(view, "visual_projection.weight", 2)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS if layers > 12 else max(1, width // 64),
        "num_channels": channels,
        "image_size": squares * patch,
        "patch_size": patch,
        "hidden_act": "quick_gelu" if width in OPENAI_WIDTHS else "gelu",
        "layer_norm_eps": 1e-5,
    }
    return Component("CLIPVisionModelWithProjection", config, view)
