"""Tiny checkpoints in the published folder layout, filled with seeded weights, for tests and the scripts of goldens."""

from __future__ import annotations

import json
from pathlib import Path

from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.golden.seeded import seeded_weight, seeded_weights
from tinyldm.models.build import expected
from tinyldm.text.clip_tokenizer import BYTE_ALPHABET

UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "norm_num_groups": 2,
    "sample_size": 16,
}
ASYMMETRIC_VAE = {
    "_class_name": "AsymmetricAutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "down_block_out_channels": [4, 4, 8, 8],
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "up_block_out_channels": [4, 8, 16, 16],
    "norm_num_groups": 2,
    "sample_size": 64,
}
TEXT_ENCODER = {
    "model_type": "clip_text_model",
    "vocab_size": 514,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "eos_token_id": 513,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}
XL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 40,
    "attention_head_dim": [2, 4],
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 60,
}
# With as many levels as the published ones have, which is what a T2I-Adapter for them is made for.
XL_UNET_3 = {
    **XL_UNET,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16, 16],
    "attention_head_dim": [2, 4, 4],
    "transformer_layers_per_block": [1, 2, 3],
}
REFINER_UNET = {**XL_UNET, "cross_attention_dim": 24, "projection_class_embeddings_input_dim": 52}
TEXT_ENCODER_2 = {
    **TEXT_ENCODER,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 24,
    "projection_dim": 12,
}
XL_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
XL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
REFINER_INDEX = {
    **XL_INDEX,
    "_class_name": "StableDiffusionXLImg2ImgPipeline",
    "force_zeros_for_empty_prompt": False,
    "requires_aesthetics_score": True,
    "text_encoder": [None, None],
    "tokenizer": [None, None],
}
FILES = {
    "diffusers": "diffusion_pytorch_model.safetensors",
    "transformers": "model.safetensors",
    "latent_diffusion": "model.safetensors",
}


def write_sd(folder: Path) -> Path:
    """A Stable Diffusion 1 of about 30,000 weights."""
    return write_folder(folder, INDEX, {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "scheduler": SCHEDULER})


def write_depth(folder: Path) -> Path:
    """A Stable Diffusion whose UNet takes a map of depth behind the latent."""
    parts = {"vae": VAE, "text_encoder": TEXT_ENCODER, "scheduler": SCHEDULER}
    return write_folder(folder, INDEX, {"unet": {**UNET, "in_channels": 5}, **parts})


def write_inpainting(folder: Path) -> Path:
    """A Stable Diffusion whose UNet takes a mask and the latent of the masked picture behind the latent."""
    parts = {"vae": VAE, "text_encoder": TEXT_ENCODER, "scheduler": SCHEDULER}
    return write_folder(folder, INDEX, {"unet": {**UNET, "in_channels": 9}, **parts})


def write_asymmetric(folder: Path) -> Path:
    """A Stable Diffusion whose decoder takes the known part of a picture."""
    index = {**INDEX, "vae": ["diffusers", "AsymmetricAutoencoderKL"]}
    parts = {"unet": UNET, "vae": ASYMMETRIC_VAE, "text_encoder": TEXT_ENCODER, "scheduler": SCHEDULER}
    return write_folder(folder, index, parts)


def write_pix2pix(folder: Path) -> Path:
    """A Stable Diffusion whose UNet takes the latent of the picture to edit behind the latent."""
    parts = {"vae": VAE, "text_encoder": TEXT_ENCODER, "scheduler": SCHEDULER}
    return write_folder(folder, INDEX, {"unet": {**UNET, "in_channels": 8}, **parts})


