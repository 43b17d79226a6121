"""Models that are no latent diffusion of this kind, and parts that change what a model computes: named, not misread.

Each is told by tensors that only it has. What is loaded elsewhere (a LoRA, a ControlNet) is not here.
"""

from __future__ import annotations

import re
from fnmatch import translate

from tinyldm.checkpoints.base import TensorSource

# Patterns of names, any of which tells; the first that is found counts, so what is part of another stands before it.
FOREIGN: dict[str, tuple[str, ...]] = {
    "a motion module (AnimateDiff)": ("*motion_modules.*.temporal_transformer.*", "*motion_module*.temporal_*"),
    "a video model (Stable Video Diffusion)": (
        "*.time_mixer.mix_factor",
        "*.time_stack.*",
        "*temporal_transformer_blocks.*",
    ),
    "a GLIGEN model, grounded by boxes": ("*position_net.*", "*.fuser.attn.to_q.weight"),
    "a UNet with an IP-Adapter in it": ("*attn2.to_k_ip*", "*.attn2.processor.to_k_ip*"),
    "a T2I-Adapter of a style, which reads an embedding": ("style_embedding",),
    "a union ControlNet, several in one": ("*task_embedding", "*control_add_embedding.*", "*transformer_layes.*"),
    "Stable unCLIP, whose condition is the embedding of a picture": ("noise_augmentor.*", "*image_noising_scheduler.*"),
    "Stable Diffusion 3": ("*joint_blocks.*", "*transformer_blocks.*.ff_context.*"),
    "FLUX": ("*double_blocks.*", "*double_blocks_*", "*single_transformer_blocks.*", "*single_transformer_blocks_*"),
    "PixArt": ("*adaln_single.*", "y_embedder.y_embedding", "*t_block.1.weight"),
    "Stable Cascade or Würstchen": ("*effnet_mapper.*", "*clip_txt_mapper.*", "*clip_txt_pooled_mapper.*"),
    "Hunyuan-DiT": ("*mlp_t5.0.weight", "*text_embedding_padding"),
    "a transformer of another architecture": (
        "*cap_embedder.*",
        "*.adaLN_modulation.*",
        "*transformer_blocks.0.norm1.linear.weight",
    ),
    "Kandinsky": ("*encoder_hid_proj.image_embeds.*", "*add_embedding.image_norm.*"),
    "DeepFloyd IF, which diffuses pixels": ("*encoder_pooling.*", "*add_embedding.norm1.*"),
    "a T5 text encoder": ("*encoder.block.0.layer.0.SelfAttention.q.weight",),
    "a model that enlarges pictures (ESRGAN)": ("*RRDB_trunk.*", "body.*.rdb1.*", "model.1.sub.*", "*RDB1.conv1*"),
    "a hypernetwork": ("*.linear.0.weight.hypernet",),
}


def foreign_kind(source: TensorSource) -> str | None:
    """What a file of tensors is, where it is none of the models here; None for what is not known either."""
    for kind, patterns in FOREIGN.items():
        like = re.compile("|".join(map(translate, patterns)))
        if any(like.match(name) for name in source.names):
            return kind
    return None
