"""The small models in original names of which goldens are made from the original repositories.

A UNet case has the published configuration of its family, narrowed: few channels, the rest as published, so that what
is recognised from names and shapes is what would be recognised for the real file.
"""

from __future__ import annotations

from typing import Any

LDM, SD2, SGM = "CompVis+latent-diffusion", "Stability-AI+stablediffusion", "Stability-AI+generative-models"
LATENT = {"image_size": 8, "num_res_blocks": 2}
SPATIAL = {"use_spatial_transformer": True, "transformer_depth": 1}
FOUR = {"attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4]}

# family: (repository, parameters of its UNetModel, shapes of further inputs)
UNETS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "stable-diffusion-1": (
        LDM,
        {"in_channels": 4, "out_channels": 4, "num_heads": 8, "context_dim": 768, "legacy": False, **FOUR, **SPATIAL},
        {},
    ),
    "stable-diffusion-1-inpainting": (
        LDM,
        {"in_channels": 9, "out_channels": 4, "num_heads": 8, "context_dim": 768, "legacy": False, **FOUR, **SPATIAL},
        {},
    ),
    "stable-diffusion-2": (
        SD2,
        {
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 64,
            "num_head_channels": 64,
            "context_dim": 1024,
            "use_linear_in_transformer": True,
            "legacy": False,
            "attention_resolutions": [4, 2, 1],
            "channel_mult": [1, 1, 2, 2],
            **SPATIAL,
        },
        {},
    ),
    "stable-diffusion-2-inpainting": (
        SD2,
        {
            "in_channels": 9,
            "out_channels": 4,
            "model_channels": 64,
            "num_head_channels": 64,
            "context_dim": 1024,
            "use_linear_in_transformer": True,
            "legacy": False,
            "attention_resolutions": [2, 1],
            "channel_mult": [1, 1, 2],
            **SPATIAL,
        },
        {},
    ),
    "stable-diffusion-2-depth": (
        SD2,
        {
            "in_channels": 5,
            "out_channels": 4,
            "model_channels": 64,
            "num_head_channels": 64,
            "context_dim": 1024,
            "use_linear_in_transformer": True,
            "legacy": False,
            "attention_resolutions": [2, 1],
            "channel_mult": [1, 1, 2],
            **SPATIAL,
        },
        {},
    ),
    "stable-diffusion-x4-upscaler": (
        SD2,
        {
            "in_channels": 7,
            "out_channels": 4,
            "num_classes": 1000,
            "num_heads": 8,
            "context_dim": 1024,
            "use_linear_in_transformer": True,
            "legacy": False,
            "attention_resolutions": [2, 4, 8],
            "channel_mult": [1, 2, 2, 4],
            "disable_self_attentions": [True, True, True, False],
            "disable_middle_self_attn": False,
            **SPATIAL,
        },
        {"class_labels": [20]},
    ),
    "stable-diffusion-xl": (
        SGM,
        {
            "adm_in_channels": 2816,
            "num_classes": "sequential",
            "in_channels": 4,
            "out_channels": 4,
            "num_head_channels": 64,
            "context_dim": 2048,
            "use_linear_in_transformer": True,
            "attention_resolutions": [4, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [1, 2, 3],
            "spatial_transformer_attn_type": "softmax",
        },
        {"text_embeds": (1, 1280), "time_ids": [[512.0, 768.0, 0.0, 16.0, 1024.0, 1024.0]]},
    ),
    "stable-diffusion-xl-refiner": (
        SGM,
        {
            "adm_in_channels": 2560,
            "num_classes": "sequential",
            "in_channels": 4,
            "out_channels": 4,
            "num_head_channels": 64,
            "context_dim": [1280] * 4,
            "use_linear_in_transformer": True,
            "attention_resolutions": [4, 2],
            "channel_mult": [1, 2, 2, 2],
            "transformer_depth": 4,
            "spatial_transformer_attn_type": "softmax",
        },
        {"text_embeds": (1, 1280), "time_ids": [[512.0, 768.0, 0.0, 16.0, 6.0]]},
    ),
    "ldm-text2img-large": (
        LDM,
        {"in_channels": 4, "out_channels": 4, "num_heads": 8, "context_dim": 1280, "legacy": False, **FOUR, **SPATIAL},
        {},
    ),
    "ldm-text2img-256": (
        LDM,
        {
            "in_channels": 3,
            "out_channels": 3,
            "num_head_channels": 32,
            "context_dim": 640,
            "attention_resolutions": [8, 4, 2],
            "channel_mult": [1, 2, 3, 5],
            **SPATIAL,
        },
        {},
    ),
    "ldm-cin256": (
        LDM,
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_head_channels": 32,
            "context_dim": 512,
            "attention_resolutions": [4, 2, 1],
            "channel_mult": [1, 2, 4],
            **SPATIAL,
        },
        {},
    ),
    "ldm-cin256-v2": (
        LDM,
        {
            "in_channels": 3,
            "out_channels": 3,
            "num_heads": 1,
            "context_dim": 512,
            "attention_resolutions": [8, 4, 2],
            "channel_mult": [1, 2, 3, 5],
            **SPATIAL,
        },
        {},
    ),
    "ldm-layout2img": (
        LDM,
        {
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 128,
            "num_res_blocks": 1,
            "num_head_channels": 32,
            "context_dim": 512,
            "attention_resolutions": [2],
            "channel_mult": [1, 2],
            "use_spatial_transformer": True,
            "transformer_depth": 3,
        },
        {},
    ),
    "ldm-retrieval-768": (
        LDM,
        {
            "in_channels": 16,
            "out_channels": 16,
            "num_head_channels": 32,
            "context_dim": 768,
            "attention_resolutions": [4, 2, 1],
            "channel_mult": [1, 2, 3, 4],
            **SPATIAL,
        },
        {},
    ),
    "ldm-unconditional": (
        LDM,
        {
            "in_channels": 3,
            "out_channels": 3,
            "num_head_channels": 32,
            "attention_resolutions": [8, 4, 2],
            "channel_mult": [1, 2, 3, 4],
        },
        {},
    ),
    "ldm-lsun-churches": (
        LDM,
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_heads": 8,
            "attention_resolutions": [1, 2, 4, 8],
            "channel_mult": [1, 2, 2, 4],
            "use_scale_shift_norm": True,
            "resblock_updown": True,
        },
        {},
    ),
    "ldm-bsr-sr": (
        LDM,
        {
            "in_channels": 6,
            "out_channels": 3,
            "model_channels": 160,
            "num_res_blocks": 1,
            "num_head_channels": 32,
            "attention_resolutions": [16, 8],
            "channel_mult": [1, 1],
        },
        {},
    ),
    "ldm-semantic-synthesis": (
        LDM,
        {
            "in_channels": 6,
            "out_channels": 3,
            "num_heads": 8,
            "attention_resolutions": [32, 16, 8],
            "channel_mult": [1, 4, 8],
        },
        {},
    ),
    "ldm-inpainting-big": (
        LDM,
        {
            "in_channels": 7,
            "out_channels": 3,
            "num_heads": 8,
            "attention_resolutions": [8, 4, 2],
            "channel_mult": [1, 2, 3, 4],
            "resblock_updown": True,
        },
        {},
    ),
}

