"""Print the figures of the model card: reconstruction PSNR over all pictures and retrieval over drawn captions.

PSNR: each picture through the encoder's mean and the decoder, 8-bit RGB, mean over pictures.
Retrieval: each drawn name sampled with DDIM and guidance, the noise of the k-th name from torch's CPU generator
seeded with k; how often the nearest training picture (L2 on 16x16 averages) is the named one.
"""

import argparse
from pathlib import Path

import data
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor


def to_bytes(pixels: Tensor) -> np.ndarray:  # (N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8
    scaled = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).mul(255).round()
    return scaled.to(torch.uint8).numpy()


def psnr(pipeline: StableDiffusionPipeline, pictures: np.ndarray) -> np.ndarray:  # (N, H, W, 3) -> (N,)
    """10 log10(255^2 / MSE) of each picture's reconstruction, in dB."""
    figures = []
    for part in np.array_split(pictures, len(pictures) // 32):
        pixels = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 127.5 - 1
        mean = pipeline.vae.encode(pixels).latent_dist.mean
        error = to_bytes(pipeline.vae.decode(mean).sample).astype(np.float64) - part
        figures.append(10 * np.log10(255**2 / np.square(error).mean((1, 2, 3))))
    return np.concatenate(figures)


def context_of(pipeline: StableDiffusionPipeline, captions: list[str]) -> Tensor:  # -> (N, L, D)
    ids = pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return pipeline.text_encoder(ids).last_hidden_state


def sample(
    pipeline: StableDiffusionPipeline, captions: list[str], seeds: range, steps: int, guidance: float
) -> np.ndarray:  # -> (N, H, W, 3) uint8
    """What the pipeline does for each caption alone, done for a batch; each picture's noise has its own seed."""
    shape = (1, 4, data.SIDE // 4, data.SIDE // 4)
    z = torch.cat([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds])
    context = torch.cat([context_of(pipeline, [""] * len(captions)), context_of(pipeline, captions)])
    pipeline.scheduler.set_timesteps(steps)
    for t in pipeline.scheduler.timesteps:
        without, given = pipeline.unet(torch.cat([z, z]), t, context).sample.chunk(2)
        z = pipeline.scheduler.step(without + guidance * (given - without), t, z).prev_sample
    return to_bytes(pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample)


def averages(pictures: np.ndarray) -> np.ndarray:  # (N, 64, 64, 3) -> (N, 768)
    """16x16 averages of 4x4 pixels."""
    return pictures.astype(np.float64).reshape(-1, 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(pictures), -1)


def nearest(samples: np.ndarray, pictures: np.ndarray) -> np.ndarray:  # -> (N,) index of the nearest picture
    wanted = averages(pictures)
    return np.array([np.square(wanted - row).sum(1).argmin() for row in averages(samples)])


def write_grid(path: Path, samples: np.ndarray, real: np.ndarray, columns: int = 20) -> None:
    """Rows of samples, each above the row of the real pictures."""
    rows = []
    for start in range(0, len(samples) - columns + 1, columns):
        rows += [np.hstack(samples[start : start + columns]), np.hstack(real[start : start + columns])]
    Image.fromarray(np.vstack(rows)).save(path)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data.add_data_arguments(parser)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="checkpoint (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=200, help="how many names (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=4.0, help="guidance scale (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grid", type=Path, help="also write samples above the real pictures to this PNG")
    parser.add_argument("--no-psnr", action="store_true", help="skip the reconstruction figure")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    emoji = data.read_emoji(arguments.names)
    pictures = data.draw(emoji, arguments.font)
    pipeline = StableDiffusionPipeline.from_pretrained(arguments.model, torch_dtype=torch.float32)
    if not arguments.no_psnr:
        figures = psnr(pipeline, pictures)
        print(f"PSNR {figures.mean():.2f} dB, mean over {len(figures)} pictures (least {figures.min():.2f} dB)")

    chosen = np.random.default_rng(0).permutation(len(emoji))[: arguments.captions]
    samples = np.concatenate(
        [
            sample(
                pipeline,
                [emoji[i].name for i in chosen[k : k + arguments.batch]],
                range(k, min(k + arguments.batch, len(chosen))),
                arguments.steps,
                arguments.guidance,
            )
            for k in range(0, len(chosen), arguments.batch)
        ]
    )
    found = nearest(samples, pictures)
    hits = int((found == chosen).sum())
    print(
        f"retrieval {100 * hits / len(chosen):.1f} % ({hits} of {len(chosen)} captions; "
        f"DDIM {arguments.steps} steps, guidance {arguments.guidance:g})"
    )
    for wanted, got in zip(chosen, found, strict=True):
        if wanted != got:
            print(f"  {emoji[wanted].name!r} came nearest to {emoji[got].name!r}")
    if arguments.grid:
        write_grid(arguments.grid, samples, pictures[chosen])


if __name__ == "__main__":
    main()
