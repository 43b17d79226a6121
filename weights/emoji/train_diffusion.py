"""Train the UNet of the emoji checkpoint, or export what was trained so far.

The loss is the squared error of the predicted noise (Ho et al. 2020, equation 14), with more weight on noisy steps:
there the caption decides what the picture will be, yet the plain loss is smallest.
"""

import argparse
from pathlib import Path

import data
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from train_autoencoder import load_pictures, trained_autoencoder
from train_text_encoder import caption_ids, trained_text_encoder
from training import Average, Run, Workers, add_training_arguments, batch_indices, load_average, step_generator

DROP_CAPTION = 0.1  # how often a caption is replaced by the empty one, for classifier-free guidance


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
    ).to(memory_format=torch.channels_last)


class Noising:
    """The forward process, and which timesteps are drawn how often and count how much.

    The weight of timestep t in the loss is min(1 / alpha_bar, weight_cap): close to that of an error in the velocity v.
    Timestep t is drawn in proportion to sqrt(min(1 / alpha_bar, density_cap)), the rest of its weight is a factor.
    """

    def __init__(self, alpha_bar: Tensor, weight_cap: float, density_cap: float) -> None:
        self.alpha_bar = alpha_bar
        density = (1 / alpha_bar).clamp(max=density_cap).sqrt()
        density /= density.sum()
        self.cumulative = density.cumsum(0)
        weight = (1 / alpha_bar).clamp(max=weight_cap)
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
    model = make_unet()
    _, latents = trained_autoencoder(arguments.work, load_pictures(arguments))
    noising = Noising(make_scheduler().alphas_cumprod, arguments.weight_cap, arguments.density_cap)
    text_encoder = trained_text_encoder(arguments.work, tokenizer)
    with torch.no_grad():  # it is frozen: every caption's hidden states once and for all
        contexts = torch.cat([text_encoder(ids).last_hidden_state for ids in caption_ids(emoji, tokenizer).split(256)])
    print(f"{len(emoji)} pictures, {sum(p.numel() for p in model.parameters())} parameters", flush=True)

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    workers = Workers(model, arguments.threads, arguments.part)

    def loss_of(
        replica: UNet2DConditionModel, z: Tensor, t: Tensor, context: Tensor, noise: Tensor
    ) -> tuple[Tensor, float]:
        loss = ((replica(z, t, context).sample - noise).square().mean((1, 2, 3)) * noising.factor[t]).mean()
        return loss, loss.item()

    run = Run(arguments.work / "diffusion.pt", model, optimizer, Average(model, 0.999))
    for step in run.steps(arguments):
        generator = step_generator(arguments.seed, step)
        chosen = batch_indices(step, arguments.batch, len(latents), arguments.seed)
        template = torch.randint(len(data.TEMPLATES), chosen.shape, generator=generator)
        caption = chosen * len(data.TEMPLATES) + template
        caption[torch.rand(chosen.shape, generator=generator) < DROP_CAPTION] = len(contexts) - 1
        t = noising.draw_timesteps(len(chosen), generator)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        z = noising.add_noise(latents[chosen], noise, t).contiguous(memory_format=torch.channels_last)
        run.note_loss(workers.backward(loss_of, z, t, contexts[caption], noise))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def export(arguments: argparse.Namespace) -> None:
    """Write the averaged weights in diffusers' folder layout, float16."""
    emoji = data.read_emoji(arguments.names)
    tokenizer = data.make_tokenizer(emoji)
    unet = make_unet()
    state = torch.load(arguments.work / "diffusion.pt", weights_only=True)
    load_average(unet, state["average"])
    vae, _ = trained_autoencoder(arguments.work, load_pictures(arguments))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=trained_text_encoder(arguments.work, tokenizer),
        tokenizer=tokenizer,
        unet=unet,
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
    add_training_arguments(parser, steps=10000, decay=3000, lr=1e-3, batch=16, part=8)
    parser.add_argument("--weight-cap", type=float, default=150.0, help="most a timestep counts (%(default)s)")
    parser.add_argument("--density-cap", type=float, default=100.0, help="square of the most it is drawn (%(default)s)")
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
