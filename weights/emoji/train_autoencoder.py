"""Train the autoencoder of the emoji checkpoint: 64x64x3 pictures to 16x16x4 latents and back.

Before the decay of the learning rate the pictures are moved by a few pixels, and the loss is the L1 distance of pixels
and of their horizontal and vertical differences; during the decay they stay where they are, and it is the logarithm of
each picture's mean squared error, that is, its PSNR.
"""

import argparse
import math
from pathlib import Path

import data
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from training import Average, Run, Workers, add_training_arguments, batch_indices, load_average, step_generator


def make_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=data.SIDE,
        force_upcast=False,
    ).to(memory_format=torch.channels_last)


def load_pictures(arguments: argparse.Namespace) -> Tensor:  # -> (N, 3, 64, 64) float32 in [-1, 1]
    pictures = torch.from_numpy(data.draw(data.read_emoji(arguments.names), arguments.font))
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def shift(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:  # (N, 3, H, W) -> (N, 3, H, W)
    """Move each picture by up to `most` pixels either way; what enters is white."""
    count, _, height, width = pictures.shape
    padded = nn.functional.pad(pictures, (most,) * 4, value=1.0)
    offsets = torch.randint(0, 2 * most + 1, (count, 2), generator=generator).tolist()
    moved = torch.empty_like(pictures)
    for i, (y, x) in enumerate(offsets):
        moved[i] = padded[i, :, y : y + height, x : x + width]
    return moved


def absolute_loss(wanted: Tensor, got: Tensor) -> Tensor:
    """L1 of pixels, and of differences between neighbours, which keeps edges sharp."""
    error = got - wanted
    return error.abs().mean() + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def logarithmic_loss(wanted: Tensor, got: Tensor) -> Tensor:
    """Mean over pictures of ln(MSE): -10/ln 10 times this is the mean PSNR, up to a constant."""
    return (got - wanted).square().mean((1, 2, 3)).add(1e-5).log().mean()


@torch.no_grad()
def standardize(model: AutoencoderKL, pictures: Tensor) -> Tensor:  # (N, 3, 64, 64) -> (N, 4, 16, 16)
    """Fold an affine map into the 1x1 convolutions beside the latent: every channel gets mean 0 and the same spread.

    Sampling starts from noise of mean 0; latents whose mean differs would come out in the wrong colours. Sets the
    scaling factor to 1 / standard deviation, and returns the scaled latents of the pictures.
    """
    latents = torch.cat([model.encode(part).latent_dist.mean for part in pictures.split(32)])
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


def export(work: Path, pictures: Tensor, folder: Path) -> None:
    """Write the averaged weights, standardized, as `vae/` of a published folder, float16."""
    model = make_autoencoder()
    load_average(model, torch.load(work / "autoencoder.pt", map_location="cpu", weights_only=True)["average"])
    standardize(model, pictures)
    model.half().save_pretrained(folder / "vae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=7000, decay=4200, lr=2e-3, batch=128, part=16)
    parser.add_argument("--kl", type=float, default=3e-4, help="weight of KL per latent value beside L1 (%(default)s)")
    parser.add_argument("--kl-log", type=float, default=5e-3, help="the same beside the logarithm (%(default)s)")
    parser.add_argument("--shift", type=int, default=4, help="most pixels a picture is moved (%(default)s)")
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    pictures = load_pictures(arguments)
    if arguments.export:
        export(arguments.work, pictures, arguments.export)
        return
    model = make_autoencoder().to(arguments.device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    workers = Workers(model, arguments.threads, arguments.part)

    def loss_of(replica: AutoencoderKL, batch: Tensor, noise: Tensor, decaying: Tensor) -> tuple[Tensor, float]:
        posterior = replica.encode(batch).latent_dist
        decoded = replica.decode(posterior.mean + posterior.std * noise).sample
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        if decaying.any():
            loss = logarithmic_loss(batch, decoded) + arguments.kl_log * divergence
        else:
            loss = absolute_loss(batch, decoded) + arguments.kl * divergence
        return loss, -10 / math.log(10) * (logarithmic_loss(batch, decoded.detach()).item() - math.log(4))

    run = Run(arguments.work / "autoencoder.pt", model, optimizer, Average(model, 0.998))
    for step in run.steps(arguments):
        generator = step_generator(arguments.seed, step)
        chosen = batch_indices(step, arguments.batch, len(pictures), arguments.seed)
        late = step >= arguments.steps - arguments.decay
        batch = shift(pictures[chosen], 0 if late else arguments.shift, generator)
        noise = torch.randn(len(batch), 4, data.SIDE // 4, data.SIDE // 4, generator=generator)
        decaying = torch.full((len(batch),), late)
        run.note_loss(workers.backward(loss_of, batch, noise, decaying))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print("the logged figure is the PSNR in dB of shifted pictures through sampled latents")


if __name__ == "__main__":
    main()
