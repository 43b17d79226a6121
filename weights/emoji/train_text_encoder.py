"""Train the text encoder of the emoji checkpoint to know what a caption looks like, before the UNet sees it.

Stable Diffusion's text encoder is CLIP's, which learned from pictures with captions and is frozen while the UNet
trains. Here likewise, by regression: a linear map of the hidden state at the end token, and at the padding behind it,
predicts the principal components of the caption's picture in latent space. That map is thrown away afterwards.
"""

import argparse

import data
import torch
from torch import Tensor, nn
from train_autoencoder import load_pictures, trained_autoencoder
from training import Average, Run, Workers, add_training_arguments, load_average, step_generator
from transformers import CLIPTextConfig, CLIPTextModel

COMPONENTS = 128
CHECKPOINT = "text_encoder.pt"


def make_text_encoder(tokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=data.MAX_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class Regression(nn.Module):
    """The text encoder and the linear map that reads its hidden states."""

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder(tokenizer)
        self.head = nn.Linear(128, COMPONENTS)

    def forward(self, ids: Tensor) -> Tensor:  # (N, L) -> (N, L, COMPONENTS)
        return self.head(self.text_encoder(ids).last_hidden_state)


def caption_ids(emoji: list[data.Emoji], tokenizer) -> Tensor:  # -> (pictures * templates + 1, L)
    """The tokens of every caption, picture by picture, and of the empty caption last."""
    captions = [caption for captions in data.all_captions(emoji) for caption in captions] + [""]
    return tokenizer(captions, padding="max_length", return_tensors="pt").input_ids


def targets(latents: Tensor) -> Tensor:  # (N, 4, 16, 16) -> (N + 1, COMPONENTS); the last, of no caption, is 0
    """Principal components, the large ones reduced (variance to the power 1/2) so that the small ones count too."""
    flat = latents.flatten(1) - latents.flatten(1).mean(0)
    _, sigma, v = torch.linalg.svd(flat, full_matrices=False)
    components = flat @ v[:COMPONENTS].T / sigma[:COMPONENTS].sqrt()
    return torch.cat([components / components.std(), torch.zeros(1, COMPONENTS)])


def trained_text_encoder(work, tokenizer) -> CLIPTextModel:
    """The averaged weights that this script left, frozen."""
    model = Regression(tokenizer)
    load_average(model, torch.load(work / CHECKPOINT, weights_only=True)["average"])
    return model.text_encoder.requires_grad_(False).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=2500, decay=1200, lr=1e-3, batch=64, part=32)
    arguments = parser.parse_args()
    emoji = data.read_emoji(arguments.names)
    tokenizer = data.make_tokenizer(emoji)
    torch.manual_seed(arguments.seed)
    model = Regression(tokenizer)
    wanted = targets(trained_autoencoder(arguments.work, load_pictures(arguments))[1])
    ids = caption_ids(emoji, tokenizer)
    workers = Workers(model, arguments.threads, arguments.part)

    def loss_of(replica: Regression, ids: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
        ended = ids == tokenizer.eos_token_id  # the end token and all padding: what stands there has seen all words
        error = (replica(ids) - wanted[:, None]).square().mean(2)
        loss = (error * ended).sum() / ended.sum()
        return loss, loss.item()

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    run = Run(arguments.work / CHECKPOINT, model, optimizer, Average(model, 0.995))
    for step in run.steps(arguments):
        generator = step_generator(arguments.seed, step)
        chosen = torch.randint(len(ids), (arguments.batch,), generator=generator)
        run.note_loss(workers.backward(loss_of, ids[chosen], wanted[chosen // len(data.TEMPLATES)]))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


if __name__ == "__main__":
    main()
