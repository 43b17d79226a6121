"""Train `emoji-tiny`, or print its figures: a decoder of plain convolutions on the emoji checkpoint's latents.

Encoder and decoder are trained apart, each against the autoencoder's own latents, so that either can take the place of
its half. In the first third the decoder's loss is the L1 distance of pixels and their differences, then the logarithm
of the squared error.

`--start` goes on from weights of this kind with the decoder alone, by the logarithm from the beginning; a decoder with
fewer blocks than `make` gives it gets the rest as blocks that change nothing yet.
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import first_stages as common  # noqa: E402

JITTER = 0.02  # noise on the latents that the decoder learns from


def make() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(48, 48, 48),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(5, 1, 0),
        latent_channels=4,
        scaling_factor=1.0,
    )


def grown(start: AutoencoderTiny) -> AutoencoderTiny:
    """The weights in a decoder of more blocks at the smallest size: those that are added begin as the identity."""
    model = make()
    model.encoder.load_state_dict(start.encoder.state_dict())
    new, old = list(model.decoder.layers), list(start.decoder.layers)
    more = len(new) - len(old)
    place = next(i for i, layer in enumerate(old) if isinstance(layer, nn.Upsample))
    for layer in new[place : place + more]:
        nn.init.zeros_(layer.conv[-1].weight)  # relu(0 + x), and x has been through one: the identity
        nn.init.zeros_(layer.conv[-1].bias)
    for source, target in zip(old, new[:place] + new[place + more :], strict=True):
        target.load_state_dict(source.state_dict())
    model.encoder.requires_grad_(False)
    return model


def loss_of(model: AutoencoderTiny, x: Tensor, z: Tensor, noise: Tensor, late: Tensor) -> tuple[Tensor, Tensor]:
    encoder = next(model.encoder.parameters()).requires_grad
    with torch.autocast(x.device.type, torch.bfloat16):
        decoded = model.decoder(z + JITTER * noise).float()
        encoded = model.encoder(x).float() if encoder else z
    logarithm = common.logarithmic_loss(x, decoded)
    latents = (encoded - z).square().mean((1, 2, 3)).add(1e-4).log().mean()
    loss = latents + torch.lerp(2 * common.absolute_loss(x, decoded), logarithm, late.mean())
    return loss, common.decibels(logarithm)


def multiply_adds(module: nn.Module, x: Tensor) -> int:
    """Those of the convolutions and linear layers of one call."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal total
        total += y.numel() * layer.weight[0].numel()

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return total


@torch.inference_mode()
def figures(model: AutoencoderTiny, pictures: Tensor, device: str) -> None:
    vae = common.autoencoder(device)
    factor = vae.config.scaling_factor
    common.reconstruction(pictures, lambda x: model.decode(model.encode(x).latents).sample, device)
    common.reconstruction(
        pictures, lambda x: model.decode(vae.encode(x).latent_dist.mean * factor).sample, device, "its decoder alone"
    )
    z = torch.zeros(1, 4, 16, 16, device=device)
    own, full = multiply_adds(model.decoder, z), multiply_adds(vae.decoder, z)
    print(f"multiply-adds of the decoder: {own / 1e6:.0f} million, {100 * own / full:.0f} % of the autoencoder's")


def main() -> None:
    arguments = common.arguments_of(__doc__, HERE, start=True, steps=4000, decay=0.7, lr=2e-3, batch=128, part=16)
    pictures = common.load_pictures(arguments)
    if arguments.export:
        common.averaged("tiny", make(), arguments.work).half().save_pretrained(arguments.export)
    elif arguments.work:
        torch.manual_seed(arguments.seed)
        device, count = arguments.device, arguments.batch
        vae = common.autoencoder(device)
        latents = (common.encoded(vae, pictures)[0] * vae.config.scaling_factor).to(device)
        pictures = pictures.to(device)

        def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
            generator = common.step_generator(arguments.seed, step, device)
            chosen = torch.randint(len(pictures), (count,), generator=generator, device=device)
            noise = torch.randn(latents[chosen].shape, generator=generator, device=device)
            late = torch.full((count,), float(arguments.start is not None or over >= 0.3), device=device)
            return pictures[chosen], latents[chosen], noise, late

        model = grown(AutoencoderTiny.from_pretrained(arguments.start)) if arguments.start else make()
        model = model.to(device, memory_format=torch.channels_last)
        common.train("tiny", model, batch_of, loss_of, arguments, average=0.995)
    else:
        model = AutoencoderTiny.from_pretrained(arguments.model, torch_dtype=torch.float32)
        figures(model.to(arguments.device).eval(), pictures, arguments.device)


if __name__ == "__main__":
    main()
