"""Train the autoencoder of the emoji checkpoint: 64x64x3 pictures to 16x16x4 latents and back.

Half of a batch are plain pictures, half composed ones (`captions.py`). In the first part of a run the pictures are
moved by a few pixels, and the loss is the L1 distance of pixels and of their horizontal and vertical differences; then
they stay where they are, and it is the logarithm of each picture's mean squared error, that is, its PSNR.
"""

import argparse
import math
from pathlib import Path

import captions
import data
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from training import add_training_arguments, halved_norms, load_average, step_generator, train

MOST = 4  # pixels that a picture is moved either way


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
    return as_pixels(pictures.permute(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)


def as_pixels(pictures: Tensor) -> Tensor:
    """Bytes as float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def shift(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:  # (N, 3, H, W) -> (N, 3, H, W)
    """Move each picture by up to `most` pixels either way; what enters is white."""
    count, channels, height, width = pictures.shape
    padded = nn.functional.pad(pictures, (most,) * 4, value=1.0)
    device = pictures.device
    offset = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator, device=device)
    y, x = offset[0] + torch.arange(height, device=device), offset[1] + torch.arange(width, device=device)
    n, c = torch.arange(count, device=device)[:, None, None, None], torch.arange(channels, device=device)[:, None, None]
    return padded[n, c, y[:, None, :, None], x[:, None, None, :]]


def absolute_loss(wanted: Tensor, got: Tensor) -> Tensor:
    """L1 of pixels, and of differences between neighbours, which keeps edges sharp."""
    error = got - wanted
    return error.abs().mean() + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def logarithmic_loss(wanted: Tensor, got: Tensor) -> Tensor:
    """Mean over pictures of ln(MSE): -10/ln 10 times this is the mean PSNR, up to a constant."""
    return (got - wanted).square().mean((1, 2, 3)).add(1e-5).log().mean()


@torch.no_grad()
def standardize(model: AutoencoderKL, pictures: Tensor) -> None:  # (N, 3, 64, 64)
    """Fold an affine map into the 1x1 convolutions beside the latent: every channel gets mean 0 and the same spread.

    Sampling starts from noise of mean 0; latents whose mean differs would come out in the wrong colours. Sets the
    scaling factor to 1 / standard deviation.
    """
    device = next(model.parameters()).device
    latents = torch.cat([model.encode(part.to(device)).latent_dist.mean for part in pictures.split(32)])
    std, mean = torch.std_mean(latents, dim=(0, 2, 3))
    spread = latents.std()
    gain = spread / std
    model.quant_conv.weight[:4] *= gain[:, None, None, None]
    model.quant_conv.bias[:4] = (model.quant_conv.bias[:4] - mean) * gain
    model.quant_conv.bias[4:] += 2 * gain.log()
    model.post_quant_conv.bias += model.post_quant_conv.weight[:, :, 0, 0] @ mean
    model.post_quant_conv.weight /= gain[:, None, None]
    model.register_to_config(scaling_factor=round(1 / spread.item(), 4))


def export(arguments: argparse.Namespace) -> None:
    """Write the averaged weights, standardized, as `vae/` of a published folder, float16."""
    model = make_autoencoder().to(arguments.device)
    state = torch.load(arguments.work / "autoencoder.pt", map_location=arguments.device, weights_only=True)
    load_average(model, state["average"])
    if arguments.decoder:
        model.register_to_config(scaling_factor=AutoencoderKL.load_config(arguments.start)["scaling_factor"])
    else:
        standardize(model, load_pictures(arguments))
    model.half().save_pretrained(arguments.export / "vae")
    data.forget_paths(arguments.export)


def loss_of(model: AutoencoderKL, x: Tensor, noise: Tensor, late: Tensor, kl: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the first part where `late` is 0, of the second where it is 1; and the PSNR."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
        mean, logvar = model.quant_conv(model.encoder(x)).float().chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        decoded = model.decoder(model.post_quant_conv(mean + (0.5 * logvar).exp() * noise)).float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    logarithm = logarithmic_loss(x, decoded)
    distance = torch.lerp(absolute_loss(x, decoded), logarithm, late.mean())
    return distance + kl.mean() * divergence, -10 / math.log(10) * (logarithm - math.log(4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=7000, decay=0.6, lr=2e-3, batch=128, part=16)
    captions.add_drawn_argument(parser)
    parser.add_argument("--start", type=Path, help="folder of the autoencoder to begin with (default: a new one)")
    parser.add_argument("--decoder", action="store_true", help="train the decoder alone: latents stay as they are")
    parser.add_argument("--kl", type=float, default=3e-4, help="weight of KL per latent value beside L1 (%(default)s)")
    parser.add_argument("--kl-log", type=float, default=5e-3, help="the same beside the logarithm (%(default)s)")
    parser.add_argument("--late", type=float, default=0.4, help="part of the run before the logarithm (%(default)s)")
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    if arguments.export:
        export(arguments)
        return
    bank, drawn = captions.load_bank(arguments).to(arguments.device), captions.load_captions(arguments)
    model = make_autoencoder()
    if arguments.start:
        model.load_state_dict(AutoencoderKL.from_pretrained(arguments.start).state_dict())
    if arguments.decoder:
        model.encoder.requires_grad_(False), model.quant_conv.requires_grad_(False)
    count, plain, device = arguments.batch, len(data.read_emoji(arguments.names)), arguments.device

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        generator, late = step_generator(arguments.seed, step, device), float(over >= arguments.late)
        _, left, right = drawn.batch(count, generator)
        own = torch.randint(plain, (count // 2,), generator=generator, device=device)
        left[: len(own)] = right[: len(own)] = own
        x = as_pixels(captions.beside(bank, left, right))
        x = x if late else shift(x, MOST, generator)
        noise = torch.randn(count, 4, data.SIDE // 4, data.SIDE // 4, generator=generator, device=device)
        kl = arguments.kl_log if late else arguments.kl
        return x, noise, torch.full((count,), late, device=device), torch.full((count,), kl, device=device)

    train("autoencoder", halved_norms(model).to(device), batch_of, loss_of, arguments, average=0.998)


if __name__ == "__main__":
    main()