FIRST_STAGE = {"resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "num_res_blocks": 2, "dropout": 0.0}
# name: (parameters of its Encoder and Decoder, entries of the codebook or None)
FIRST_STAGES: dict[str, tuple[dict[str, Any], int | None]] = {
    "kl-f4": ({"z_channels": 3, "ch_mult": [1, 2, 4], "attn_resolutions": [], "double_z": True}, None),
    "kl-f4-upscaler": ({"z_channels": 4, "ch_mult": [1, 2, 4], "attn_resolutions": [], "double_z": True}, None),
    "kl-f8": ({"z_channels": 4, "ch_mult": [1, 2, 4, 4], "attn_resolutions": [], "double_z": True}, None),
    "kl-f16": ({"z_channels": 16, "ch_mult": [1, 1, 2, 2, 4], "attn_resolutions": [2], "double_z": True}, None),
    "kl-f32": ({"z_channels": 64, "ch_mult": [1, 1, 2, 2, 4, 4], "attn_resolutions": [2, 1], "double_z": True}, None),
    "vq-f4": ({"z_channels": 3, "ch_mult": [1, 2, 4], "attn_resolutions": [], "double_z": False}, 64),
    "vq-f4-noattn": (
        {"z_channels": 3, "ch_mult": [1, 2, 4], "attn_resolutions": [], "double_z": False, "attn_type": "none"},
        64,
    ),
    "vq-f8": ({"z_channels": 4, "ch_mult": [1, 2, 2, 4], "attn_resolutions": [4], "double_z": False}, 64),
    "vq-f8-n256": ({"z_channels": 4, "ch_mult": [1, 2, 2, 4], "attn_resolutions": [4], "double_z": False}, 16),
    "vq-f16": ({"z_channels": 8, "ch_mult": [1, 1, 2, 2, 4], "attn_resolutions": [2], "double_z": False}, 64),
}


def clip_shapes(width: int, layers: int, vocabulary: int = 100) -> dict[str, tuple[int, ...]]:
    """A CLIP text encoder as single files name it, below `transformer.`."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.position_ids": (1, 77),
        "embeddings.token_embedding.weight": (vocabulary, width),
        "embeddings.position_embedding.weight": (77, width),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
    }
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        for name, out, inner in (
            *((f"self_attn.{part}_proj", width, width) for part in ("q", "k", "v", "out")),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {f"{layer}.{name}.weight": (out, inner), f"{layer}.{name}.bias": (out,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
    return {f"text_model.{name}": shape for name, shape in shapes.items()}


def openclip_shapes(width: int, layers: int, vocabulary: int = 100) -> dict[str, tuple[int, ...]]:
    """An OpenCLIP text tower."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (vocabulary, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for i in range(layers):
        layer = f"transformer.resblocks.{i}"
        shapes |= {f"{layer}.attn.in_proj_weight": (3 * width, width), f"{layer}.attn.in_proj_bias": (3 * width,)}
        for name, out, inner in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            shapes |= {f"{layer}.{name}.weight": (out, inner), f"{layer}.{name}.bias": (out,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
    return shapes


# Models of which diffusers is the original: class, config, and the inputs of its calls.
NARROW = {"norm_num_groups": 8, "layers_per_block": 1}
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "tiny": (
        "AutoencoderTiny",
        {"encoder_block_out_channels": [16] * 4, "decoder_block_out_channels": [16] * 4},
        {"pixels": (1, 3, 16, 24), "z": (1, 4, 2, 3)},
    ),
    "asymmetric": (
        "AsymmetricAutoencoderKL",
        {
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "down_block_out_channels": [8, 16, 24, 24],
            "layers_per_down_block": 1,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "up_block_out_channels": [8, 16, 32, 32],
            "layers_per_up_block": 2,
            "norm_num_groups": 8,
        },
        {"pixels": (1, 3, 16, 24), "z": (1, 4, 2, 3), "image": (1, 3, 16, 24), "mask": (1, 1, 16, 24)},
    ),
    "vq": (
        "VQModel",
        {
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "block_out_channels": [8, 16],
            "num_vq_embeddings": 32,
            "vq_embed_dim": 2,
            **NARROW,
        },
        {"pixels": (1, 3, 8, 12), "z": (1, 2, 4, 6)},
    ),
    "unet2d": (
        "UNet2DModel",
        {
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 16],
            "attention_head_dim": 4,
            "num_class_embeds": 5,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "center_input_sample": True,
            **NARROW,
        },
        {"z": (2, 3, 6, 10)},
    ),
    "unet2d_resnet": (
        "UNet2DModel",
        {
            "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
            "block_out_channels": [8, 16, 16],
            "attention_head_dim": None,
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "attn_norm_num_groups": 8,
            **NARROW,
        },
        {"z": (2, 3, 4, 8)},
    ),
    "controlnet": (
        "ControlNetModel",
        {
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "block_out_channels": [8, 16],
            "attention_head_dim": 2,
            "cross_attention_dim": 12,
            "conditioning_embedding_out_channels": [4, 6, 8, 10],
            "controlnet_conditioning_channel_order": "bgr",
            **NARROW,
        },
        {"z": (2, 4, 4, 6), "context": (2, 5, 12), "hint": (2, 3, 32, 48)},
    ),
}
T2I: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "t2i_full": (
        "T2IAdapter",
        {"in_channels": 1, "channels": [8, 16], "downscale_factor": 4, "adapter_type": "full_adapter"},
        {"hint": (2, 1, 12, 20)},
    ),
    "t2i_light": (
        "T2IAdapter",
        {"channels": [8, 16], "num_res_blocks": 3, "downscale_factor": 2, "adapter_type": "light_adapter"},
        {"hint": (1, 3, 12, 18)},
    ),
    "t2i_xl": (
        "T2IAdapter",
        {"channels": [8, 16, 24, 24], "downscale_factor": 4, "adapter_type": "full_adapter_xl"},
        {"hint": (1, 3, 24, 32)},
    ),
}
PUBLISHED |= T2I
# The UNets that take an adapter's features, and the shapes of their latents; the last feature of the XL adapter is for
# the middle.
ADAPTED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "t2i_full": (
        {
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [8, 16],
            "attention_head_dim": 2,
            "cross_attention_dim": 12,
            **NARROW,
        },
        (2, 4, 3, 5),
    ),
    "t2i_light": (
        {
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [8, 16, 16],
            "attention_head_dim": 2,
            "cross_attention_dim": 12,
            **NARROW,
        },
        (1, 4, 6, 9),
    ),
    "t2i_xl": (
        {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 16, 24],
            "attention_head_dim": 2,
            "cross_attention_dim": 12,
            **NARROW,
        },
        (1, 4, 12, 16),
    ),
}
# T2I-Adapters of the original repository, as its branches have published them: (branch, file, class, arguments).
ORIGINAL_T2I: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "full": (
        "SD",
        "ldm/modules/encoders/adapter.py",
        "Adapter",
        {"cin": 64, "channels": [8, 16, 24, 24], "nums_rb": 2, "ksize": 1, "sk": True, "use_conv": False},
    ),
    "light": (
        "SD",
        "ldm/modules/encoders/adapter.py",
        "Adapter_light",
        {"cin": 192, "channels": [8, 16, 24, 24], "nums_rb": 4},
    ),
    "xl": (
        "main",
        "Adapter/models/adapters.py",
        "Adapter_XL",
        {"cin": 256, "channels": [8, 16, 24, 24], "nums_rb": 2, "ksize": 1, "sk": True, "use_conv": False},
    ),
}
# The UNet that the ControlNet above belongs to.
CONTROLLED = {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    **NARROW,
}

