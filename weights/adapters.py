"""What the recipes share that begin with the whole emoji checkpoint: its parts, frozen, and what they learn from."""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "emoji"))

import captions  # noqa: E402
import data  # noqa: E402, F401
from train_autoencoder import as_pixels  # noqa: E402, F401
from train_diffusion import (  # noqa: E402, F401
    DROP_CAPTION,
    Noising,
    add_source_arguments,
    hidden_states,
    load_latents,
    make_scheduler,
)
from training import (  # noqa: E402, F401
    add_training_arguments,
    halved_norms,
    load_average,
    step_generator,
    train,
    trained,
)


class Checkpoint(NamedTuple):
    """The emoji checkpoint, float32, frozen."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    noising: Noising

    def tokens(self, texts: list[str]) -> Tensor:  # -> (N, L)
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return ids.to(self.unet.device)


def arguments_of(description: str, **defaults: float) -> argparse.Namespace:
    """The arguments of a recipe; `--start` is the emoji checkpoint."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, **defaults)
    add_source_arguments(parser)
    parser.set_defaults(start=HERE / "emoji")
    for action in parser._actions:
        action.required = action.required and action.dest != "start"
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    return parser.parse_args()


def load(arguments: argparse.Namespace) -> Checkpoint:
    start, device = arguments.start, arguments.device
    unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    unet.set_attn_processor(AttnProcessor())
    text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32)
    networks: list[Any] = [network.to(device).eval().requires_grad_(False) for network in (unet, text_encoder, vae)]
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    noising = Noising(make_scheduler().alphas_cumprod, 0.3, device)
    return Checkpoint(halved_norms(networks[0]), *networks[1:], tokenizer, noising)


class Draw(NamedTuple):
    """A batch: tokens (N, L), the rows of the bank whose halves are the picture, (N,) each."""

    ids: Tensor
    left: Tensor
    right: Tensor


def draw(drawn: captions.Captions, count: int, empty: Tensor, generator: torch.Generator, dropped: float) -> Draw:
    """Captions and pictures; a share of the captions is dropped."""
    ids, left, right = drawn.batch(count, generator)
    without = torch.rand(count, generator=generator, device=ids.device) < dropped
    return Draw(torch.where(without[:, None], empty, ids), left, right)


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """A UNet's LoRA, float16, as `pytorch_lora_weights.safetensors`, whose header says rank and alpha."""
    lora = get_peft_model_state_dict(unet)
    lora = {name: value.half().contiguous() for name, value in lora.items()}
    config: LoraConfig = unet.peft_config["default"]
    said = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(config.target_modules)}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=lora, unet_lora_adapter_metadata=said)


def lora_layers(unet: UNet2DConditionModel) -> list[str]:
    """Every convolution and every linear layer of its blocks."""
    return [
        name
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and name.startswith(("down_blocks", "mid_block", "up_blocks"))
    ]
