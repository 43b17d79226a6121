"""Train `emoji-pixels`: the same kind of UNet on 64x64x3 pixels, with the emoji checkpoint's text encoder, frozen.

There is no autoencoder. What stands in its place only subtracts each channel's mean and divides by its standard
deviation, since a diffusion ends in noise of mean 0 and variance 1.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import adapters as common  # noqa: E402


def make() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 48, 80, 112, 144),
        down_block_types=("DownBlock2D",) * 3 + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    unet.set_attn_processor(AttnProcessor())
    return common.halved_norms(unet)


def scaling_of(bank: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of the plain pictures, rounded to what the config says."""
    plain = common.as_pixels(bank[: len(common.data.read_emoji())])
    std, mean = torch.std_mean(plain, dim=(0, 2, 3))
    return mean.mul(1e4).round() / 1e4, std.mul(1e4).round() / 1e4


def export(arguments) -> None:
    """A published folder; `vae/` holds the scaling."""
    unet = make()
    state = torch.load(arguments.work / "pixels.pt", map_location="cpu", weights_only=True)
    common.load_average(unet, state["average"])
    folder = arguments.export
    unet.half().save_pretrained(folder / "unet")
    for part in ("text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(arguments.start / part, folder / part, dirs_exist_ok=True)
    mean, std = scaling_of(common.captions.load_bank(arguments))
    (folder / "vae").mkdir(exist_ok=True)
    save_file({"mean": mean, "std": std}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "PixelScaling", "sample_size": 64}
    (folder / "vae" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    index = json.loads((arguments.start / "model_index.json").read_text())
    index["vae"] = ["tinyldm", "PixelScaling"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    common.data.forget_paths(folder)
    print(f"wrote {folder} after {state['step']} steps, {state['wall_seconds']:.0f} s of wall")


def main() -> None:
    arguments = common.arguments_of(__doc__, steps=10000, decay=0.6, lr=1e-3, batch=128, part=16)
    if arguments.export:
        export(arguments)
        return
    torch.manual_seed(arguments.seed)
    device, own = arguments.device, common.load(arguments)
    bank, drawn = common.captions.load_bank(arguments).to(device), common.captions.load_captions(arguments)
    mean, std = (value.to(device)[:, None, None] for value in scaling_of(bank.cpu()))
    empty = own.tokens([""])[0]

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        generator = common.step_generator(arguments.seed, step, device)
        ids, left, right = common.draw(drawn, arguments.batch, empty, generator, common.DROP_CAPTION)
        x = (common.as_pixels(common.captions.beside(bank, left, right)) - mean) / std
        noise = torch.randn(x.shape, generator=generator, device=device)
        return ids, x, own.noising.draw_timesteps(len(ids), generator), noise

    def loss_of(unet: nn.Module, ids: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16):
            context = common.hidden_states(own.text_encoder, ids)
            predicted = unet(own.noising.add_noise(x, noise, t), t, context).sample.float()
        loss = ((predicted - noise).square().mean((1, 2, 3)) * own.noising.factor[t]).mean()
        return loss, loss

    common.train("pixels", make().to(device).train(), batch_of, loss_of, arguments, average=0.999)


if __name__ == "__main__":
    main()
