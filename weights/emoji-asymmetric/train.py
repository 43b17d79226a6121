"""Train `emoji-asymmetric`, or print its figures: the emoji checkpoint's encoder with a heavier decoder.

The encoder is frozen, so the latents are the checkpoint's own, and the decoder can take the place of its decoder.
Before the decay the loss is the L1 distance of pixels and their differences, then the logarithm of the squared error.
The part of the class that looks at a masked picture is not trained: its weights are zero.
"""

import sys
from pathlib import Path

import torch
from diffusers import AsymmetricAutoencoderKL
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import first_stages as common  # noqa: E402


def make(vae: torch.nn.Module) -> AsymmetricAutoencoderKL:
    """The encoder and the layers beside the latent are the autoencoder's, and frozen."""
    model = AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        down_block_out_channels=(32, 64, 96),
        layers_per_down_block=1,
        up_block_types=("UpDecoderBlock2D",) * 3,
        up_block_out_channels=(48, 96, 128),
        layers_per_up_block=2,
        latent_channels=4,
        sample_size=64,
        norm_num_groups=8,
        scaling_factor=vae.config.scaling_factor,
    )
    model.encoder.load_state_dict(vae.encoder.state_dict())
    model.quant_conv.load_state_dict(vae.quant_conv.state_dict())
    model.post_quant_conv.load_state_dict(vae.post_quant_conv.state_dict())
    for module in (model.encoder, model.quant_conv, model.decoder.condition_encoder):
        module.requires_grad_(False)
    with torch.no_grad():
        for parameter in model.decoder.condition_encoder.parameters():
            parameter.zero_()
    return model


def loss_of(model: AsymmetricAutoencoderKL, x: Tensor, z: Tensor, late: Tensor) -> tuple[Tensor, Tensor]:
    decoded = model.decoder(model.post_quant_conv(z))
    logarithm = common.logarithmic_loss(x, decoded)
    return torch.lerp(common.absolute_loss(x, decoded), logarithm, late.mean()), common.decibels(logarithm)


def main() -> None:
    arguments = common.arguments_of(__doc__, HERE, steps=3953, decay=0.7, lr=2e-3, batch=64, part=16)
    pictures = common.load_pictures(arguments)
    vae = common.autoencoder("cpu")
    if arguments.export:
        common.averaged("asymmetric", make(vae), arguments.work).half().save_pretrained(arguments.export)
    elif arguments.work:
        torch.manual_seed(arguments.seed)
        device, count, pixels = arguments.device, arguments.batch, pictures.to(arguments.device)
        mean, std = (part.to(device) for part in common.encoded(vae, pictures))

        def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
            generator = common.step_generator(arguments.seed, step, device)
            chosen = torch.randint(len(pixels), (count,), generator=generator, device=device)
            z = mean[chosen] + std[chosen] * torch.randn(mean[chosen].shape, generator=generator, device=device)
            return pixels[chosen], z, torch.full((count,), float(over >= 0.3), device=device)

        common.train("asymmetric", make(vae).to(device), batch_of, loss_of, arguments, average=0.995)
    else:
        model = AsymmetricAutoencoderKL.from_pretrained(arguments.model, torch_dtype=torch.float32)
        model = model.to(arguments.device).eval()
        common.reconstruction(
            pictures, lambda x: model.decode(model.encode(x).latent_dist.mean).sample, arguments.device
        )


if __name__ == "__main__":
    main()
