"""Train the UNet and the text encoder together, on captions that compose.

The loss is the squared error of the predicted noise (Ho et al. 2020, equation 14), with more weight on noisy steps:
there the caption decides what the picture will be, yet the plain loss is smallest. Some of the timesteps are drawn
uniformly: clean steps, which make detail, get more than their weight alone would give them.

`--start` names the folder to begin with. It needs a trained autoencoder; a UNet and a text encoder are taken over where
it has them. A vocabulary with new words takes over the old words' embeddings, and layers added to the text encoder
begin as the identity, so that nothing is lost that an earlier checkpoint knows.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import captions
import compose
import data
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from train_autoencoder import as_pixels
from training import add_training_arguments, halved_norms, load_average, step_generator, train
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

DROP_CAPTION = 0.1  # how often a caption is replaced by the empty one, for classifier-free guidance
LAYERS = 4


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def take_over(new: CLIPTextModel, old: CLIPTextModel, old_words: dict[str, int], tokenizer: CLIPTokenizer) -> None:
    """Make the new encoder the old one's function of the words that both know; further layers become the identity."""
    own, known = new.state_dict(), old.state_dict()
    table = next(name for name in own if name.endswith("token_embedding.weight"))
    new.load_state_dict({name: value for name, value in known.items() if name != table}, strict=False)
    for word, i in tokenizer.get_vocab().items():
        if word in old_words:
            own[table][i] = known[table][old_words[word]]
    for name, parameter in new.named_parameters():
        if name not in known and name.endswith(("out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias")):
            parameter.zero_()


class Noising:
    """The forward process, and which timesteps are drawn how often and count how much.

    The weight of timestep t in the loss is min(1 / alpha_bar, 150): close to that of an error in the velocity v. A
    share of the timesteps is drawn uniformly, the others in proportion to sqrt(min(1 / alpha_bar, 100)); the rest of
    the weight is a factor.
    """

    def __init__(self, alpha_bar: Tensor, uniform: float, device: str) -> None:
        alpha_bar = alpha_bar.double()
        density = (1 / alpha_bar).clamp(max=100.0).sqrt()
        density = (1 - uniform) * density / density.sum() + uniform / len(density)
        weight = (1 / alpha_bar).clamp(max=150.0)
        self.alpha_bar = alpha_bar.float().to(device)
        self.cumulative = density.cumsum(0).float().to(device)
        self.factor = (weight / weight.mean() / (density * len(density))).float().to(device)

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:  # -> (count,) int64
        """Stratified: one from each of `count` parts of equal probability."""
        place = torch.randperm(count, generator=generator, device=generator.device)
        u = (place + torch.rand(count, generator=generator, device=generator.device)) / count
        return torch.searchsorted(self.cumulative, u).clamp(max=len(self.cumulative) - 1)

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt() * z + (1 - a).sqrt() * noise


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=data.SIDE // 4,
        block_out_channels=(64, 128, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=data.MAX_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"
    return CLIPTextModel(config)


def hidden_states(
    text_encoder: CLIPTextModel, ids: Tensor, learned: Mapping[int, Tensor] = MappingProxyType({})
) -> Tensor:
    """What `text_encoder(ids).last_hidden_state` is, without its masks, which no CUDA graph can record.

    `(N, L) -> (N, L, D)`. `learned` are vectors `(n, D)` that stand in for those of the tokens from a position on.
    """
    model = getattr(text_encoder, "text_model", text_encoder)
    vectors = model.embeddings.token_embedding(ids)
    for place, own in learned.items():
        rest = [vectors[:, :place], own.expand(len(ids), -1, -1), vectors[:, place + len(own) :]]
        vectors = torch.cat(rest, 1)
    h = model.embeddings(inputs_embeds=vectors)
    for layer in model.encoder.layers:
        own, x = layer.self_attn, layer.layer_norm1(h)
        q, k, v = (
            part(x).unflatten(-1, (own.num_heads, -1)).transpose(1, 2) for part in (own.q_proj, own.k_proj, own.v_proj)
        )
        scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=ids.device).tril()
        weights = scores.masked_fill(~causal, float("-inf")).softmax(-1).to(v.dtype)
        h = h + own.out_proj((weights @ v).transpose(1, 2).flatten(2))
        h = h + layer.mlp(layer.layer_norm2(h))
    return model.final_layer_norm(h)


def load_modules(arguments: argparse.Namespace) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """UNet and text encoder, new, or with what the folder to start with has."""
    start = arguments.start
    tokenizer = captions.make_tokenizer(data.read_emoji(arguments.names))
    unet, text_encoder = make_unet(), make_text_encoder(tokenizer)
    if (start / "unet").is_dir():
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    if (start / "text_encoder").is_dir():
        old = CLIPTextModel.from_pretrained(start / "text_encoder", torch_dtype=torch.float32)
        take_over(text_encoder, old, CLIPTokenizer.from_pretrained(start / "tokenizer").get_vocab(), tokenizer)
    unet.set_attn_processor(AttnProcessor())  # keys are so few that plain products beat the fused kernel
    return halved_norms(unet).to(arguments.device), text_encoder.to(arguments.device)


