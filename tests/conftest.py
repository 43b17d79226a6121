"""What many tests share: a tiny checkpoint in the published folder layout, filled with seeded weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models import text_encoder, unet_config, vae
from tinyldm.models.tokenizer import byte_alphabet

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


def shapes(config: dict, kind: type, parameters, component: str) -> dict[str, tuple[int, ...]]:
    """The weights that a published config asks for."""
    from tinyldm.models.config import read_config

    return dict(parameters(read_config(kind, config, component=component, inert=["model_type"])))


def write_checkpoint(folder: Path) -> Path:
    """Write the tiny checkpoint: about 30,000 weights, in the layout that StableDiffusionPipeline publishes."""
    unet_weights = seeded_weights(shapes(UNET, unet_config.UNetConfig, unet_config.parameters, "unet"))
    vae_weights = seeded_weights(shapes(VAE, vae.AutoencoderConfig, vae.parameters, "vae"))
    text_shapes = shapes(TEXT_ENCODER, text_encoder.TextEncoderConfig, text_encoder.parameters, "text encoder")
    text_weights = {f"text_model.{name}": value for name, value in seeded_weights(text_shapes).items()}
    for name, config, weights, file in (
        ("unet", UNET, unet_weights, "diffusion_pytorch_model.safetensors"),
        ("vae", VAE, vae_weights, "diffusion_pytorch_model.safetensors"),
        ("text_encoder", TEXT_ENCODER, text_weights, "model.safetensors"),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        write_safetensors(folder / name / file, weights)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


def write_tokenizer(folder: Path) -> None:
    """A vocabulary of bytes alone, and the two special tokens."""
    symbols = byte_alphabet()
    tokens = [*symbols, *(s + "</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "<|endoftext|>"})
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, shared by all tests, which must not write to it."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def own_checkpoint(tmp_path: Path) -> Path:
    """The tiny checkpoint, for a test that damages it."""
    return write_checkpoint(tmp_path / "tiny")