def write_xl(folder: Path, unet: dict = XL_UNET) -> Path:
    """A Stable Diffusion XL."""
    encoders = {"text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}
    return write_folder(folder, XL_INDEX, {"unet": unet, "vae": VAE, "scheduler": XL_SCHEDULER, **encoders})


def write_xl_pix2pix(folder: Path) -> Path:
    """A Stable Diffusion XL whose UNet takes the latent of the picture to edit behind the latent."""
    parts = {"vae": VAE, "scheduler": XL_SCHEDULER, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}
    return write_folder(folder, XL_INDEX, {"unet": {**XL_UNET, "in_channels": 8}, **parts})


def write_refiner(folder: Path) -> Path:
    """The refiner of a Stable Diffusion XL."""
    parts = {"unet": REFINER_UNET, "vae": VAE, "scheduler": XL_SCHEDULER, "text_encoder_2": TEXT_ENCODER_2}
    return write_folder(folder, REFINER_INDEX, parts)


def write_controlnet(folder: Path, start: int = 0) -> Path:
    """A ControlNet for the Stable Diffusion above; another `start`, other weights."""
    return write_component(folder, CONTROLNET, start)


def write_xl_controlnet(folder: Path, start: int = 0) -> Path:
    """A ControlNet for the Stable Diffusion XL above."""
    return write_component(folder, XL_CONTROLNET, start)


def write_component(folder: Path, config: dict, start: int = 0) -> Path:
    """The folder of one component, with seeded weights; another `start`, other ones."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = expected(config["_class_name"], config)
    weights = {name: seeded_weight(f"{start}{name}", shape) for name, shape in shapes.items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights)
    return folder


def write_image_encoder(folder: Path, **changes: int) -> Path:
    """The folder of a CLIP image encoder, as it is published beside IP-Adapters."""
    folder.mkdir(parents=True)
    config = {**IMAGE_ENCODER, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    weights = seeded_weights(expected("CLIPVisionModelWithProjection", config))
    named = {n if n.startswith("visual") else f"vision_model.{n}": w for n, w in weights.items()}
    write_safetensors(folder / "model.safetensors", named)
    return folder


def write_ip_adapter(file: Path, family: str, kind: str, start: int = 0) -> Path:
    """The file of an IP-Adapter for one of the models above; another `start`, other weights."""
    context, widths = {"sd": (16, [8, 8, 8, 16]), "xl": (40, [16] * 8)}[family]
    shapes = {
        f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight": (w, context) for i, w in enumerate(widths) for part in "kv"
    }
    if kind == "projection":
        shapes |= {"proj.weight": (4 * context, 12), "proj.bias": (4 * context,)} | norm_shapes("norm", context)
    elif kind == "full":
        shapes |= {"proj.0.weight": (16, 16), "proj.0.bias": (16,), "proj.2.weight": (context, 16)}
        shapes |= {"proj.2.bias": (context,)} | norm_shapes("proj.3", context)
    else:
        shapes |= resampler_shapes(context)
    named = {n if n.startswith("ip_adapter") else f"image_proj.{n}": shape for n, shape in shapes.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(file, {name: seeded_weight(f"{start}{name}", shape) for name, shape in named.items()})
    return file


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Weight and bias of a norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def resampler_shapes(context: int, width: int = 10, layers: int = 4) -> dict[str, tuple[int, ...]]:
    """The resampler of an IP-Adapter "plus", of two heads."""
    shapes = {"latents": (1, 5, width), "proj_in.weight": (width, 16), "proj_in.bias": (width,)}
    shapes |= {"proj_out.weight": (context, width), "proj_out.bias": (context,)} | norm_shapes("norm_out", context)
    for i in range(layers):
        a, f = f"layers.{i}.0", f"layers.{i}.1"
        shapes |= norm_shapes(f"{a}.norm1", width) | norm_shapes(f"{a}.norm2", width) | norm_shapes(f"{f}.0", width)
        shapes |= {
            f"{a}.to_q.weight": (128, width),
            f"{a}.to_kv.weight": (256, width),
            f"{a}.to_out.weight": (width, 128),
        }
        shapes |= {f"{f}.1.weight": (4 * width, width), f"{f}.3.weight": (width, 4 * width)}
    return shapes


def write_folder(folder: Path, index: dict, configs: dict[str, dict]) -> Path:
    """Write a folder with the components of an index, each from its config and seeded weights."""
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, entry in index.items():
        if not isinstance(entry, list) or entry[0] is None:
            continue
        library, class_name = entry
        if name.startswith("tokenizer"):
            (write_word_pieces if class_name == "BertTokenizer" else write_tokenizer)(folder / name)
            continue
        (folder / name).mkdir()
        if name.endswith("scheduler"):
            (folder / name / "scheduler_config.json").write_text(json.dumps(configs[name]))
            continue
        (folder / name / "config.json").write_text(json.dumps(configs[name]))
        weights = seeded_weights(expected(class_name, configs[name]))
        prefix = "text_model." if class_name.startswith("CLIP") else "model." if name == "bert" else ""
        named = {n if n.startswith("text_projection") else f"{prefix}{n}": w for n, w in weights.items()}
        write_safetensors(folder / name / FILES[library], named)
    return folder


def write_word_pieces(folder: Path) -> None:
    """A BERT vocabulary of a few letters."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in WORD_PIECES))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True})
    )


