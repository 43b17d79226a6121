"""The published models at their full width: the parameters of the original modules, as published.

A case is made of the original's class, its parameters and its inputs. Weights are seeded by the original's names, so a
golden holds names, shapes and a part of the outputs, and no weights. What Stable Diffusion 1.5 is made of has goldens
from diffusers too, in `model_cases.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from golden.family_cases import FOUR, LDM, SD2, SGM, SPATIAL

OPENCLIP = "mlfoundations+open_clip"
DIFFUSERS = "diffusers"
TRANSFORMERS = "transformers"
IP_ADAPTER = "tencent-ailab+IP-Adapter"


KEPT = 2048  # values of an output at most
STRIDES = (1, 7, 31, 101, 307, 1009)  # primes: a stride meets every channel, row and column


def kept(array: np.ndarray) -> np.ndarray:
    """What a golden keeps of an output: all of a small one, else every so-manieth value in C order."""
    stride = next(p for p in STRIDES if array.size <= KEPT * p)
    return array if stride == 1 else array.ravel()[::stride]


@dataclass(frozen=True)
class Published:
    """One published model: which repository judges it, its parameters there, the inputs, and what is recognised.

    `kind` is how the original is called: unet, first_stage, bert, open_clip, vision, ip_adapter, or a class of
    diffusers. `inputs` are
    shapes filled by `seeded_input`, or numbers as they are. `family` is what tinyldm recognises the file as.
    """

    kind: str
    repository: str
    parameters: dict[str, Any]
    inputs: dict[str, Any]
    family: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def unet(family: str, repository: str, size: int = 8, tokens: int = 77, **parameters: Any) -> Published:
    """A UNet of an original repository, on latents of `size` × `size`."""
    own = {"in_channels": 4, "out_channels": 4, "num_res_blocks": 2} | parameters
    inputs: dict[str, Any] = {"z": (1, own["in_channels"], size, size), "t": [321]}
    context = own.get("context_dim")
    if context:
        inputs["context"] = (1, tokens, context[0] if isinstance(context, list) else context)
    if own.get("num_classes") == 1000:
        inputs["class_labels"] = [20]
    if own.get("num_classes") == "sequential":
        numbers = (own["adm_in_channels"] - 1280) // 256
        inputs |= {"text_embeds": (1, 1280), "time_ids": [[1024.0, 768.0, 0.0, 16.0, 1024.0, 1024.0][:numbers]]}
    return Published("unet", repository, own, inputs, family)


def first_stage(z_channels: int, ch_mult: list[int], attended: list[int] | None = None, **more: Any) -> Published:
    """A first stage, on pictures of 32 × 32; `codebook` is the number of its entries."""
    codebook = more.pop("codebook", None)
    parameters = {
        "z_channels": z_channels,
        "ch_mult": ch_mult,
        "attn_resolutions": attended or [],
        "double_z": codebook is None,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "num_res_blocks": 2,
        "dropout": 0.0,
        **more,
    }
    side = 32 // 2 ** (len(ch_mult) - 1)
    inputs = {"pixels": (1, 3, 32, 32), "z": (1, z_channels, side, side)}
    return Published("first_stage", LDM, parameters, inputs, "vq" if codebook else "kl", {"codebook": codebook})


def bert(n_embed: int, n_layer: int, vocab_size: int = 30522, max_seq_len: int = 77) -> Published:
    """The first text encoder, which reads captions or, of the layout model, boxes."""
    ids = [101, 1037, 6302, 1997, 1037, 4937, 102, *[0] * (max_seq_len - 7)]
    parameters = {"n_embed": n_embed, "n_layer": n_layer, "vocab_size": vocab_size, "max_seq_len": max_seq_len}
    return Published("bert", LDM, parameters, {"ids": [ids]})


def open_clip(repository: str, width: int, layers: int) -> Published:
    """An OpenCLIP text tower as Stable Diffusion 2 or XL reads it; the text ends with id 49407, zeros follow."""
    ids = [49406, 320, 1125, 539, 320, 2368, 49407, *[0] * 70]
    return Published("open_clip", repository, {"width": width, "layers": layers, "heads": width // 64}, {"ids": [ids]})


def vision(hidden_size: int, layers: int, intermediate_size: int, projection_dim: int) -> Published:
    """A CLIP image encoder of OpenCLIP's, as transformers has it, which IP-Adapters are trained with."""
    config = {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "projection_dim": projection_dim,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
    }
    return Published("vision", TRANSFORMERS, config, {"clip_pixels": (1, 3, 224, 224)}, "image-encoder")


