"""Train `emoji-lcm`: a LoRA that makes the emoji checkpoint a latent consistency model, for pictures in 1 to 4 steps.

Consistency distillation (Luo et al. 2023, arXiv:2310.04378 and 2311.05556): at two neighbouring times of one way from
noise to picture the student shall predict the same clean latent. The way between them is one step of DDIM by the
teacher, which is the checkpoint itself with guidance, so that the student needs none.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import LCMScheduler
from peft import LoraConfig
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import adapters as common  # noqa: E402

RANK = 24
GUIDANCE = 4.0
GRID = 50  # timesteps between which the teacher steps
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # of the boundary conditions, equation 9 and appendix


def make(unet: nn.Module) -> nn.Module:
    """The UNet with an untrained LoRA in every convolution and every linear layer of its blocks."""
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=common.lora_layers(unet), init_lora_weights="gaussian")
    )
    return unet


class Consistency:
    """The student's prediction of the clean latent, and the teacher's step."""

    def __init__(self, alpha_bar: Tensor) -> None:
        self.alpha_bar = alpha_bar

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt(), (1 - a).sqrt()

    def clean(self, z: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.scales(t)
        return (z - sigma * epsilon) / alpha

    def predicted(self, z: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """c_skip z + c_out x0, which at time 0 is z itself."""
        scaled = (TIMESTEP_SCALING * t).view(-1, 1, 1, 1)
        skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
        return skip * z + out * self.clean(z, epsilon, t)

    def stepped(self, z: Tensor, epsilon: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """DDIM from t to an earlier time."""
        alpha, sigma = self.scales(to)
        return alpha * self.clean(z, epsilon, t) + sigma * epsilon


def export(arguments) -> None:
    """`pytorch_lora_weights.safetensors` and the schedule."""
    unet = make(common.load(arguments).unet.cpu())
    state = torch.load(arguments.work / "lcm.pt", map_location="cpu", weights_only=True)
    common.load_average(unet, state["average"])
    common.save_lora(unet, arguments.export)
    scheduler = LCMScheduler.from_config(json.loads((arguments.start / "scheduler/scheduler_config.json").read_text()))
    scheduler.save_pretrained(arguments.export / "scheduler")
    common.data.forget_paths(arguments.export)
    print(f"wrote {arguments.export} after {state['step']} steps, {state['wall_seconds']:.0f} s of wall")


def main() -> None:
    arguments = common.arguments_of(__doc__, steps=4000, decay=0.6, lr=1e-3, batch=128, part=16)
    if arguments.export:
        export(arguments)
        return
    torch.manual_seed(arguments.seed)
    device = arguments.device
    own, teacher = common.load(arguments), common.load(arguments).unet
    latents, drawn = common.load_latents(arguments), common.captions.load_captions(arguments)
    math, empty = Consistency(own.noising.alpha_bar), own.tokens([""])[0]
    spacing = len(own.noising.alpha_bar) // GRID

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        generator = common.step_generator(arguments.seed, step, device)
        ids, left, right = common.draw(drawn, arguments.batch, empty, generator, 0.0)
        z = common.captions.beside(latents, left, right).float()
        t = torch.randint(1, GRID + 1, (len(ids),), generator=generator, device=device) * spacing - 1
        return ids, z, t, torch.randn(z.shape, generator=generator, device=device)

    def loss_of(student: nn.Module, ids: Tensor, z: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        noisy, to = own.noising.add_noise(z, noise, t), (t - spacing).clamp(min=0)
        half = {"device_type": z.device.type, "dtype": torch.bfloat16}  # two contexts: each keeps its own cast weights
        with torch.no_grad(), torch.autocast(**half):
            context = common.hidden_states(own.text_encoder, ids)
            without = common.hidden_states(own.text_encoder, empty[None]).expand_as(context)
            twice = torch.cat([noisy, noisy]), torch.cat([t, t]), torch.cat([without, context])
            free, given = teacher(*twice).sample.float().chunk(2)
            earlier = math.stepped(noisy, free + GUIDANCE * (given - free), t, to)
            target = math.predicted(earlier, student(earlier, to, context).sample.float(), to)
        with torch.autocast(**half):
            predicted = math.predicted(noisy, student(noisy, t, context).sample.float(), t)
        loss = ((predicted - target).square() + 1e-6).sqrt().mean()
        return loss, loss

    model = make(own.unet).to(device)
    common.train("lcm", model, batch_of, loss_of, arguments, average=0.995, weight_decay=0.0)


if __name__ == "__main__":
    main()
