"""Train the UNet and the text encoder together, on captions that compose.

The loss is the squared error of the predicted noise (Ho et al. 2020, equation 14), with more weight on noisy steps:
there the caption decides what the picture will be, yet the plain loss is smallest. Some of the timesteps are drawn
uniformly: clean steps, which make detail, get more than their weight alone would give them.

`--start` names the folder to begin with. It needs a trained autoencoder; a UNet and a text encoder are taken over where
it has them. A vocabulary with new words takes over the old words' embeddings, and layers added to the text encoder
begin as the identity, so that nothing is lost that an earlier checkpoint knows.
"""

import argparse
from pathlib import Path
from random import Random
from typing import NamedTuple

import captions
import compose
import data
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from training import Average, Run, Workers, add_training_arguments, load_average
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

DROP_CAPTION = 0.1  # how often a caption is replaced by the empty one, for classifier-free guidance
LAYERS = 4


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_tokenizer(emoji: list[data.Emoji]) -> CLIPTokenizer:
    plain = [caption for several in data.all_captions(emoji) for caption in several]
    return data.make_tokenizer(plain + compose.composing_captions())


@torch.no_grad()
def take_over(new: CLIPTextModel, old: CLIPTextModel, old_words: dict[str, int], tokenizer: CLIPTokenizer) -> None:
    """Make the new encoder the old one's function of the words that both know; further layers become the identity."""
    own, known = new.state_dict(), old.state_dict()
    table = next(name for name in own if name.endswith("token_embedding.weight"))
    new.load_state_dict({name: value for name, value in known.items() if name != table}, strict=False)
    for word, i in tokenizer.get_vocab().items():
        if word in old_words:
            own[table][i] = known[table][old_words[word]]
    for name, parameter in new.named_parameters():
        if name not in known and name.endswith(("out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias")):
            parameter.zero_()