def ip_adapter(unet: str, class_name: str, embeds: tuple[int, ...], **parameters: Any) -> Published:
    """An IP-Adapter: the original's class that makes the tokens, and the published UNet (`configs/`) it is made for."""
    own = {"unet": unet, "class": class_name, **parameters}
    return Published("ip_adapter", IP_ADAPTER, own, {"embeds": embeds}, "ip-adapter")


def of_diffusers(kind: str, config: dict[str, Any], **inputs: Any) -> Published:
    """A model of which diffusers is the original, with its published config."""
    return Published(kind, DIFFUSERS, config, inputs)


SD1 = {"model_channels": 320, "num_heads": 8, "context_dim": 768, "legacy": False, **FOUR, **SPATIAL}
SD2_UNET = {
    "model_channels": 320,
    "num_head_channels": 64,
    "context_dim": 1024,
    "use_linear_in_transformer": True,
    "legacy": False,
    **FOUR,
    **SPATIAL,
}
XL = {
    "num_classes": "sequential",
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "attention_resolutions": [4, 2],
    "spatial_transformer_attn_type": "softmax",
}
RESAMPLER = {"depth": 4, "dim_head": 64, "num_queries": 16, "embedding_dim": 1280, "ff_mult": 4}
VQ4 = {"in_channels": 3, "out_channels": 3, "attention_resolutions": [8, 4, 2]}
ASYMMETRIC = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "down_block_out_channels": [128, 256, 512, 512],
    "layers_per_down_block": 2,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": 256,
}
PIXELS = {"pixels": (1, 3, 32, 32), "z": (1, 4, 4, 4)}
LCM_INPUTS = {"z": (1, 4, 8, 8), "t": [499], "context": (1, 77, 768), "guidance": (1, 256)}

