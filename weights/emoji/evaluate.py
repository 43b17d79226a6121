"""Print the figures of the model card.

Reconstruction: each picture through the encoder's mean and the decoder, 8-bit RGB, PSNR, mean over pictures.
Captions of pictures: drawn names, sampled with DDIM and guidance. Retrieval: how often the nearest training picture (L2
on 16x16 averages) is the named one. Likeness: PSNR against it, at guidance 3.
Composing: the captions that were held out, judged as `judge.py` says.
The noise of the k-th caption of a list comes from torch's CPU generator seeded with k.
"""

import argparse
from pathlib import Path

import compose
import data
import judge
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor

LIKENESS_GUIDANCE = 3.0


def to_bytes(pixels: Tensor) -> np.ndarray:  # (N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8
    scaled = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).mul(255).round()
    return scaled.to(torch.uint8).cpu().numpy()


def psnr(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:  # (N, H, W, 3) twice -> (N,)
    """10 log10(255^2 / MSE) of each picture, in dB."""
    error = got.astype(np.float64) - wanted
    return 10 * np.log10(255**2 / np.maximum(np.square(error).mean((1, 2, 3)), 1e-3))


class Sampler:
    """What the pipeline does for each caption alone, done for batches; each picture's noise has its own seed."""

    def __init__(self, model: Path, steps: int, batch: int, device: str) -> None:
        self.pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32).to(device)
        self.pipeline.unet.set_attn_processor(AttnProcessor())
        self.steps, self.batch, self.device = steps, batch, device

    def context(self, captions: list[str]) -> Tensor:  # -> (N, L, D)
        ids = self.pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.pipeline.text_encoder(ids.to(self.device)).last_hidden_state

    def __call__(self, captions: list[str], guidance: float) -> np.ndarray:  # -> (N, 64, 64, 3) uint8
        """Caption k with seed k."""
        parts = [range(k, min(k + self.batch, len(captions))) for k in range(0, len(captions), self.batch)]
        return np.concatenate([self.part([captions[k] for k in seeds], seeds, guidance) for seeds in parts])

    def part(self, captions: list[str], seeds: range, guidance: float) -> np.ndarray:
        pipe = self.pipeline
        shape = (1, 4, data.SIDE // 4, data.SIDE // 4)
        noise = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        z = torch.cat(noise).to(self.device)
        context = torch.cat([self.context([""] * len(captions)), self.context(captions)])
        pipe.scheduler.set_timesteps(self.steps)
        for t in pipe.scheduler.timesteps:
            without, given = pipe.unet(torch.cat([z, z]), t, context).sample.chunk(2)
            z = pipe.scheduler.step(without + guidance * (given - without), t, z).prev_sample
        return to_bytes(pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample)


class Pictures:
    """The originals, and what captions compose with."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.emoji = data.read_emoji(arguments.names)
        self.originals = data.draw(self.emoji, arguments.font)
        self.alpha = 1 - data.draw(self.emoji, arguments.font, mask=True)[..., 0] / 255
        self.things = compose.nouns(self.emoji)
        self.held = compose.held_out(self.things, self.emoji)

    def of(self, n: int) -> np.ndarray:
        return self.originals[self.things[n].index]

    def recoloured(self, n: int, colour: str) -> np.ndarray:
        return compose.recolour(self.of(n), self.alpha[self.things[n].index], colour)


def share(what: str, right: np.ndarray | list[bool]) -> None:
    print(f"{what}: {100 * np.mean(right):.1f} % ({int(np.sum(right))} of {len(right)})", flush=True)


def reconstruction(sampler: Sampler, pictures: Pictures) -> None:
    vae, figures = sampler.pipeline.vae, []
    for part in np.array_split(pictures.originals, max(len(pictures.originals) // 16, 1)):
        pixels = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 127.5 - 1
        mean = vae.encode(pixels.to(sampler.device)).latent_dist.mean
        figures.append(psnr(to_bytes(vae.decode(mean).sample), part))
    all_of_them = np.concatenate(figures)
    print(
        f"reconstruction: {all_of_them.mean():.2f} dB, mean over {len(all_of_them)} pictures "
        f"(least {all_of_them.min():.2f} dB)"
    )


def captioned(sampler: Sampler, pictures: Pictures, count: int, guidance: float) -> list[np.ndarray]:
    chosen = np.random.default_rng(0).permutation(len(pictures.emoji))[:count]
    captions, wanted = [pictures.emoji[i].name for i in chosen], pictures.originals[chosen]
    samples = sampler(captions, guidance)
    found = judge.nearest(judge.averages(samples), judge.averages(pictures.originals))
    share(f"retrieval at guidance {guidance:g}", found == chosen)
    for asked, got in zip(chosen, found, strict=True):
        if asked != got:
            print(f"  {pictures.emoji[asked].name!r} came nearest to {pictures.emoji[got].name!r}")
    milder = sampler(captions, LIKENESS_GUIDANCE)
    print(f"likeness at guidance {LIKENESS_GUIDANCE:g}: PSNR {psnr(milder, wanted).mean():.2f} dB", flush=True)
    return [wanted, samples]


def colours(sampler: Sampler, pictures: Pictures, count: int, guidance: float) -> list[np.ndarray]:
    held = pictures.held.colours[:count]
    wanted = np.stack([pictures.recoloured(n, c) for n, c in held])
    samples = sampler([f"{c} {pictures.things[n].name}" for n, c in held], guidance)
    share("colour right", [judge.same_colour(*two) for two in zip(samples, wanted, strict=True)])
    indices = np.array([pictures.things[n].index for n, _ in held])
    share("thing right", judge.things_right(samples, indices, pictures.originals))
    share("  (of the recoloured originals themselves)", judge.things_right(wanted, indices, pictures.originals))
    return [wanted, samples]


def pairs(sampler: Sampler, pictures: Pictures, count: int, guidance: float) -> list[np.ndarray]:
    held = pictures.held.pairs[:count]
    wanted = np.stack([compose.pair(pictures.of(a), pictures.of(b)) for a, b in held])
    samples = sampler([f"{pictures.things[a].name} and {pictures.things[b].name}" for a, b in held], guidance)
    indices = np.array([[pictures.things[n].index for n in two] for two in held])
    right = judge.halves_right(samples, indices, pictures.originals)
    share("both things of a pair right", right.all(1))
    share("  (left)", right[:, 0])
    share("  (right)", right[:, 1])
    return [wanted, samples]


def places(sampler: Sampler, pictures: Pictures, count: int, guidance: float) -> list[np.ndarray]:
    held = pictures.held.places[:count]
    captions = [compose.ARRANGEMENT_TEMPLATES[a][0].format(pictures.things[n].name) for n, a in held]
    samples = sampler(captions, guidance)
    originals = [pictures.of(n) for n, _ in held]
    right = [judge.same_place(s, o, a) for s, o, (_, a) in zip(samples, originals, held, strict=True)]
    share("size or place right", right)
    shown = [compose.CORNERS[0] if a == "corner" else a for _, a in held]
    wanted = np.stack([compose.arrange(o, a) for o, a in zip(originals, shown, strict=True)])
    return [wanted, samples]


def write_grid(path: Path, blocks: list[list[np.ndarray]], columns: int = 20) -> None:
    """Rows of wanted pictures, each above the row of samples."""
    rows = []
    for wanted, samples in blocks:
        for start in range(0, len(samples), columns):
            for pictures in (wanted, samples):
                row = np.full((columns, data.SIDE, data.SIDE, 3), 255, np.uint8)
                row[: len(pictures[start : start + columns])] = pictures[start : start + columns]
                rows.append(np.hstack(row))
    Image.fromarray(np.vstack(rows)).save(path)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data.add_data_arguments(parser)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="checkpoint (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=200, help="how many names (default: %(default)s)")
    parser.add_argument("--composed", type=int, default=100, help="most of each held-out list (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=4.0, help="guidance scale (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--grid", type=Path, help="also write samples below what was wanted to this PNG")
    parser.add_argument("--no-psnr", action="store_true", help="skip the reconstruction figure")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pictures = Pictures(arguments)
    sampler = Sampler(arguments.model, arguments.steps, arguments.batch, arguments.device)
    if not arguments.no_psnr:
        reconstruction(sampler, pictures)
    blocks = [captioned(sampler, pictures, arguments.captions, arguments.guidance)] if arguments.captions else []
    if arguments.composed:
        for group in (colours, pairs, places):
            blocks.append(group(sampler, pictures, arguments.composed, arguments.guidance))
    if arguments.grid and blocks:
        write_grid(arguments.grid, blocks)


if __name__ == "__main__":
    main()