@torch.inference_mode()
def load_latents(arguments: argparse.Namespace) -> Tensor:  # -> (N, 4, 16, 16) float16
    """The scaled latents of the bank of all pictures, encoded once for a `--work` folder."""
    path = arguments.work / "latents.pt"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(arguments.start / "vae", torch_dtype=torch.float32)
        vae = vae.to(arguments.device).eval()
        parts = captions.load_bank(arguments).split(16 if arguments.device == "cpu" else 256)
        made = [vae.encode(as_pixels(part.to(arguments.device))).latent_dist.mean.half() for part in parts]
        torch.save(torch.cat(made).cpu() * vae.config.scaling_factor, path)
    return torch.load(path, weights_only=True).to(arguments.device)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", type=Path, required=True, help="folder of the checkpoint to begin with")
    captions.add_drawn_argument(parser)


def fit(arguments: argparse.Namespace) -> None:
    from train_text_encoder import load_regressed

    torch.manual_seed(arguments.seed)
    unet, text_encoder = load_modules(arguments)
    load_regressed(text_encoder, arguments)
    latents, drawn = load_latents(arguments), captions.load_captions(arguments)
    noising = Noising(make_scheduler().alphas_cumprod, arguments.uniform, arguments.device)
    emoji = data.read_emoji(arguments.names)
    empty = torch.tensor(captions.Captioner(emoji, captions.make_tokenizer(emoji)).pad([]), device=arguments.device)
    if arguments.compile:
        unet.compile()

    def batch_of(step: int, over: float) -> tuple[Tensor, ...]:
        generator = step_generator(arguments.seed, step, arguments.device)
        ids, left, right = drawn.batch(arguments.batch, generator)
        dropped = torch.rand(len(ids), generator=generator, device=ids.device) < DROP_CAPTION
        z = captions.beside(latents, left, right).float()
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        t = noising.draw_timesteps(len(ids), generator)
        return torch.where(dropped[:, None], empty, ids), z, t, noise

    def loss_of(modules: nn.ModuleList, ids: Tensor, z: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        unet, text_encoder = modules
        with torch.autocast(z.device.type, torch.bfloat16):
            predicted = unet(noising.add_noise(z, noise, t), t, hidden_states(text_encoder, ids)).sample
        loss = ((predicted.float() - noise).square().mean((1, 2, 3)) * noising.factor[t]).mean()
        return loss, loss

    groups = [{"params": list(unet.parameters())}, {"params": list(text_encoder.parameters()), "scale": arguments.text}]
    modules = nn.ModuleList([unet, text_encoder]).train()
    train("diffusion", modules, batch_of, loss_of, arguments, average=arguments.average, groups=groups)


def export(arguments: argparse.Namespace) -> None:
    """Write the averaged weights in diffusers' folder layout, float16."""
    arguments.device = "cpu"
    emoji = data.read_emoji(arguments.names)
    tokenizer = captions.make_tokenizer(emoji)
    state = torch.load(arguments.work / "diffusion.pt", map_location="cpu", weights_only=True)
    unet, text_encoder = modules = nn.ModuleList(load_modules(arguments))
    load_average(modules, state["average"])
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(arguments.start / "vae", torch_dtype=torch.float32),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.export)
    data.forget_paths(arguments.export)
    tokenizer.backend_tokenizer.model.save(str(arguments.export / "tokenizer"))  # vocab.json and merges.txt
    known = [item.name for item in emoji] + [thing.name for thing in compose.nouns(emoji)]
    known = list(dict.fromkeys(known + [" ".join(caption.split()) for caption in compose.composing_captions()]))
    (arguments.export / "captions.txt").write_text("\n".join(known) + "\n", encoding="utf-8")
    times = f"{state['wall_seconds']:.0f} s of wall and {state['cpu_seconds']:.0f} s of processor time"
    print(f"wrote {arguments.export} after {state['step']} steps, {times}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, steps=10000, decay=0.6, lr=6e-4, batch=32, part=16)
    add_source_arguments(parser)
    parser.add_argument("--text", type=float, default=1.0, help="learning rate of the text encoder, times the UNet's")
    parser.add_argument("--uniform", type=float, default=0.3, help="share of timesteps drawn uniformly (%(default)s)")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile the UNet, which pays on an accelerator")
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments)
    else:
        fit(arguments)


if __name__ == "__main__":
    main()
