"""Train `emoji-flow`, or print its figures: a normalizing flow of the pictures, by maximum likelihood.

Each 8-bit value is spread over its bin evenly, so the loss is an upper bound of the bits that a value costs.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import first_stages as common  # noqa: E402
from flow import Flow  # noqa: E402

SHAPE = {"channels": 3, "depth": 8, "hidden": 96, "levels": 3, "side": 64}


def dequantized(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels in [-1, 1] to (byte + u) / 256 - 0.5, u uniform in [0, 1)."""
    levels = ((pixels + 1) * 127.5).round()
    return (levels + torch.rand(levels.shape, generator=generator, device=levels.device)) / 256 - 0.5


def loss_of(model: Flow, x: Tensor) -> tuple[Tensor, Tensor]:
    _, log_p = model(x)
    bits = 8 - log_p.mean() / (x[0].numel() * math.log(2))
    return bits, bits


@torch.inference_mode()
def figures(model: Flow, pictures: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [dequantized(part, generator) for part in pictures.split(32)]
    bits = torch.cat([8 - model(x)[1] / (x[0].numel() * math.log(2)) for x in parts])
    error = max((model.inverse(model(x)[0]) - x).abs().max().item() for x in parts[:4])
    print(
        f"bits a dimension: {bits.mean():.3f}, mean over {len(bits)} pictures; largest error of the inverse {error:.1e}"
    )


def export(model: Flow, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "Flow", **SHAPE}, indent=2) + "\n")
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, folder / common.WEIGHTS)


def main() -> None:
    arguments = common.arguments_of(__doc__, HERE, steps=3527, decay=0.6, lr=1e-3, batch=128, part=16)
    pictures = common.load_pictures(arguments)
    torch.manual_seed(arguments.seed)
    model = Flow(**SHAPE)
    if arguments.export:
        state = torch.load(arguments.work / "flow.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state["module"])  # the permutations, which are drawn and not trained
        export(common.averaged("flow", model, arguments.work), arguments.export)
    elif arguments.work:
        generator = torch.Generator().manual_seed(arguments.seed)
        with torch.no_grad():
            chosen = torch.randint(len(pictures), (arguments.batch,), generator=generator)
            model.initialize(dequantized(pictures[chosen], generator))

        device, pixels = arguments.device, pictures.to(arguments.device)

        def batch_of(step: int, over: float) -> tuple[Tensor]:
            generator = common.step_generator(arguments.seed, step, device)
            chosen = torch.randint(len(pixels), (arguments.batch,), generator=generator, device=device)
            return (dequantized(pixels[chosen], generator),)

        common.train("flow", model.to(device), batch_of, loss_of, arguments, average=0.998, weight_decay=0.0)
    else:
        model.load_state_dict(load_file(arguments.model / common.WEIGHTS))
        figures(model.eval(), pictures)


if __name__ == "__main__":
    main()
