"""Published architectures with random weights: what `--architecture` offers to the commands that measure.

Time, memory and multiply-adds depend on the shapes alone, so nothing has to be downloaded to know them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.cost import WithoutValues
from tinyldm.errors import InputError
from tinyldm.models.build import build, expected
from tinyldm.pipelines.conditioners import choose_conditioner
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.parts import Parts
from tinyldm.runtime import Runtime
from tinyldm.typing import Array

Component = tuple[str, dict[str, Any]]  # the published class, and its config

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


def autoencoder(class_name: str, widths: list[int], **more: Any) -> Component:
    """An autoencoder or VQ model of the usual blocks."""
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": 2,
    }
    return class_name, blocks | more


def clip(width: int, layers: int, heads: int, class_name: str = "CLIPTextModel", **more: Any) -> Component:
    """A CLIP text encoder."""
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return class_name, sizes | {"num_attention_heads": heads, "projection_dim": width} | more


UNET_SD15: Component = ("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768})
KL_F8 = autoencoder("AutoencoderKL", [128, 256, 512, 512], sample_size=512)
VQ_F4 = autoencoder(
    "VQModel", [128, 256, 512], latent_channels=3, num_vq_embeddings=8192, vq_embed_dim=3, sample_size=256
)
CLIP_L = clip(768, 12, 12)
CLIP_H = clip(1024, 23, 16, hidden_act="gelu")  # OpenCLIP's, without its last layer

# As the published config files state them; what is not here is the class's default.
ARCHITECTURES: dict[str, dict[str, Component]] = {
    "sd15": {"text_encoder": CLIP_L, "unet": UNET_SD15, "vae": KL_F8},
    "sd15-taesd": {
        "text_encoder": CLIP_L,
        "unet": UNET_SD15,
        "vae": ("AutoencoderTiny", {}),
    },
    "sd21": {
        "text_encoder": CLIP_H,
        "unet": (
            "UNet2DConditionModel",
            {
                "sample_size": 96,
                "attention_head_dim": [5, 10, 20, 20],
                "cross_attention_dim": 1024,
                "use_linear_projection": True,
            },
        ),
        "vae": autoencoder("AutoencoderKL", [128, 256, 512, 512], sample_size=768),
    },
    "sdxs-512": {  # SDXS-512-0.9: one step, the tiny autoencoder
        "text_encoder": CLIP_H,
        "unet": (
            "UNet2DConditionModel",
            {
                "sample_size": 64,
                "block_out_channels": [320, 640, 1280],
                "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
                "mid_block_type": None,
                "up_block_types": [CROSS_UP, CROSS_UP, "UpBlock2D"],
                "layers_per_block": 1,
                "attention_head_dim": [5, 10, 20],
                "cross_attention_dim": 1024,
                "use_linear_projection": True,
            },
        ),
        "vae": ("AutoencoderTiny", {}),
    },
    "sdxl": {
        "text_encoder": CLIP_L,
        "text_encoder_2": clip(1280, 32, 20, "CLIPTextModelWithProjection", hidden_act="gelu"),
        "unet": (
            "UNet2DConditionModel",
            {
                "sample_size": 128,
                "block_out_channels": [320, 640, 1280],
                "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
                "up_block_types": [CROSS_UP, CROSS_UP, "UpBlock2D"],
                "transformer_layers_per_block": [1, 2, 10],
                "attention_head_dim": [5, 10, 20],
                "cross_attention_dim": 2048,
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
        ),
        "vae": autoencoder("AutoencoderKL", [128, 256, 512, 512], sample_size=1024, scaling_factor=0.13025),
    },
    "ldm-imagenet": {  # class-conditional
        "class_embedder": ("ClassEmbedder", {"num_classes": 1001, "embed_dim": 512}),
        "unet": (
            "UNet2DConditionModel",
            {
                "sample_size": 64,
                "in_channels": 3,
                "out_channels": 3,
                "block_out_channels": [192, 384, 576, 960],
                "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN, CROSS_DOWN],
                "up_block_types": [CROSS_UP, CROSS_UP, CROSS_UP, "UpBlock2D"],
                "attention_head_dim": 1,
                "cross_attention_dim": 512,
            },
        ),
        "vae": VQ_F4,
    },
    "ldm-celebahq": {  # unconditional
        "unet": (
            "UNet2DModel",
            {
                "sample_size": 64,
                "in_channels": 3,
                "out_channels": 3,
                "block_out_channels": [224, 448, 672, 896],
                "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
                "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
                "attention_head_dim": 32,
            },
        ),
        "vae": VQ_F4,
    },
}


class RandomWeights(WithoutValues):
    """Weights of given shapes with random values of a sensible size: enough for time, not for pictures."""

    path = "random weights"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self._noise = np.random.default_rng(0).standard_normal(1 << 20, np.float32)

    def dtype(self, name: str) -> str:
        """The published tag of a weight's type, for what writes them."""
        return "F32"

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> Array:
        """Random values of variance one over the fan-in; ones for the gain of a norm."""
        shape = self.shape(name)
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("weight")), dtype)
        scale = np.float32(1 / math.sqrt(max(1, math.prod(shape[1:]))))
        return (np.resize(self._noise, shape) * scale).astype(dtype, copy=False)


def random_model(architecture: str, runtime: Runtime) -> LatentDiffusion:
    """A published architecture with random weights, without a tokenizer or a noise schedule.

    Raises `InputError` for an architecture that is not known.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture {architecture!r} is unknown; known: {', '.join(ARCHITECTURES)}")
    networks = {
        name: build(class_name, config, RandomWeights(expected(class_name, config)), runtime)
        for name, (class_name, config) in ARCHITECTURES[architecture].items()
    }
    path, unet = Path(architecture), networks["unet"]
    conditioner = choose_conditioner(path, networks, {}, {}, unet, embeds_text=False)
    return LatentDiffusion(Parts(path, networks, {}, {}, runtime, conditioner, networks["vae"], unet))
