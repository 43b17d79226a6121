"""Train `emoji-vq`, or print its figures: a VQ-VAE whose latents are 16x16 entries of a codebook of 1,024.

It begins with the emoji checkpoint's autoencoder, whose last two layers of the encoder are joined into one, and with a
codebook from k-means. The loss is the logarithm of each picture's squared error and the codebook's own (van den Oord et
al. 2017, equation 3, with a commitment of 0.25).
"""

import sys
from pathlib import Path

import torch
from diffusers import VQModel
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import first_stages as common  # noqa: E402

CODES = 1024


def make() -> VQModel:
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        sample_size=64,
        num_vq_embeddings=CODES,
        norm_num_groups=8,
        vq_embed_dim=4,
    )


@torch.no_grad()
def begin(model: VQModel, vae: torch.nn.Module, pictures: Tensor) -> None:
    """Take over the autoencoder's weights; the codebook becomes the centres of its latents."""
    state = {k: v for k, v in vae.state_dict().items() if not k.startswith(("encoder.conv_out", "quant_conv"))}
    mix, offset = vae.quant_conv.weight[:4, :, 0, 0], vae.quant_conv.bias[:4]  # of the mean
    state["encoder.conv_out.weight"] = torch.einsum("oi,ikhw->okhw", mix, vae.encoder.conv_out.weight)
    state["encoder.conv_out.bias"] = mix @ vae.encoder.conv_out.bias + offset
    state["quant_conv.weight"] = torch.eye(4)[:, :, None, None]
    state["quant_conv.bias"] = torch.zeros(4)
    model.load_state_dict(state, strict=False)
    points = common.encoded(vae, pictures)[0].permute(0, 2, 3, 1).reshape(-1, 4)
    model.quantize.embedding.weight.copy_(kmeans(points, CODES, rounds=15))


def kmeans(points: Tensor, count: int, rounds: int) -> Tensor:
    """Lloyd's algorithm; a centre without points moves to a random one."""
    centres = points[torch.randperm(len(points))[:count]].clone()
    for _ in range(rounds):
        near = torch.cat([(centres.square().sum(1) - 2 * p @ centres.T).argmin(1) for p in points.split(16384)])
        total = torch.zeros_like(centres).index_add_(0, near, points)
        size = torch.bincount(near, minlength=count)[:, None]
        strays = points[torch.randint(len(points), (count,))]
        centres = torch.where(size > 0, total / size.clamp(min=1), strays)
    return centres


def loss_of(model: VQModel, x: Tensor) -> tuple[Tensor, Tensor]:
    h = model.quant_conv(model.encoder(x))
    flat, book = h.permute(0, 2, 3, 1).reshape(-1, 4), model.quantize.embedding.weight
    code = (book.square().sum(1) - 2 * flat.detach() @ book.detach().T).argmin(1)
    e = book[code].view(len(x), 16, 16, 4).permute(0, 3, 1, 2)
    decoded = model.decoder(model.post_quant_conv(h + (e - h).detach()))  # the gradient passes the codebook by
    logarithm = common.logarithmic_loss(x, decoded)
    of_codes = (e - h.detach()).square().mean() + 0.25 * (e.detach() - h).square().mean()
    return logarithm + of_codes, common.decibels(logarithm)


@torch.inference_mode()
def figures(model: VQModel, pictures: Tensor, device: str) -> None:
    common.reconstruction(pictures, lambda x: model.decode(model.encode(x).latents).sample, device)
    codes = [model.quantize(model.encode(x.to(device)).latents)[2][2].flatten() for x in pictures.split(32)]
    count = torch.bincount(torch.cat(codes), minlength=CODES).double()
    share = count[count > 0] / count.sum()
    entropy = -(share * share.log2()).sum().item()
    print(f"codebook: {len(share)} of {CODES} codes in use, perplexity {2**entropy:.0f}")
    print(f"bits a picture: {16 * 16 * 10} as numbers of codes, {16 * 16 * entropy:.0f} by their entropy")


def main() -> None:
    arguments = common.arguments_of(__doc__, HERE, steps=3467, decay=0.7, lr=1e-3, batch=128, part=16)
    pictures = common.load_pictures(arguments)
    if arguments.export:
        common.averaged("vq", make(), arguments.work).half().save_pretrained(arguments.export)
    elif arguments.work:
        torch.manual_seed(arguments.seed)
        model = make()
        begin(model, common.autoencoder("cpu"), pictures)

        device, pixels = arguments.device, pictures.to(arguments.device)

        def batch_of(step: int, over: float) -> tuple[Tensor]:
            generator = common.step_generator(arguments.seed, step, device)
            chosen = torch.randint(len(pixels), (arguments.batch,), generator=generator, device=device)
            return (pixels[chosen] if over >= 0.3 else common.shift(pixels[chosen], 2, generator),)

        common.train("vq", model.to(device), batch_of, loss_of, arguments, average=0.998)
    else:
        model = VQModel.from_pretrained(arguments.model, torch_dtype=torch.float32).to(arguments.device).eval()
        figures(model, pictures, arguments.device)


if __name__ == "__main__":
    main()