class Noising:
    """The forward process, and which timesteps are drawn how often and count how much.

    The weight of timestep t in the loss is min(1 / alpha_bar, 150): close to that of an error in the velocity v. A
    share of the timesteps is drawn uniformly, the others in proportion to sqrt(min(1 / alpha_bar, 100)); the rest of
    the weight is a factor.
    """

    def __init__(self, alpha_bar: Tensor, uniform: float, device: torch.device) -> None:
        alpha_bar = alpha_bar.double()
        density = (1 / alpha_bar).clamp(max=100.0).sqrt()
        density = (1 - uniform) * density / density.sum() + uniform / len(density)
        weight = (1 / alpha_bar).clamp(max=150.0)
        self.alpha_bar = alpha_bar.float().to(device)
        self.cumulative = density.cumsum(0).float().to(device)
        self.factor = (weight / weight.mean() / (density * len(density))).float().to(device)

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:  # -> (count,) int64
        """Stratified: one from each of `count` parts of equal probability."""
        u = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        return torch.searchsorted(self.cumulative, u.to(self.cumulative.device)).clamp(max=len(self.cumulative) - 1)

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt() * z + (1 - a).sqrt() * noise


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=data.SIDE // 4,
        block_out_channels=(64, 128, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=data.MAX_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"
    return CLIPTextModel(config)


class Parts(NamedTuple):
    """What is trained, what it is trained with, and where its captions and latents come from."""

    vae: AutoencoderKL  # frozen
    modules: nn.ModuleList  # UNet and text encoder
    tokenizer: CLIPTokenizer
    captioner: captions.Captioner


def load_parts(arguments: argparse.Namespace) -> Parts:
    device, start = torch.device(arguments.device), arguments.start
    emoji = data.read_emoji(arguments.names)
    tokenizer = make_tokenizer(emoji)
    vae = AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32).to(device).eval()
    unet, text_encoder = make_unet(), make_text_encoder(tokenizer)
    if (start / "unet").is_dir():
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    if (start / "text_encoder").is_dir():
        old = CLIPTextModel.from_pretrained(start / "text_encoder", torch_dtype=torch.float32)
        old_words = CLIPTokenizer.from_pretrained(start / "tokenizer").get_vocab()
        take_over(text_encoder, old, old_words, tokenizer)
    unet.set_attn_processor(AttnProcessor())  # keys are so few that plain products beat the fused kernel
    modules = nn.ModuleList([unet, text_encoder]).to(device).train()

    def make() -> dict[str, np.ndarray]:
        alpha = 1 - data.draw(emoji, arguments.font, mask=True)[..., 0] / 255
        return captions.pictures_of(compose.nouns(emoji), data.draw(emoji, arguments.font), alpha)

    @torch.inference_mode()
    def encode(pixels: Tensor) -> Tensor:
        parts = [vae.encode(part.to(device)).latent_dist.mean for part in pixels.split(16)]
        return torch.cat(parts) * vae.config.scaling_factor

    torch.set_num_threads(1 if device.type == "cpu" else arguments.threads)
    banks = captions.load_banks(arguments.work / "banks.pt", make, encode)
    return Parts(vae, modules, tokenizer, captions.Captioner(emoji, tokenizer, banks, arguments.shares))


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", type=Path, required=True, help="folder of the checkpoint to begin with")
    parser.add_argument(
        "--shares", type=float, nargs=5, default=captions.SHARES, help=f"of {', '.join(captions.KINDS)} (%(default)s)"
    )


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    _, modules, _, captioner = load_parts(arguments)
    unet, text_encoder = modules
    regressed = arguments.work / "text_encoder.pt"
    if regressed.exists():  # what train_text_encoder.py left: the encoder's parameters come first, then its heads'
        average = torch.load(regressed, map_location=device, weights_only=True)["average"]
        load_average(text_encoder, average[: len(list(text_encoder.parameters()))])
    noising = Noising(make_scheduler().alphas_cumprod, arguments.uniform, device)
    empty = torch.tensor(captioner.pad([]))
    groups = [{"params": list(unet.parameters())}, {"params": list(text_encoder.parameters()), "scale": arguments.text}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    workers = Workers(modules, arguments.threads, arguments.part)

    def loss_of(replica: nn.ModuleList, ids: Tensor, z: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, float]:
        unet, text_encoder = replica
        with torch.autocast(device.type, torch.bfloat16):
            predicted = unet(noising.add_noise(z, noise, t), t, text_encoder(ids).last_hidden_state).sample
        loss = ((predicted.float() - noise).square().mean((1, 2, 3)) * noising.factor[t]).mean()
        return loss, loss.item()

    run = Run(arguments.work / "diffusion.pt", modules, optimizer, Average(modules, arguments.average))
    for step in run.steps(arguments):
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_000 + step)
        ids, z = captioner.batch(arguments.batch, Random(arguments.seed * 1_000_000 + step))
        ids[torch.rand(len(ids), generator=generator) < DROP_CAPTION] = empty
        t = noising.draw_timesteps(len(ids), generator)
        noise = torch.randn(z.shape, generator=generator)
        run.note_loss(workers.backward(loss_of, ids, z, t, noise))
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()


def export(arguments: argparse.Namespace) -> None:
    """Write the averaged weights in diffusers' folder layout, float16."""
    vae, modules, tokenizer, captioner = load_parts(arguments)
    state = torch.load(arguments.work / "diffusion.pt", map_location="cpu", weights_only=True)
    unet, text_encoder = modules.cpu()
    load_average(modules, state["average"])
    pipeline = StableDiffusionPipeline(
        vae=vae.cpu(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.export)
    tokenizer.backend_tokenizer.model.save(str(arguments.export / "tokenizer"))  # vocab.json and merges.txt
    known = [item.name for item in captioner.emoji] + [thing.name for thing in captioner.things]
    known = list(dict.fromkeys(known + [" ".join(caption.split()) for caption in compose.composing_captions()]))
    (arguments.export / "captions.txt").write_text("\n".join(known) + "\n", encoding="utf-8")
    print(
        f"wrote {arguments.export} after {state['step']} steps, "
        f"{state['wall_seconds']:.0f} s of wall and {state['cpu_seconds']:.0f} s of processor time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=10000, decay=3500, lr=6e-4, batch=32, part=16)
    add_source_arguments(parser)
    parser.add_argument("--text", type=float, default=1.0, help="learning rate of the text encoder, times the UNet's")
    parser.add_argument("--uniform", type=float, default=0.2, help="share of timesteps drawn uniformly (%(default)s)")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights (%(default)s)")
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
