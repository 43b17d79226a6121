"""Train the text encoder of the emoji checkpoint to know what a caption looks like, before the UNet sees it.

Stable Diffusion's text encoder is CLIP's, which learned from pictures with captions. Here likewise, by regression: a
linear map of the hidden states at the end token and at the padding behind it predicts the principal components of the
caption's picture in latent space; the last two places predict those of the left and of the right half alone, so that
two things side by side find room. The maps are thrown away afterwards. A caption costs a tenth of what it costs
through the UNet, so this is where composing is learned cheaply.
"""

import argparse

import captions
import torch
from torch import Tensor, nn
from train_diffusion import add_source_arguments, hidden_states, load_latents, load_modules
from training import add_training_arguments, load_average, step_generator, train

COMPONENTS = 128
NAME = "text_encoder"
SAMPLE = 6000  # captions whose latents the components are those of


class Components:
    """Principal components of latents, the large ones reduced (variance to the power 1/2) so that small ones count."""

    def __init__(self, flat: Tensor) -> None:  # (N, D)
        self.mean = flat.mean(0)
        _, sigma, v = torch.linalg.svd(flat - self.mean, full_matrices=False)
        self.map = v[:COMPONENTS].T / sigma[:COMPONENTS].sqrt()
        self.map = self.map / ((flat - self.mean) @ self.map).std()

    def __call__(self, flat: Tensor) -> Tensor:  # (N, D) -> (N, COMPONENTS)
        return (flat - self.mean) @ self.map


def parts_of(z: Tensor) -> list[Tensor]:  # (N, 4, 16, 16) -> the whole, the left half, the right half, each (N, D)
    return [z.flatten(1), z[..., : z.shape[-1] // 2].flatten(1), z[..., z.shape[-1] // 2 :].flatten(1)]


class Regression(nn.Module):
    """The text encoder and the linear maps that read its hidden states."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.heads = nn.ModuleList(nn.Linear(text_encoder.config.hidden_size, COMPONENTS) for _ in range(3))


def loss_of(model: Regression, ids: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error for tokens (N, L) and components (N, 3, COMPONENTS)."""
    hidden = hidden_states(model.text_encoder, ids)
    ended = (ids == model.text_encoder.config.eos_token_id).float()  # what stands there has seen all words
    ended = torch.cat([ended[:, :-2], torch.zeros_like(ended[:, -2:])], 1)
    whole = ((model.heads[0](hidden) - wanted[:, :1]).square().mean(2) * ended).sum() / ended.sum().clamp(min=1)
    halves = [(model.heads[k](hidden[:, -k]) - wanted[:, k]).square().mean() for k in (1, 2)]
    loss = whole + halves[0] + halves[1]
    return loss, loss


def load_regressed(text_encoder: nn.Module, arguments: argparse.Namespace) -> None:
    """Take over what this recipe left in the `--work` folder, if it did."""
    path = arguments.work / f"{NAME}.pt"
    if path.exists():  # the encoder's parameters come first, then its heads'
        average = torch.load(path, map_location=arguments.device, weights_only=True)["average"]
        load_average(text_encoder, average[: len(list(text_encoder.parameters()))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=1200, decay=0.4, lr=1.5e-3, batch=192, part=96)
    add_source_arguments(parser)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = Regression(load_modules(arguments)[1]).to(arguments.device)
    latents, drawn = load_latents(arguments), captions.load_captions(arguments)

    def drawn_latents(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        ids, left, right = drawn.batch(count, generator)
        return ids, captions.beside(latents, left, right).float()

    _, sample = drawn_latents(SAMPLE, step_generator(arguments.seed, -1, arguments.device))
    components = [Components(part) for part in parts_of(sample)]

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        ids, z = drawn_latents(arguments.batch, step_generator(arguments.seed, step, arguments.device))
        return ids, torch.stack([c(part) for c, part in zip(components, parts_of(z), strict=True)], 1)

    train(NAME, model, batch_of, loss_of, arguments, average=0.995)


if __name__ == "__main__":
    main()
