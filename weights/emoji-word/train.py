"""Train `emoji-word`: a learned word for a picture that the emoji checkpoint has never seen, a woman firefighter.

Textual inversion (Gal et al. 2022, arXiv:2208.01618): all networks are frozen, and what is learned are the vectors of
one new word, here of several tokens. The checkpoint's data have the firefighter without a gender only; the word begins
with what the checkpoint makes of "emoji of woman firefighter".
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import adapters as common  # noqa: E402

WORD = "<woman-firefighter>"
SHOWN = common.data.Emoji("\U0001f469\u200d\U0001f692", "woman firefighter", "People & Body", "person-role")
BEGUN = "emoji of woman firefighter"
VECTORS = 4  # as many as it begins with
MOST = 2  # pixels that the picture is moved either way, so that not one picture is learned by heart


class Word(nn.Module):
    """The vectors, and the text encoder that reads them behind the start token."""

    def __init__(self, text_encoder: nn.Module, ids: Tensor) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        table = next(p for name, p in text_encoder.named_parameters() if name.endswith("token_embedding.weight"))
        self.vectors = nn.Parameter(table[ids].detach().clone())

    def context(self, ids: Tensor) -> Tensor:  # (N, L) -> (N, L, D)
        return common.hidden_states(self.text_encoder, ids, {1: self.vectors})


@torch.no_grad()
def shown_latents(own: common.Checkpoint, font: Path) -> Tensor:
    """The picture, moved in every way: (N, 4, 16, 16), scaled."""
    picture = common.as_pixels(torch.from_numpy(common.data.draw([SHOWN], font)).permute(0, 3, 1, 2))
    padded = nn.functional.pad(picture, (MOST,) * 4, value=1.0)
    moves = [(y, x) for y in range(2 * MOST + 1) for x in range(2 * MOST + 1)]
    moved = torch.cat([padded[..., y : y + 64, x : x + 64] for y, x in moves]).to(own.unet.device)
    return own.vae.encode(moved).latent_dist.mean * own.vae.config.scaling_factor


def export(arguments) -> None:
    state = torch.load(arguments.work / "word.pt", map_location="cpu", weights_only=True)
    arguments.export.mkdir(parents=True, exist_ok=True)
    vectors = state["module"]["vectors"].half()
    save_file({WORD: vectors.contiguous()}, arguments.export / "learned_embeds.safetensors", {"format": "pt"})
    print(f"wrote {arguments.export} after {state['step']} steps, {state['wall_seconds']:.0f} s of wall")


def main() -> None:
    arguments = common.arguments_of(__doc__, steps=250, decay=0.5, lr=4e-3, batch=16, part=8)
    if arguments.export:
        export(arguments)
        return
    torch.manual_seed(arguments.seed)
    device, own = arguments.device, common.load(arguments)
    latents = shown_latents(own, arguments.font)
    ids = own.tokens([BEGUN])[0]

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        generator = common.step_generator(arguments.seed, step, device)
        z = latents[torch.randint(len(latents), (arguments.batch,), generator=generator, device=device)]
        noise = torch.randn(z.shape, generator=generator, device=device)
        return ids.expand(len(z), -1), z, own.noising.draw_timesteps(len(z), generator), noise

    def loss_of(word: Word, ids: Tensor, z: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(z.device.type, torch.bfloat16):
            predicted = own.unet(own.noising.add_noise(z, noise, t), t, word.context(ids)).sample.float()
        loss = ((predicted - noise).square().mean((1, 2, 3)) * own.noising.factor[t]).mean()
        return loss, loss

    word = Word(own.text_encoder, ids[1 : 1 + VECTORS]).to(device)
    common.train("word", word, batch_of, loss_of, arguments, average=0.9, weight_decay=0.0)


if __name__ == "__main__":
    main()
