"""The small models of which goldens are made: between them they use every config field that is supported.

A case is a config, its inputs and the modules whose outputs are kept beside the model's. Inputs are shapes, filled by
`seeded_input` under their own names, or lists of numbers that are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One golden file: `name`, what goes into the model, and what is kept of what comes out."""

    name: str
    config: dict[str, Any]
    inputs: dict[str, tuple[int, ...] | list[Any]]
    modules: tuple[str, ...] = ()  # glob patterns of module paths
    gains: dict[str, float] = field(default_factory=dict)  # seeded weights to be multiplied, by name

    @property
    def model(self) -> str:
        """Which model it is, told by what goes in."""
        return {"z": "unet", "pixels": "vae", "ids": "text_encoder"}[next(iter(self.inputs))]


# The UNet ----------------------------------------------------------------------------------------------------------

CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
THREE_LEVELS = {
    "block_out_channels": [8, 16, 16],
    "down_block_types": [CROSS_DOWN, CROSS_DOWN, DOWN],
    "up_block_types": [UP, CROSS_UP, CROSS_UP],
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
}
TWO_LEVELS = {
    **THREE_LEVELS,
    "block_out_channels": [8, 16],
    "down_block_types": [CROSS_DOWN, DOWN],
    "up_block_types": [UP, CROSS_UP],
    "layers_per_block": 1,
}
SMALL = {"z": (1, 4, 4, 6), "t": [321], "context": (1, 5, 12)}
BATCH = {"z": (2, 4, 4, 4), "t": [999, 1], "context": (2, 5, 12)}

UNET_BLOCKS = (
    "conv_in",
    "time_embedding",
    "down_blocks.[01]",
    "down_blocks.[01].resnets.0",
    "down_blocks.0.attentions.0",
    "down_blocks.0.attentions.0.transformer_blocks.0",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn[12]",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff",
    "down_blocks.0.downsamplers.0",
    "mid_block",
    "mid_block.attentions.0",
    "mid_block.resnets.1",
    "mid_block.resnets.1.norm[12]",
    "up_blocks.[01]",
    "up_blocks.1.resnets.0",
    "up_blocks.1.resnets.0.conv_shortcut",
    "up_blocks.0.upsamplers.0",
    "conv_norm_out",
)


def class_case(name: str, labels: tuple[int, ...] | list[Any], **config: Any) -> Case:
    """A UNet that takes class labels."""
    return Case(f"unet_class_{name}", {**TWO_LEVELS, **config}, {**BATCH, "class_labels": labels})


