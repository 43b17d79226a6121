"""The configuration of a model, as its published `config.json` says it, from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.families import Config, Facts, Family, Heads
from tinyldm.checkpoints.names.links import consecutive
from tinyldm.checkpoints.names.unet import Level, block_modules, original_levels
from tinyldm.errors import CheckpointError

SDXL_CONTEXTS = (2048, 1280)  # of the models whose added vector is pooled text with size and crop


def sizes(source: TensorSource, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that tells the architecture; `CheckpointError` where it has another number of axes."""
    shape = source.shape(name)
    if len(shape) != rank or 0 in shape:
        where, original = source.path_of(name), quoted(source.original_name(name))
        raise CheckpointError(f"{where}: tensor {original} of shape {shape}, wanted {rank} axes, none of them empty")
    return shape


def first_resnet(source: TensorSource, modules: Mapping[str, str], level: int) -> str:
    """The original's module for the first residual block of a level of the way down."""
    name = f"down_blocks.{level}.resnets.0"
    if name not in modules:
        raise CheckpointError(f"{source.path}: the UNet's level {level} has no residual block: tensors are missing")
    return modules[name]


def unet_facts(source: TensorSource) -> Facts:
    """What tells a UNet's family; `source` has original names."""
    middle = "middle_block.1"
    cross = f"{middle}.transformer_blocks.0.attn2.to_k.weight"
    width, in_channels = sizes(source, "input_blocks.0.0.weight", 4)[:2]
    context = sizes(source, cross, 2)[1] if cross in source else None
    linear = f"{middle}.proj_in.weight" in source and len(source.shape(f"{middle}.proj_in.weight")) == 2
    return Facts(width, in_channels, context, linear)


def unet_config(source: TensorSource, family: Family | None, heads: Heads, factor: int = 8) -> Config:
    """The config of a UNet with original names: of a UNet2DConditionModel, or a UNet2DModel if it takes no context."""
    facts, up = unet_facts(source), original_levels(source)
    down = up[::-1]
    module = {canonical: original for original, canonical, _ in block_modules(up)}
    widths = [sizes(source, f"{first_resnet(source, module, i)}.out_layers.3.weight", 4)[0] for i in range(len(down))]
    layers = [level.resnets - 1 for level in down]
    shift = sizes(source, f"{module['mid_block.resnets.0']}.emb_layers.1.weight", 2)[0] == 2 * widths[-1]
    config: Config = {
        "sample_size": (family.size if family else 512) // factor,
        "in_channels": facts.in_channels,
        "out_channels": sizes(source, "out.2.weight", 4)[0] if "out.2.weight" in source else 0,
        "block_out_channels": widths,
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "act_fn": "silu",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "center_input_sample": False,
        "resnet_time_scale_shift": "scale_shift" if shift else "default",
    }
    if facts.context is not None:
        count = heads.count or [heads(width) for width in widths]
        return config | _conditional(source, facts, up, module, count)
    attended = [level.attended for level in down]
    return config | _unconditional(source, attended, heads) | ({"attn_norm_num_groups": 32} if shift else {})


def _unconditional(source: TensorSource, attended: list[bool], heads: Heads) -> Config:
    resized = any(f"output_blocks.{i}.{j}.in_layers.0.weight" in source for i in range(40) for j in (1, 2))
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resized else ("DownBlock2D", "UpBlock2D")
    return {
        "_class_name": "UNet2DModel",
        "down_block_types": ["AttnDownBlock2D" if a else down for a in attended],
        "up_block_types": ["AttnUpBlock2D" if a else up for a in attended[::-1]],
        "downsample_type": "resnet" if resized else "conv",
        "upsample_type": "resnet" if resized else "conv",
    } | ({"num_attention_heads": heads.count} if heads.count else {"attention_head_dim": heads.channels})


def _conditional(
    source: TensorSource, facts: Facts, up: list[Level], module: Mapping[str, str], heads: int | list[int]
) -> Config:
    down = up[::-1]
    depths, only_cross = [], []
    for i in range(len(down)):
        first = module.get(f"down_blocks.{i}.attentions.0", "")
        depths.append(consecutive(source, first + ".transformer_blocks.{}.norm1.weight") if first else 1)
        own = sizes(source, f"{first}.transformer_blocks.0.attn1.to_k.weight", 2) if first else (0, 0)
        only_cross.append(own[0] != own[1])
    depths[-1] = consecutive(source, "middle_block.1.transformer_blocks.{}.norm1.weight")
    alike = {d for d, level in zip(depths, down, strict=True) if level.attended} | {depths[-1]}
    config: Config = {
        "_class_name": "UNet2DConditionModel",
        "down_block_types": ["CrossAttnDownBlock2D" if level.attended else "DownBlock2D" for level in down],
        "up_block_types": ["CrossAttnUpBlock2D" if level.attended else "UpBlock2D" for level in up],
        "cross_attention_dim": facts.context,
        "use_linear_projection": facts.linear,
        "transformer_layers_per_block": depths[-1] if len(alike) == 1 else depths,
        "only_cross_attention": only_cross if any(only_cross) else False,
        "attention_head_dim": heads,
    }
    return config | _added(source, facts)


