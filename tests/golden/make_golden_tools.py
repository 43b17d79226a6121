"""Make the goldens of the golden tools with diffusers: `python tests/golden/make_golden_tools.py`.

The tiny checkpoint of the tests (`tests/tiny_checkpoints.py`, seeded weights) runs as a StableDiffusionPipeline in
float64, with the casts to float32 inside the originals lifted (`make_models.lifted`), recorded by the PyTorch recorder:
once as it is, and once with each of eight bugs put in. Needs `pip install ".[golden]"`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MethodType

import torch
from diffusers import StableDiffusionPipeline
from torch.nn import functional

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.make_models import lifted, patches  # noqa: E402
from tiny_checkpoints import write_sd  # noqa: E402

from tinyldm.golden.torch_recorder import TorchRecorder  # noqa: E402
from tinyldm.random import torch_randn  # noqa: E402

RUN = {"prompt": "a", "seed": 3, "steps": 1, "guidance_scale": 4.0}
SAMPLE = 6  # values kept of a tensor
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


def wrong_epsilon(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.mid_block.resnets[0].norm2.eps = 1e-2


def tanh_gelu(pipe: StableDiffusionPipeline) -> None:
    for name, module in pipe.unet.named_modules():
        if name.endswith("ff.net.0"):
            module.gelu = lambda gate: functional.gelu(gate, approximate="tanh")


def transposed_kernel(pipe: StableDiffusionPipeline) -> None:
    weight = pipe.unet.mid_block.resnets[1].conv1.weight
    weight.data = weight.data.transpose(2, 3).contiguous()


def skip_off_by_one(pipe: StableDiffusionPipeline) -> None:
    block = pipe.unet.up_blocks[1]
    forward = block.forward

    def swapped(*args, res_hidden_states_tuple, **kwargs):
        return forward(*args, res_hidden_states_tuple=res_hidden_states_tuple[::-1], **kwargs)

    block.forward = swapped


def missing_scaling_factor(pipe: StableDiffusionPipeline) -> None:
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z, *args, **kwargs: decode(z * pipe.vae.config.scaling_factor, *args, **kwargs)


def wrong_head_size(pipe: StableDiffusionPipeline) -> None:
    class Wrong:
        """Attention scaled by the width of all heads together."""

        def __call__(self, attn, x, encoder_hidden_states=None, **kwargs):
            context = x if encoder_hidden_states is None else encoder_hidden_states
            q, k, v = (f(y) for f, y in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context)))
            split = [y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (q, k, v)]
            h = functional.scaled_dot_product_attention(*split, scale=q.shape[-1] ** -0.5)
            return attn.to_out[1](attn.to_out[0](h.transpose(1, 2).flatten(2)))

    pipe.unet.set_attn_processor(Wrong())


def half_in_one_block(pipe: StableDiffusionPipeline) -> None:
    block = pipe.unet.mid_block.resnets[0]
    forward = type(block).forward

    def half(self, *args, **kwargs):
        self.half()
        y = forward(self, *(a.half() for a in args), **kwargs)
        return y.double()

    block.forward = MethodType(half, block)


def timestep_off_by_one(pipe: StableDiffusionPipeline) -> None:
    def earlier(module, args, kwargs):
        return (args[0], args[1] - 1, *args[2:]), kwargs

    pipe.unet.register_forward_pre_hook(earlier, with_kwargs=True)


# The bug, and which tensors of its run are kept: the module, what comes before it and some of what follows.
BUGS: dict[Callable[[StableDiffusionPipeline], None], str] = {
    wrong_epsilon: "0000/unet/mid_block.resnets.0*",
    tanh_gelu: f"0000/unet/{BLOCK}*",
    transposed_kernel: "0000/unet/mid_block.resnets.1*",
    skip_off_by_one: "0000/unet/up_blocks.1*",
    missing_scaling_factor: "0000/vae*[.t]*[z_v]",
    wrong_head_size: f"0000/unet/{BLOCK}*",
    half_in_one_block: "0000/unet/mid_block*",
    timestep_off_by_one: "0000/unet[:/][tz]*",
}


@contextmanager
def float64() -> Iterator[None]:
    """Compute in float64 throughout, without gradients."""
    with lifted(), torch.no_grad():
        yield


def record(folder: Path, name: str, select: str, bug: Callable[[StableDiffusionPipeline], None] | None) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()  # its steps compute in float32 otherwise
    pipe.scheduler.final_alpha_cumprod = pipe.scheduler.final_alpha_cumprod.double()
    if bug is not None:
        bug(pipe)
    metadata = {
        "versions": {p: version(p) for p in ("torch", "diffusers", "transformers")},
        "patches": [*patches(), "DDIMScheduler.alphas_cumprod: float32 -> float64, values kept"],
        "settings": {"prompt": [RUN["prompt"]], "seed": RUN["seed"], "steps": RUN["steps"]},
        "bug": bug.__name__ if bug else None,
    }
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    path = HERE / "golden_tools" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    latents = torch.from_numpy(torch_randn((1, 4, 8, 8), RUN["seed"])).double()
    with float64(), TorchRecorder(path, select=select, sample=SAMPLE, metadata=metadata, **parts):
        # One batch, unconditional first: the pipeline itself would encode the prompt and then the empty one.
        ids = pipe.tokenizer(["", RUN["prompt"]], padding="max_length", truncation=True, return_tensors="pt").input_ids
        unconditional, conditional = pipe.text_encoder(ids)[0].chunk(2)
        pipe(
            prompt_embeds=conditional,
            negative_prompt_embeds=unconditional,
            num_inference_steps=RUN["steps"],
            guidance_scale=RUN["guidance_scale"],
            latents=latents,
            output_type="np",
        )
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_sd(Path(folder) / "tiny")
        record(checkpoint, "diffusers", "*", None)
        for bug, select in BUGS.items():
            record(checkpoint, bug.__name__, select, bug)


if __name__ == "__main__":
    main()