UNETS = [
    Case("unet_sd1", THREE_LEVELS, {"z": (2, 4, 4, 8), "t": [981], "context": (2, 7, 12)}),
    Case("unet_blocks", {**TWO_LEVELS, "attention_head_dim": 4}, SMALL, UNET_BLOCKS),
    # sizes that are halved with a remainder, down to a single pixel; t one for each sample; fractional t; one token
    Case("unet_odd_7x9", THREE_LEVELS, {"z": (2, 4, 7, 9), "t": [1, 750], "context": (2, 3, 12)}),
    Case("unet_odd_5x5", THREE_LEVELS, {"z": (1, 4, 5, 5), "t": [499.5], "context": (1, 1, 12)}),
    Case("unet_odd_1x1", THREE_LEVELS, {"z": (3, 4, 1, 1), "t": [0.0, 12.25, 999.0], "context": (3, 2, 12)}),
    Case(
        "unet_sd2",
        {
            **THREE_LEVELS,
            "use_linear_projection": True,
            "attention_head_dim": [1, 2, 4],
            "upcast_attention": True,
            "only_cross_attention": False,
            "dual_cross_attention": False,
            "num_class_embeds": None,
        },
        {"z": (1, 4, 6, 4), "t": [600], "context": (1, 7, 12)},
    ),
    Case(
        "unet_sdxl",
        {
            **THREE_LEVELS,
            "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN],
            "up_block_types": [CROSS_UP, CROSS_UP, UP],
            "transformer_layers_per_block": [1, 2, 3],
            "attention_head_dim": [1, 2, 4],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 + 6 * 4,
        },
        {
            "z": (2, 4, 4, 4),
            "t": [801],
            "context": (2, 7, 12),
            "text_embeds": (2, 6),
            "time_ids": [[1024, 768, 0, 0, 1024, 1024], [512, 512, 8, 16, 640, 640]],
        },
        ("add_embedding", "mid_block.attentions.0", "down_blocks.2"),
    ),
    Case("unet_lcm", {**TWO_LEVELS, "time_cond_proj_dim": 6}, {**BATCH, "guidance": (2, 6)}, ("time_embedding",)),
    Case("unet_lcm_unguided", {**TWO_LEVELS, "time_cond_proj_dim": 6}, SMALL),
    Case(
        "unet_time_fields",
        {**TWO_LEVELS, "flip_sin_to_cos": False, "freq_shift": 1, "time_embedding_dim": 24, "act_fn": "swish"},
        {**BATCH, "t": [450, 3.5]},
        ("time_proj", "time_embedding"),
    ),
    Case(
        "unet_upscaler",
        {
            **THREE_LEVELS,
            "in_channels": 7,
            "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN],
            "up_block_types": [CROSS_UP, CROSS_UP, UP],
            "only_cross_attention": [True, True, False],
            "num_class_embeds": 1000,
            "use_linear_projection": True,
        },
        {"z": (2, 7, 4, 4), "t": [201], "context": (2, 7, 12), "class_labels": [20, 350]},
    ),
    Case(
        "unet_only_cross",
        {**TWO_LEVELS, "only_cross_attention": True, "mid_block_only_cross_attention": True},
        SMALL,
        ("mid_block.attentions.0", "down_blocks.0.attentions.0"),
    ),
    Case("unet_inpaint", {**TWO_LEVELS, "in_channels": 9}, {**SMALL, "z": (1, 9, 4, 6)}),
    class_case("timestep", [10, 900.5], class_embed_type="timestep"),
    class_case("projection", (2, 6), class_embed_type="projection", projection_class_embeddings_input_dim=6),
    class_case(
        "simple_projection", (2, 6), class_embed_type="simple_projection", projection_class_embeddings_input_dim=6
    ),
    class_case("identity", (2, 32), class_embed_type="identity"),
    class_case("concat", [3, 0], num_class_embeds=4, class_embeddings_concat=True),
    Case(
        "unet_scale_shift",
        {**TWO_LEVELS, "resnet_time_scale_shift": "scale_shift"},
        BATCH,
        ("down_blocks.0.resnets.0", "up_blocks.1.resnets.1"),
    ),
    # without padding on all sides, an odd size is rounded down
    Case("unet_downsample_padding", {**THREE_LEVELS, "downsample_padding": 0}, {**SMALL, "z": (1, 4, 6, 7)}),
    Case("unet_no_middle", {**TWO_LEVELS, "mid_block_type": None, "layers_per_block": [1, 2]}, SMALL),
    # as in SSD-1B: of the middle only a residual block is left
    Case("unet_short_middle", {**TWO_LEVELS, "mid_block_type": "UNetMidBlock2D"}, SMALL, ("mid_block",)),
    Case(
        "unet_depths",
        {
            **THREE_LEVELS,
            "layers_per_block": [1, 2, 1],
            "transformer_layers_per_block": [[2], [1, 2], [1]],
            "reverse_transformer_layers_per_block": [[1, 1], [2, 1, 1], [1, 3]],
            "cross_attention_dim": [12, 12, 12],
            "attention_head_dim": [2, 4, 8],
        },
        SMALL,
    ),
    Case(
        "unet_conv_fields",
        {
            **TWO_LEVELS,
            "conv_in_kernel": 5,
            "conv_out_kernel": 1,
            "out_channels": 6,
            "norm_eps": 0.01,
            "norm_num_groups": 2,
            "center_input_sample": True,
            "sample_size": [4, 6],
        },
        SMALL,
        ("conv_in", "mid_block.resnets.0", "mid_block.attentions.0.norm"),
    ),
    Case(
        "unet_encoder_hid",
        {**TWO_LEVELS, "encoder_hid_dim": 10, "encoder_hid_dim_type": "text_proj"},
        {**SMALL, "context": (1, 5, 10)},
    ),
    Case("unet_encoder_hid_untyped", {**TWO_LEVELS, "encoder_hid_dim": 10}, {**SMALL, "context": (1, 5, 10)}),
    Case(
        "unet_one_level",
        {
            **TWO_LEVELS,
            "block_out_channels": [8],
            "down_block_types": [CROSS_DOWN],
            "up_block_types": [CROSS_UP],
        },
        SMALL,
    ),
]

# The autoencoder ---------------------------------------------------------------------------------------------------


def vae_config(*widths: int, **config: Any) -> dict[str, Any]:
    """An autoencoder's config with the given widths."""
    return {
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "norm_num_groups": 4,
        **config,
    }


VAE_BLOCKS = (
    "encoder",
    "encoder.conv_in",
    "encoder.down_blocks.1",
    "encoder.down_blocks.1.resnets.0",
    "encoder.down_blocks.1.downsamplers.0",
    "encoder.mid_block",
    "encoder.mid_block.attentions.0",
    "encoder.conv_norm_out",
    "quant_conv",
    "post_quant_conv",
    "decoder",
    "decoder.mid_block.resnets.0",
    "decoder.mid_block.attentions.0",
    "decoder.up_blocks.0",
    "decoder.up_blocks.0.upsamplers.0",
    "decoder.up_blocks.2.resnets.0",
)