def _added(source: TensorSource, facts: Facts) -> Config:
    """What is added to the time embedding."""
    if "label_emb.weight" in source:
        return {"num_class_embeds": sizes(source, "label_emb.weight", 2)[0]}
    if "label_emb.0.0.weight" in source:
        width = {"projection_class_embeddings_input_dim": sizes(source, "label_emb.0.0.weight", 2)[1]}
        if facts.context in SDXL_CONTEXTS:
            return width | {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        return width | {"class_embed_type": "projection"}
    if "time_embed.cond_proj.weight" in source:
        return {"time_cond_proj_dim": sizes(source, "time_embed.cond_proj.weight", 2)[1]}
    return {}


def controlnet_config(source: TensorSource, heads: Heads) -> Config:
    """The config of a ControlNet with original names."""
    config = unet_config(source, None, heads)
    for field in ("sample_size", "out_channels", "up_block_types", "center_input_sample"):
        del config[field]
    hint = [sizes(source, f"input_hint_block.{i}.weight", 4) for i in (0, 4, 8, 12)]
    return config | {
        "_class_name": "ControlNetModel",
        "conditioning_channels": hint[0][1],
        "conditioning_embedding_out_channels": [shape[0] for shape in hint],
        "controlnet_conditioning_channel_order": "rgb",
    }


def tiny_config(source: TensorSource) -> Config:
    """The config of a tiny autoencoder; how many blocks a level has is the same in all that were published."""
    return {
        "_class_name": "AutoencoderTiny",
        "in_channels": sizes(source, "encoder.layers.0.weight", 4)[1],
        "encoder_block_out_channels": [sizes(source, "encoder.layers.0.weight", 4)[0]] * 4,
        "decoder_block_out_channels": [sizes(source, "decoder.layers.0.weight", 4)[0]] * 4,
        "latent_channels": sizes(source, "decoder.layers.0.weight", 4)[1],
        "num_encoder_blocks": [1, 3, 3, 3],
        "num_decoder_blocks": [3, 3, 3, 1],
        "scaling_factor": 1.0,
    }


def autoencoder_config(source: TensorSource, scaling_factor: float, size: int) -> Config:
    """The config of a first stage with original names: AutoencoderKL, or VQModel where it has a codebook."""
    levels = consecutive(source, "encoder.down.{}.block.0.norm1.weight")
    attended = [f"encoder.down.{i}.attn.0.norm.weight" in source for i in range(levels)]
    config: Config = {
        "in_channels": sizes(source, "encoder.conv_in.weight", 4)[1],
        "out_channels": sizes(source, "decoder.conv_out.weight", 4)[0],
        "down_block_types": ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attended],
        "up_block_types": ["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in attended[::-1]],
        "block_out_channels": [sizes(source, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)],
        "layers_per_block": consecutive(source, "encoder.down.0.block.{}.norm1.weight"),
        "latent_channels": sizes(source, "decoder.conv_in.weight", 4)[1],
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": size,
        "scaling_factor": scaling_factor,
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in source,
    }
    if "quantize.embedding.weight" in source:
        count, width = sizes(source, "quantize.embedding.weight", 2)
        return config | {"_class_name": "VQModel", "num_vq_embeddings": count, "vq_embed_dim": width}
    used = {f"use_{name}": f"{name}.weight" in source for name in ("quant_conv", "post_quant_conv")}
    return config | {"_class_name": "AutoencoderKL"} | used


def clip_config(source: TensorSource, activation: str) -> Config:
    """The config of a CLIP text encoder with canonical names; its heads are 64 wide in all that were published."""
    vocabulary, width = sizes(source, "embeddings.token_embedding.weight", 2)
    projected = "text_projection.weight" in source
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": sizes(source, "encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": consecutive(source, "encoder.layers.{}.layer_norm1.weight"),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": sizes(source, "embeddings.position_embedding.weight", 2)[0],
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": sizes(source, "text_projection.weight", 2)[0] if projected else width,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def bert_config(source: TensorSource) -> Config:
    """The config of the first latent-diffusion text encoder with canonical names: 8 heads, each 64 wide."""
    vocabulary, width = sizes(source, "embed_tokens.weight", 2)
    return {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "vocab_size": vocabulary,
        "d_model": width,
        "max_position_embeddings": sizes(source, "embed_positions.weight", 2)[0],
        "encoder_layers": consecutive(source, "layers.{}.fc1.weight"),
        "encoder_ffn_dim": sizes(source, "layers.0.fc1.weight", 2)[0],
        "encoder_attention_heads": 8,
        "head_dim": sizes(source, "layers.0.self_attn.q_proj.weight", 2)[0] // 8,
        "activation_function": "gelu",
    }
