"""Train the text encoder of the emoji checkpoint to know what a caption looks like, before the UNet sees it.

Stable Diffusion's text encoder is CLIP's, which learned from pictures with captions. Here likewise, by regression: a
linear map of the hidden states at the end token and at the padding behind it predicts the principal components of the
caption's picture in latent space; the last two places predict those of the left and of the right half alone, so that
two things side by side find room. The maps are thrown away afterwards. A caption costs a tenth of what it costs
through the UNet, so this is where composing is learned cheaply.
"""

import argparse
from random import Random

import torch
from torch import Tensor, nn
from train_diffusion import add_source_arguments, load_parts
from training import Average, Run, Workers, add_training_arguments

COMPONENTS = 128
CHECKPOINT = "text_encoder.pt"
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

    def forward(self, ids: Tensor, wanted: Tensor) -> Tensor:  # (N, L), (N, 3, COMPONENTS) -> mean squared error
        hidden = self.text_encoder(ids).last_hidden_state
        ended = (ids == self.text_encoder.config.eos_token_id).float()  # what stands there has seen all words
        ended[:, -2:] = 0
        whole = ((self.heads[0](hidden) - wanted[:, :1]).square().mean(2) * ended).sum() / ended.sum().clamp(min=1)
        halves = [(self.heads[k](hidden[:, -k]) - wanted[:, k]).square().mean() for k in (1, 2)]
        return whole + sum(halves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=1200, decay=500, lr=1.5e-3, batch=192, part=96)
    add_source_arguments(parser)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    _, modules, _, captioner = load_parts(arguments)
    model = Regression(modules[1])
    _, latents = captioner.batch(SAMPLE, Random(arguments.seed - 1))
    components = [Components(part) for part in parts_of(latents)]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    workers = Workers(model, arguments.threads, arguments.part)

    def loss_of(replica: Regression, ids: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
        loss = replica(ids, wanted)
        return loss, loss.item()

    run = Run(arguments.work / CHECKPOINT, model, optimizer, Average(model, 0.995))
    for step in run.steps(arguments):
        ids, z = captioner.batch(arguments.batch, Random(arguments.seed * 1_000_000 + step))
        wanted = torch.stack([c(part) for c, part in zip(components, parts_of(z), strict=True)], 1)
        run.note_loss(workers.backward(loss_of, ids, wanted))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


if __name__ == "__main__":
    main()