VAES = [
    Case(
        "vae_sd1",
        vae_config(8, 16, 16, layers_per_block=2, latent_channels=4, scaling_factor=0.18215, sample_size=16),
        {"pixels": (2, 3, 8, 12), "z": (2, 4, 3, 2)},
    ),
    Case("vae_blocks", vae_config(4, 8, 8), {"pixels": (1, 3, 4, 8), "z": (1, 4, 1, 2)}, VAE_BLOCKS),
    Case(
        "vae_flux",
        vae_config(
            8,
            16,
            layers_per_block=1,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=True,
            force_upcast=True,
            latents_mean=None,
            latents_std=None,
        ),
        {"pixels": (1, 3, 6, 4), "z": (1, 16, 2, 3)},
    ),
    Case(
        "vae_no_attention",
        vae_config(8, 16, mid_block_add_attention=False, use_quant_conv=True, use_post_quant_conv=False),
        {"pixels": (1, 3, 4, 4), "z": (1, 4, 3, 3)},
    ),
    Case(
        "vae_one_level",
        vae_config(8, in_channels=4, out_channels=2, latent_channels=3, norm_num_groups=2, act_fn="swish"),
        {"pixels": (1, 4, 3, 5), "z": (1, 3, 5, 1)},
    ),
    # latents standardised channel by channel, as Playground 2.5 has them; numbers that float32 holds, where the
    # original's pipeline has them
    Case(
        "vae_latents_std",
        vae_config(
            4,
            8,
            latents_mean=[-1.65625, 1.875, -1.375, 2.5],
            latents_std=[8.5, 5.875, 6.5, 5.25],
            scaling_factor=0.5,
            force_upcast=False,
        ),
        {"pixels": (1, 3, 4, 8), "z": (1, 4, 1, 2)},
    ),
    # log-variances far outside -30 … 20, which the original clamps
    Case("vae_clamp", vae_config(4, 8), {"pixels": (1, 3, 4, 8), "z": (1, 4, 1, 1)}, gains={"quant_conv.weight": 60.0}),
]

# The text encoder --------------------------------------------------------------------------------------------------

TEXT = {
    "vocab_size": 40,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "hidden_act": "quick_gelu",
    "eos_token_id": 39,
    "bos_token_id": 38,
    "pad_token_id": 1,
}
# a start, words, the first end, padding with the end token as CLIP's tokenizer does; with another one; no padding
IDS = [[38, 5, 17, 39, 39, 39, 39, 39], [38, 2, 39, 1, 1, 1, 1, 1], [38, 3, 9, 30, 4, 4, 11, 39]]
TEXT_BLOCKS = (
    "embeddings.token_embedding",
    "encoder.layers.[01]",
    "encoder.layers.0.self_attn",
    "encoder.layers.0.mlp",
    "encoder.layers.0.layer_norm2",
)

TEXT_ENCODERS = [
    Case("text_quick_gelu", TEXT, {"ids": IDS}, TEXT_BLOCKS),
    # the older configs' end token, 2: the largest id of a text stands for its end
    Case("text_old_eos", {**TEXT, "eos_token_id": 2}, {"ids": [[38, 2, 5, 39, 0, 0], [38, 7, 2, 2, 39, 39]]}),
    Case(
        "text_gelu",
        {**TEXT, "hidden_act": "gelu", "layer_norm_eps": 0.01, "num_attention_heads": 3},
        {"ids": [[38, 5, 39]]},
    ),
    # all ids the end token, and none of them: the first place either way
    Case("text_one_token", {**TEXT, "num_hidden_layers": 1}, {"ids": [[39], [7]]}),
    Case(
        "text_projection",
        {**TEXT, "hidden_act": "gelu", "projection_dim": 7, "architectures": ["CLIPTextModelWithProjection"]},
        {"ids": IDS},
    ),
]

# The published models of Stable Diffusion 1.5 at full width: configs/<name>.json -------------------------------------

SD15_IDS = [49406, 320, 1125, 539, 320, 2368, *[49407] * 71]
FULL_WIDTH = {
    "sd15_unet": {"z": (1, 4, 8, 8), "t": [500], "context": (1, 77, 768)},
    "sd15_vae": {"pixels": (1, 3, 64, 64), "z": (1, 4, 8, 8)},
    "sd15_text_encoder": {"ids": [SD15_IDS]},
}

LARGE = 4096  # values: larger inputs are made from the seed when they are needed, larger outputs kept in part


def sampled(array: np.ndarray) -> np.ndarray:
    """A large array's every seventh value, so that every channel, row and column is there; a small one as it is."""
    return array.ravel()[::7] if array.size > LARGE else array