FULL_WIDTH: dict[str, Published] = {
    "sd1-unet": unet("stable-diffusion-1", LDM, **SD1),
    "sd1-inpainting-unet": unet("stable-diffusion-1-inpainting", LDM, in_channels=9, **SD1),
    "sd2-unet": unet("stable-diffusion-2", SD2, **SD2_UNET),
    "sd2-inpainting-unet": unet("stable-diffusion-2-inpainting", SD2, in_channels=9, **SD2_UNET),
    "sd2-depth-unet": unet("stable-diffusion-2-depth", SD2, in_channels=5, **SD2_UNET),
    "sd2-text-encoder": open_clip(SD2, 1024, 24),
    "x4-upscaler-unet": unet(
        "stable-diffusion-x4-upscaler",
        SD2,
        in_channels=7,
        model_channels=256,
        num_classes=1000,
        num_heads=8,
        context_dim=1024,
        use_linear_in_transformer=True,
        legacy=False,
        attention_resolutions=[2, 4, 8],
        channel_mult=[1, 2, 2, 4],
        disable_self_attentions=[True, True, True, False],
        disable_middle_self_attn=False,
        **SPATIAL,
    ),
    "x4-upscaler-vae": first_stage(4, [1, 2, 4]),
    "sdxl-unet": unet(
        "stable-diffusion-xl",
        SGM,
        model_channels=320,
        adm_in_channels=2816,
        context_dim=2048,
        channel_mult=[1, 2, 4],
        transformer_depth=[1, 2, 10],
        **XL,
    ),
    "sdxl-text-encoder-2": open_clip(SGM, 1280, 32),
    "sdxl-refiner-unet": unet(
        "stable-diffusion-xl-refiner",
        SGM,
        model_channels=384,
        adm_in_channels=2560,
        context_dim=[1280] * 4,
        channel_mult=[1, 2, 4, 4],
        transformer_depth=4,
        **XL,
    ),
    "ldm-text2img-large-unet": unet("ldm-text2img-large", LDM, **SD1 | {"context_dim": 1280}),
    "ldm-text2img-large-bert": bert(1280, 32),
    "ldm-text2img-256-unet": unet(
        "ldm-text2img-256",
        LDM,
        model_channels=192,
        num_head_channels=32,
        context_dim=640,
        channel_mult=[1, 2, 3, 5],
        **VQ4,
        **SPATIAL,
    ),
    "ldm-text2img-256-bert": bert(640, 32),
    "ldm-cin256-unet": unet(
        "ldm-cin256",
        LDM,
        tokens=1,
        model_channels=256,
        num_head_channels=32,
        context_dim=512,
        attention_resolutions=[4, 2, 1],
        channel_mult=[1, 2, 4],
        **SPATIAL,
    ),
    "ldm-cin256-v2-unet": unet(
        "ldm-cin256-v2",
        LDM,
        tokens=1,
        model_channels=192,
        num_heads=1,
        context_dim=512,
        channel_mult=[1, 2, 3, 5],
        **VQ4,
        **SPATIAL,
    ),
    "ldm-layout2img-unet": unet(
        "ldm-layout2img",
        LDM,
        tokens=92,
        model_channels=128,
        num_head_channels=32,
        context_dim=512,
        channel_mult=[1, 2, 3, 4],
        use_spatial_transformer=True,
        transformer_depth=3,
        **VQ4,
    ),
    "ldm-layout2img-bert": bert(512, 16, vocab_size=8192, max_seq_len=92),
    "ldm-retrieval-768-unet": unet(
        "ldm-retrieval-768",
        LDM,
        tokens=11,
        in_channels=16,
        out_channels=16,
        model_channels=448,
        num_head_channels=32,
        context_dim=768,
        attention_resolutions=[4, 2, 1],
        channel_mult=[1, 2, 3, 4],
        **SPATIAL,
    ),
    "ldm-unconditional-unet": unet(
        "ldm-unconditional", LDM, model_channels=224, num_head_channels=32, channel_mult=[1, 2, 3, 4], **VQ4
    ),
    "ldm-lsun-churches-unet": unet(
        "ldm-lsun-churches",
        LDM,
        size=16,
        model_channels=192,
        num_heads=8,
        attention_resolutions=[1, 2, 4, 8],
        channel_mult=[1, 2, 2, 4, 4],
        use_scale_shift_norm=True,
        resblock_updown=True,
    ),
    "ldm-bsr-sr-unet": unet(
        "ldm-bsr-sr",
        LDM,
        in_channels=6,
        out_channels=3,
        model_channels=160,
        num_head_channels=32,
        attention_resolutions=[16, 8],
        channel_mult=[1, 2, 2, 4],
    ),
    "ldm-semantic-synthesis-unet": unet(
        "ldm-semantic-synthesis",
        LDM,
        in_channels=6,
        out_channels=3,
        model_channels=128,
        num_heads=8,
        attention_resolutions=[32, 16, 8],
        channel_mult=[1, 4, 8],
    ),
    "ldm-inpainting-big-unet": unet(
        "ldm-inpainting-big",
        LDM,
        in_channels=7,
        out_channels=3,
        model_channels=256,
        num_heads=8,
        attention_resolutions=[8, 4, 2],
        channel_mult=[1, 2, 3, 4],
        resblock_updown=True,
    ),
    "kl-f4": first_stage(3, [1, 2, 4]),
    "kl-f8": first_stage(4, [1, 2, 4, 4]),
    "kl-f16": first_stage(16, [1, 1, 2, 2, 4], [16]),
    "kl-f32": first_stage(64, [1, 1, 2, 2, 4, 4], [16, 8]),
    "vq-f4": first_stage(3, [1, 2, 4], codebook=8192),
    "vq-f4-noattn": first_stage(3, [1, 2, 4], codebook=8192, attn_type="none"),
    "vq-f8": first_stage(4, [1, 2, 2, 4], [32], codebook=16384),
    "vq-f8-n256": first_stage(4, [1, 2, 2, 4], [32], codebook=256),
    "vq-f16": first_stage(8, [1, 1, 2, 2, 4], [16], codebook=16384),
    "taesd": of_diffusers("AutoencoderTiny", {}, **PIXELS),
    "asymmetric-x1.5": of_diffusers(
        "AsymmetricAutoencoderKL",
        {**ASYMMETRIC, "up_block_out_channels": [192, 384, 768, 768], "layers_per_up_block": 3},
        **PIXELS,
        image=(1, 3, 32, 32),
        mask=(1, 1, 32, 32),
    ),
    "asymmetric-x2": of_diffusers(
        "AsymmetricAutoencoderKL",
        {**ASYMMETRIC, "up_block_out_channels": [256, 512, 1024, 1024], "layers_per_up_block": 5},
        **PIXELS,
        image=(1, 3, 32, 32),
        mask=(1, 1, 32, 32),
    ),
    "controlnet-sd1": of_diffusers(
        "ControlNetModel",
        {"cross_attention_dim": 768},
        z=(1, 4, 8, 8),
        t=[321],
        context=(1, 77, 768),
        hint=(1, 3, 64, 64),
    ),
    "t2i-sd1": of_diffusers("T2IAdapter", {}, hint=(1, 3, 64, 64)),
    "t2i-sd1-light": of_diffusers(
        "T2IAdapter",
        {"adapter_type": "light_adapter", "channels": [320, 640, 1280], "num_res_blocks": 4},
        hint=(1, 3, 64, 64),
    ),
    "t2i-xl": of_diffusers(
        "T2IAdapter", {"adapter_type": "full_adapter_xl", "downscale_factor": 16}, hint=(1, 3, 64, 64)
    ),
    "image-encoder-h": vision(1280, 32, 5120, 1024),
    "image-encoder-g": vision(1664, 48, 8192, 1280),
    "ip-sd1": ip_adapter("sd15", "ImageProjModel", (1, 1024), cross_attention_dim=768, clip_embeddings_dim=1024),
    "ip-sd1-full": ip_adapter(
        "sd15", "MLPProjModel", (1, 257, 1280), cross_attention_dim=768, clip_embeddings_dim=1280
    ),
    "ip-sd1-plus": ip_adapter("sd15", "Resampler", (1, 257, 1280), dim=768, heads=12, output_dim=768, **RESAMPLER),
    "ip-xl": ip_adapter("sdxl", "ImageProjModel", (1, 1280), cross_attention_dim=2048, clip_embeddings_dim=1280),
    "ip-xl-h": ip_adapter("sdxl", "ImageProjModel", (1, 1024), cross_attention_dim=2048, clip_embeddings_dim=1024),
    "ip-xl-plus": ip_adapter("sdxl", "Resampler", (1, 257, 1280), dim=1280, heads=20, output_dim=2048, **RESAMPLER),
    "sdxs-unet": of_diffusers(
        "UNet2DConditionModel",
        {
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 768,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 1,
            "mid_block_type": None,
        },
        z=(1, 4, 8, 8),
        t=[999],
        context=(1, 77, 768),
    ),
    "lcm-unet": of_diffusers(
        "UNet2DConditionModel", {"cross_attention_dim": 768, "time_cond_proj_dim": 256}, **LCM_INPUTS
    ),
}
