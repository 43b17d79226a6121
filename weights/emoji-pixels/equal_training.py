"""Pixels and latents at equal training: two new UNets, on a few pictures, each for the same time of one processor.

    python weights/emoji-pixels/equal_training.py [--pictures 32] [--minutes 15]

The published `emoji-pixels` had an eighth of the time that the checkpoint had, so that the two say nothing about
quality at equal training. Here both kinds of UNet begin with random weights, learn the same pictures from the same
captions with the same loss, and then draw each picture from its name (25 steps of DDIM, guidance 2). The UNet on
latents is trained once more, for as many examples as the one on pixels saw. Writes what comes out to
equal_training.json beside this file, and to equal_training.png originals and what each drew of them.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import adapters as common  # noqa: E402
import judge  # noqa: E402
from evaluate import psnr, to_bytes  # noqa: E402
from train import make as make_on_pixels  # noqa: E402
from train_autoencoder import load_pictures  # noqa: E402
from train_diffusion import make_unet  # noqa: E402
from training import Average  # noqa: E402

BATCH, RATE, DECAY = 8, 1e-3, 0.6
STEPS, GUIDANCE, SHOWN = 25, 2.0, 16


def on_latents() -> UNet2DConditionModel:
    unet = make_unet()
    unet.set_attn_processor(common.AttnProcessor())
    return common.halved_norms(unet)


def fitted(
    unet: nn.Module, x: Tensor, contexts: Tensor, empty: Tensor, noising: common.Noising, seconds: float, most: int
) -> int:
    """Train for so many seconds of processor time, or `most` examples; leaves the averaged weights. The examples."""
    optimizer = torch.optim.AdamW(unet.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    average, began, step, over = Average(unet.train(), 0.995), time.process_time(), 0, 0.0
    while over < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100, (1 - over) / DECAY)
        generator = common.step_generator(0, step)
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, 1, 1, generator=generator) < common.DROP_CAPTION
        noise, t = torch.randn(x[chosen].shape, generator=generator), noising.draw_timesteps(BATCH, generator)
        with torch.autocast("cpu", torch.bfloat16):
            context = torch.where(dropped, empty, contexts[chosen])
            predicted = unet(noising.add_noise(x[chosen], noise, t), t, context).sample.float()
        loss = ((predicted - noise).square().mean((1, 2, 3)) * noising.factor[t]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        step += 1
        over = max((time.process_time() - began) / seconds, step * BATCH / most)
    common.load_average(unet.eval(), average.mean)
    return step * BATCH


@torch.inference_mode()
def drawn(unet: nn.Module, contexts: Tensor, empty: Tensor, shape: torch.Size) -> Tensor:
    """What it draws of each context, picture k from seed k."""
    scheduler = common.make_scheduler()
    scheduler.set_timesteps(STEPS)
    x = torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(k)) for k in range(len(contexts))])
    for t in scheduler.timesteps:
        guided, free = (
            torch.cat([unet(part, t, c).sample for part, c in zip(x.split(16), context.split(16), strict=True)])
            for context in (contexts, empty.expand_as(contexts))
        )
        x = scheduler.step(free + GUIDANCE * (guided - free), t, x).prev_sample
    return x


def judged(pictures: Tensor, originals: Tensor) -> dict[str, float]:
    """How often the nearest of the originals is the named one, in percent, and the mean PSNR against it."""
    right = judge.nearest(*(judge.averages(to_bytes(x)) for x in (pictures, originals)))
    share = 100 * float((right == np.arange(len(originals))).mean())
    return {"right": round(share), "psnr": round(float(psnr(to_bytes(pictures), to_bytes(originals)).mean()), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=15.0, help="of processor time, each (default: %(default)s)")
    common.data.add_data_arguments(parser)
    arguments = parser.parse_args()
    arguments.start, arguments.device = HERE.parent / "emoji", "cpu"
    torch.set_num_threads(1)
    own, emoji = common.load(arguments), common.data.read_emoji(arguments.names)
    chosen = np.random.default_rng(0).permutation(len(emoji))[: arguments.pictures]
    originals = load_pictures(arguments)[chosen]
    with torch.inference_mode():
        contexts = common.hidden_states(own.text_encoder, own.tokens([emoji[i].name for i in chosen]))
        empty = common.hidden_states(own.text_encoder, own.tokens([""]))
        latents = own.vae.encode(originals).latent_dist.mean * own.vae.config.scaling_factor
    contexts, empty, latents = contexts.clone(), empty.clone(), latents.clone()
    mean, std = originals.mean((0, 2, 3), keepdim=True), originals.std((0, 2, 3), keepdim=True)
    found: dict[str, object] = {"pictures": len(chosen), "minutes": arguments.minutes, "on": platform.machine()}
    rows, seen = [originals], sys.maxsize
    for name in ("pixels", "latents", "latents_equal_examples"):
        torch.manual_seed(0)
        pixels = name == "pixels"
        unet, x = (make_on_pixels(), (originals - mean) / std) if pixels else (on_latents(), latents)
        most = seen if name == "latents_equal_examples" else sys.maxsize
        began = time.process_time()
        examples = fitted(unet, x.contiguous(), contexts, empty, own.noising, 60 * arguments.minutes, most)
        spent = time.process_time() - began
        seen = examples if pixels else seen
        z = drawn(unet, contexts, empty, x.shape[1:])
        with torch.inference_mode():
            picture = z * std + mean if pixels else own.vae.decode(z / own.vae.config.scaling_factor).sample
        rows.append(picture.clamp(-1, 1))
        found[name] = {"examples": examples, "minutes": round(spent / 60, 1), **judged(rows[-1], originals)}
        print(name, found[name], flush=True)
    (HERE / "equal_training.json").write_text(json.dumps(found, indent=2) + "\n")
    sheet = np.vstack([np.hstack(to_bytes(row[:SHOWN])) for row in rows])
    Image.fromarray(sheet).save(HERE / "equal_training.png", optimize=True)


if __name__ == "__main__":
    main()
