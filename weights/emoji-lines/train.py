"""Train `emoji-lines`: a LoRA that draws everything as black lines on white.

Its pictures are the edges of the checkpoint's own (Canny's, black on white), its captions the plain names, so that the
style needs no word. Source: Hu et al. 2021, arXiv:2106.09685; rank 8 in every attention and every convolution.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import adapters as common  # noqa: E402

RANK = 8
THRESHOLDS = (60, 140)


def make(unet: nn.Module) -> nn.Module:
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=common.lora_layers(unet)))
    return unet


def line_drawings(pictures: Tensor) -> Tensor:  # (N, 3, 64, 64) uint8 -> (N, 3, 64, 64) in [-1, 1]
    found = [cv2.Canny(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), *THRESHOLDS) for p in pictures.permute(0, 2, 3, 1).numpy()]
    return 1 - torch.from_numpy(np.stack(found))[:, None].expand(-1, 3, -1, -1) / 127.5


@torch.no_grad()
def drawn_latents(own: common.Checkpoint, pictures: Tensor) -> Tensor:
    device, factor = own.unet.device, own.vae.config.scaling_factor
    parts = line_drawings(pictures).split(32)
    return torch.cat([own.vae.encode(part.to(device)).latent_dist.mean for part in parts]) * factor


def export(arguments) -> None:
    unet = make(common.load(arguments).unet.cpu())
    state = torch.load(arguments.work / "lines.pt", map_location="cpu", weights_only=True)
    common.load_average(unet, state["average"])
    common.save_lora(unet, arguments.export)
    print(f"wrote {arguments.export} after {state['step']} steps, {state['wall_seconds']:.0f} s of wall")


def main() -> None:
    arguments = common.arguments_of(__doc__, steps=700, decay=0.5, lr=1.5e-3, batch=16, part=8)
    if arguments.export:
        export(arguments)
        return
    torch.manual_seed(arguments.seed)
    device, own = arguments.device, common.load(arguments)
    emoji = common.data.read_emoji(arguments.names)
    latents = drawn_latents(own, common.captions.load_bank(arguments)[: len(emoji)])
    ids, empty = own.tokens([item.name for item in emoji]), own.tokens([""])[0]

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        generator = common.step_generator(arguments.seed, step, device)
        chosen = torch.randint(len(ids), (arguments.batch,), generator=generator, device=device)
        dropped = torch.rand(len(chosen), generator=generator, device=device) < common.DROP_CAPTION
        noise = torch.randn(latents[chosen].shape, generator=generator, device=device)
        asked = torch.where(dropped[:, None], empty, ids[chosen])
        return asked, latents[chosen], own.noising.draw_timesteps(len(chosen), generator), noise

    def loss_of(unet: nn.Module, ids: Tensor, z: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(z.device.type, torch.bfloat16):
            context = common.hidden_states(own.text_encoder, ids)
            predicted = unet(own.noising.add_noise(z, noise, t), t, context).sample.float()
        loss = ((predicted - noise).square().mean((1, 2, 3)) * own.noising.factor[t]).mean()
        return loss, loss

    common.train("lines", make(own.unet), batch_of, loss_of, arguments, average=0.99, weight_decay=0.0)


if __name__ == "__main__":
    main()
