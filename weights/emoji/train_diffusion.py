"""Train the text encoder and the UNet of the emoji checkpoint together, or export what was trained so far.

The loss is the squared error of the predicted noise (Ho et al. 2020, equation 14), with more weight on noisy steps:
there the caption decides what the picture will be, yet the plain loss is smallest.
"""

import argparse
from pathlib import Path

import data
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from train_autoencoder import load_pictures, make_autoencoder
from training import Average, Run, Workers, add_training_arguments, batch_indices, load_average, step_generator
from transformers import CLIPTextConfig, CLIPTextModel

DROP_CAPTION = 0.1  # how often a caption is replaced by the empty one, for classifier-free guidance
WEIGHT_CAP = 50.0
DENSITY_CAP = 25.0


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


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=data.SIDE // 4,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=data.MAX_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class Diffusion(nn.Module):
    """The two models that are trained together."""

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder(tokenizer)
        self.unet = make_unet().to(memory_format=torch.channels_last)

    def forward(self, z: Tensor, t: Tensor, ids: Tensor) -> Tensor:  # (N, 4, 16, 16), (N,), (N, L) -> (N, 4, 16, 16)
        return self.unet(z, t, self.text_encoder(ids).last_hidden_state).sample


@torch.no_grad()
def standardize(model: AutoencoderKL, pictures: Tensor) -> Tensor:  # (N, 3, 64, 64) -> (N, 4, 16, 16)
    """Fold an affine map into the 1x1 convolutions beside the latent: every channel gets mean 0 and the same spread.

    Sampling starts from noise of mean 0; latents whose mean differs would come out in the wrong colours. Sets the
    scaling factor to 1 / standard deviation, and returns the scaled latents of the pictures.
    """
    latents = torch.cat([model.encode(part).latent_dist.mean for part in pictures.split(64)])
    std, mean = torch.std_mean(latents, dim=(0, 2, 3))
    spread = latents.std()
    gain = spread / std
    model.quant_conv.weight[:4] *= gain[:, None, None, None]
    model.quant_conv.bias[:4] = (model.quant_conv.bias[:4] - mean) * gain
    model.quant_conv.bias[4:] += 2 * gain.log()
    model.post_quant_conv.bias += model.post_quant_conv.weight[:, :, 0, 0] @ mean
    model.post_quant_conv.weight /= gain[:, None, None]
    factor = round(1 / spread.item(), 4)
    model.register_to_config(scaling_factor=factor)
    return (latents - mean[:, None, None]) * gain[:, None, None] * factor


def trained_autoencoder(work: Path, pictures: Tensor) -> tuple[AutoencoderKL, Tensor]:
    """The averaged weights that train_autoencoder.py left, standardized, and the scaled latents of all pictures."""
    model = make_autoencoder()
    load_average(model, torch.load(work / "autoencoder.pt", weights_only=True)["average"])
    return model, standardize(model, pictures)


class Noising:
    """The forward process, and which timesteps are drawn how often and count how much.

    The weight of timestep t in the loss is min(1 / alpha_bar, WEIGHT_CAP): close to that of an error in the velocity v.
    Half of it (in logarithm) comes from drawing noisy timesteps more often, the rest from a factor.
    """

    def __init__(self, alpha_bar: Tensor) -> None:
        self.alpha_bar = alpha_bar
        density = (1 / alpha_bar).clamp(max=DENSITY_CAP).sqrt()
        density /= density.sum()
        self.cumulative = density.cumsum(0)
        weight = (1 / alpha_bar).clamp(max=WEIGHT_CAP)
        self.factor = weight / weight.mean() / (density * len(density))

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:  # -> (count,) int64
        """Stratified: one from each of `count` parts of equal probability."""
        u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        return torch.searchsorted(self.cumulative, u).clamp(max=len(self.cumulative) - 1)

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt() * z + (1 - a).sqrt() * noise


def train(arguments: argparse.Namespace) -> None:
    emoji = data.read_emoji(arguments.names)
    tokenizer = data.make_tokenizer(emoji)
    torch.manual_seed(arguments.seed)
    model = Diffusion(tokenizer)
    _, latents = trained_autoencoder(arguments.work, load_pictures(arguments))
    noising = Noising(make_scheduler().alphas_cumprod)
    captions = [caption for captions in data.all_captions(emoji) for caption in captions] + [""]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    print(f"{len(emoji)} pictures, {sum(p.numel() for p in model.parameters())} parameters", flush=True)

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    workers = Workers(model, arguments.threads, arguments.part)

    def loss_of(replica: Diffusion, z: Tensor, t: Tensor, ids: Tensor, noise: Tensor) -> tuple[Tensor, float]:
        loss = ((replica(z, t, ids) - noise).square().mean((1, 2, 3)) * noising.factor[t]).mean()
        return loss, loss.item()

    run = Run(arguments.work / "diffusion.pt", model, optimizer, Average(model, 0.999))
    for step in run.steps(arguments):
        generator = step_generator(arguments.seed, step)
        chosen = batch_indices(step, arguments.batch, len(latents), arguments.seed)
        template = torch.randint(len(data.TEMPLATES), chosen.shape, generator=generator)
        caption = chosen * len(data.TEMPLATES) + template
        caption[torch.rand(chosen.shape, generator=generator) < DROP_CAPTION] = len(captions) - 1
        t = noising.draw_timesteps(len(chosen), generator)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        z = noising.add_noise(latents[chosen], noise, t).contiguous(memory_format=torch.channels_last)
        run.note_loss(workers.backward(loss_of, z, t, ids[caption], noise))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def export(arguments: argparse.Namespace) -> None:
    """Write the averaged weights in diffusers' folder layout, float16."""
    emoji = data.read_emoji(arguments.names)
    tokenizer = data.make_tokenizer(emoji)
    model = Diffusion(tokenizer)
    state = torch.load(arguments.work / "diffusion.pt", weights_only=True)
    load_average(model, state["average"])
    vae, _ = trained_autoencoder(arguments.work, load_pictures(arguments))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.export)
    tokenizer.backend_tokenizer.model.save(str(arguments.export / "tokenizer"))  # vocab.json and merges.txt
    print(
        f"wrote {arguments.export} after {state['step']} steps, "
        f"{state['wall_seconds']:.0f} s of wall and {state['cpu_seconds']:.0f} s of processor time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=10000, decay=3000, lr=1e-3, batch=16)
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
