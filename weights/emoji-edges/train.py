"""Train `emoji-edges`: a ControlNet for the emoji checkpoint that follows edges, white on black, of 64x64 pictures.

Source: Zhang et al. 2023, arXiv:2302.05543. Half of the captions are dropped, so that the edges alone must say
something. The edges are Canny's, of the grey picture, with the usual thresholds.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import adapters as common  # noqa: E402

DROPPED = 0.5
THRESHOLDS = (100, 200)


def make(unet: nn.Module) -> ControlNetModel:
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))
    control.set_attn_processor(AttnProcessor())
    return common.halved_norms(control.requires_grad_(True))


def edges_of(bank: Tensor) -> Tensor:  # (N, 3, 64, 64) uint8 -> (N, 1, 64, 64) uint8, 0 or 255
    pictures = bank.permute(0, 2, 3, 1).numpy()
    found = [cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), *THRESHOLDS) for picture in pictures]
    return torch.from_numpy(np.stack(found))[:, None]


def export(arguments) -> None:
    control = make(common.load(arguments).unet.cpu())
    state = torch.load(arguments.work / "edges.pt", map_location="cpu", weights_only=True)
    common.load_average(control, state["average"])
    control.half().save_pretrained(arguments.export)
    common.data.forget_paths(arguments.export)
    print(f"wrote {arguments.export} after {state['step']} steps, {state['wall_seconds']:.0f} s of wall")


def main() -> None:
    arguments = common.arguments_of(__doc__, steps=4000, decay=0.6, lr=1e-3, batch=128, part=16)
    if arguments.export:
        export(arguments)
        return
    torch.manual_seed(arguments.seed)
    device, own = arguments.device, common.load(arguments)
    latents, drawn = common.load_latents(arguments), common.captions.load_captions(arguments)
    edges, empty = edges_of(common.captions.load_bank(arguments)).to(device), own.tokens([""])[0]

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        generator = common.step_generator(arguments.seed, step, device)
        ids, left, right = common.draw(drawn, arguments.batch, empty, generator, DROPPED)
        z = common.captions.beside(latents, left, right).float()
        seen = common.captions.beside(edges, left, right).expand(-1, 3, -1, -1) / 255
        noise = torch.randn(z.shape, generator=generator, device=device)
        return ids, z, seen, own.noising.draw_timesteps(len(ids), generator), noise

    def loss_of(
        control: nn.Module, ids: Tensor, z: Tensor, seen: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        noisy = own.noising.add_noise(z, noise, t)
        with torch.autocast(z.device.type, torch.bfloat16):
            context = common.hidden_states(own.text_encoder, ids)
            down, middle = control(noisy, t, context, seen, return_dict=False)
            predicted = own.unet(
                noisy, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
        loss = ((predicted.float() - noise).square().mean((1, 2, 3)) * own.noising.factor[t]).mean()
        return loss, loss

    common.train("edges", make(own.unet).to(device).train(), batch_of, loss_of, arguments, average=0.995)


if __name__ == "__main__":
    main()