def write_tokenizer(folder: Path) -> None:
    """A vocabulary of bytes alone, and the two special tokens."""
    tokens = [*BYTE_ALPHABET, *(s + "</w>" for s in BYTE_ALPHABET), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "<|endoftext|>"})
    )


CONTROLNET = {
    "_class_name": "ControlNetModel",
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "conditioning_embedding_out_channels": [4, 8],
}
T2I_ADAPTER = {"_class_name": "T2IAdapter", "in_channels": 1, "channels": [8, 16], "downscale_factor": 2}
XL_T2I_ADAPTER = {
    **{"_class_name": "T2IAdapter", "adapter_type": "full_adapter_xl", "downscale_factor": 4},
    "channels": [8, 16, 16, 16],
}
IMAGE_ENCODER = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 14,
    "patch_size": 4,
    "hidden_act": "gelu",
}
XL_CONTROLNET = {
    **{name: value for name, value in XL_UNET.items() if name not in ("sample_size", "up_block_types")},
    "_class_name": "ControlNetModel",
    "conditioning_embedding_out_channels": [4, 8],
}
# The models distilled to few steps, and what else differs in a schedule.
TURBO_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
XL_TURBO_SCHEDULER = {
    "_class_name": "EulerAncestralDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}
LCM_SCHEDULER = {
    "_class_name": "LCMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
}
ZERO_SNR_SCHEDULER = {
    **SCHEDULER,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
SD2_UNET = {**UNET, "attention_head_dim": [2, 4], "use_linear_projection": True, "cross_attention_dim": 24}
SD2_TEXT_ENCODER = {**TEXT_ENCODER, "hidden_act": "gelu", "hidden_size": 24}
LCM_UNET = {**UNET, "time_cond_proj_dim": 16}
# Pruned: one residual block a level, no attention at the largest size, no middle.
SDXS_UNET = {
    **UNET,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "mid_block_type": None,
}
TINY_VAE = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 2],
    "num_decoder_blocks": [2, 1],
}


def write_sd2(folder: Path, scheduler: dict) -> Path:
    """A Stable Diffusion 2 with a schedule: the turbo one, or one that ends in pure noise."""
    index = {**INDEX, "scheduler": ["diffusers", scheduler["_class_name"]]}
    parts = {"unet": SD2_UNET, "vae": VAE, "text_encoder": SD2_TEXT_ENCODER, "scheduler": scheduler}
    return write_folder(folder, index, parts)