# Whole single files: the family, and what stands under which prefix beside its UNet and the KL f8 first stage.
SINGLE_FILES: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "stable-diffusion-1": {"cond_stage_model.transformer.": clip_shapes(64, 2)},
    "stable-diffusion-2": {"cond_stage_model.model.": openclip_shapes(64, 24)},
    "stable-diffusion-xl": {
        "conditioner.embedders.0.transformer.": clip_shapes(64, 2),
        "conditioner.embedders.1.model.": openclip_shapes(64, 3),
    },
    "stable-diffusion-xl-refiner": {"conditioner.embedders.0.model.": openclip_shapes(64, 3)},
}
# What the training left in the file.
BUFFERS = {"betas": (1000,), "alphas_cumprod": (1000,), "model_ema.decay": (), "first_stage_model.loss.logvar": ()}

BERT = {"vocab_size": 300, "n_embed": 48, "n_layer": 2, "max_seq_len": 12}

# CLIP image encoders, of which transformers is the original, and IP-Adapters, of which diffusers is: the ways from the
# encoder to the tokens, each with the first publishers' names and shapes.
VISION: dict[str, dict[str, Any]] = {
    "clip": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "projection_dim": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 14,
        "patch_size": 4,
        "hidden_act": "quick_gelu",
    },
    "openclip": {
        "hidden_size": 24,
        "intermediate_size": 32,
        "projection_dim": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 12,
        "patch_size": 6,
        "hidden_act": "gelu",
    },
}