def write_xl_turbo(folder: Path) -> Path:
    """A Stable Diffusion XL Turbo."""
    index = {**XL_INDEX, "scheduler": ["diffusers", XL_TURBO_SCHEDULER["_class_name"]]}
    encoders = {"text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}
    return write_folder(folder, index, {"unet": XL_UNET, "vae": VAE, "scheduler": XL_TURBO_SCHEDULER, **encoders})


def write_lcm(folder: Path) -> Path:
    """A latent consistency model with an embedding of the guidance scale."""
    index = {**INDEX, "_class_name": "LatentConsistencyModelPipeline", "scheduler": ["diffusers", "LCMScheduler"]}
    parts = {"unet": LCM_UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "scheduler": LCM_SCHEDULER}
    return write_folder(folder, index, parts)


def write_sdxs(folder: Path) -> Path:
    """An SDXS: a pruned UNet with a tiny autoencoder."""
    index = {**INDEX, "vae": ["diffusers", "AutoencoderTiny"], "scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    parts = {"unet": SDXS_UNET, "vae": TINY_VAE, "text_encoder": TEXT_ENCODER, "scheduler": TURBO_SCHEDULER}
    return write_folder(folder, index, parts)


BERT = {
    "architectures": ["LDMBertModel"],
    "model_type": "ldmbert",
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 77,
}
WORD_PIECES = [
    *["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    *"abcdefghijklmnop",
    *(f"##{c}" for c in "abcdefghijklmnop"),
]
LDM_TEXT_INDEX = {
    "_class_name": "LDMTextToImagePipeline",
    "bert": ["latent_diffusion", "LDMBertModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vqvae": ["diffusers", "AutoencoderKL"],
}
LDM_TEXT_SCHEDULER = {**SCHEDULER, "beta_start": 0.00085, "steps_offset": 0}


def write_ldm_text(folder: Path) -> Path:
    """A text model of the first latent-diffusion kind, with its own text encoder and BERT's tokenizer."""
    parts = {"unet": UNET, "vqvae": VAE, "bert": BERT, "scheduler": LDM_TEXT_SCHEDULER}
    return write_folder(folder, LDM_TEXT_INDEX, parts)


UNET_2D = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
VQ = {
    "_class_name": "VQModel",
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "norm_num_groups": 2,
    "latent_channels": 3,
    "num_vq_embeddings": 16,
    "sample_size": 16,
    "scaling_factor": 1.0,
}
LDM_INDEX = {
    "_class_name": "LDMPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
    "vqvae": ["diffusers", "VQModel"],
}


def write_ldm(folder: Path) -> Path:
    """An unconditional model of the first latent-diffusion kind, over a VQ first stage."""
    return write_folder(folder, LDM_INDEX, {"unet": UNET_2D, "vqvae": VQ, "scheduler": SCHEDULER})


def write_x4(folder: Path) -> Path:
    """An upscaler that is shown the small picture with noise of a level, which it is told."""
    unet = {**SD2_UNET, "in_channels": 7, "num_class_embeds": 1000, "only_cross_attention": [True, False]}
    noise = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    index = {
        **INDEX,
        "_class_name": "StableDiffusionUpscalePipeline",
        "low_res_scheduler": ["diffusers", "DDPMScheduler"],
        "max_noise_level": 350,
    }
    parts = {
        "unet": unet,
        "vae": {**VAE, "scaling_factor": 0.08333},
        "text_encoder": SD2_TEXT_ENCODER,
        "scheduler": {**SCHEDULER, "prediction_type": "v_prediction", **noise},
        # Another one than the UNet's, to be told apart.
        "low_res_scheduler": {"_class_name": "DDPMScheduler", **noise, "beta_end": 0.03},
    }
    return write_folder(folder, index, parts)


def write_super_resolution(folder: Path) -> Path:
    """An upscaler of the first latent-diffusion kind, which is shown the small picture as it is."""
    index = {**LDM_INDEX, "_class_name": "LDMSuperResolutionPipeline"}
    return write_folder(folder, index, {"unet": {**UNET_2D, "in_channels": 6}, "vqvae": VQ, "scheduler": SCHEDULER})


def write_ldm_inpainting(folder: Path) -> Path:
    """An inpainting model of the first latent-diffusion kind: behind the latent that of the picture, and the mask."""
    return write_folder(folder, LDM_INDEX, {"unet": {**UNET_2D, "in_channels": 7}, "vqvae": VQ, "scheduler": SCHEDULER})


def write_segments(folder: Path) -> Path:
    """A semantic-synthesis model: behind the latent a map of five classes, brought to its size."""
    index = {**LDM_INDEX, "spatial_rescaler": ["latent_diffusion", "SpatialRescaler"]}
    rescaler = {"_class_name": "SpatialRescaler", "in_channels": 5, "out_channels": 3, "n_stages": 1}
    parts = {"unet": {**UNET_2D, "in_channels": 6}, "vqvae": VQ, "scheduler": SCHEDULER, "spatial_rescaler": rescaler}
    return write_folder(folder, index, parts)
