"""Make the goldens of the published widths with the original code: `make_full_width.py ORIGINALS [name …]`.

ORIGINALS is a folder as for `make_families.py`; the OpenCLIP towers need the package `open_clip` beside it. A model is
built without memory for its weights; each of its modules is given its seeded weights just before it runs and loses them
right after, so that the largest, of 20 GB in float64, takes little more than its largest layer.
"""

from __future__ import annotations

import ast
import json
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.full_width_cases import DIFFUSERS, FULL_WIDTH, TRANSFORMERS, Published, kept  # noqa: E402
from golden.make_families import (  # noqa: E402
    PATCHES,
    FirstStage,
    asked,
    commit,
    given,
    original_module,
    packed,
    run_autoencoder,
    stand_in,
)
from golden.make_models import lifted, patches  # noqa: E402
from golden.provenance import save_golden  # noqa: E402

from tinyldm.golden.seeded import seeded_weight  # noqa: E402

EMBED = 256  # numbers that a picture's size or score becomes
WHOLE = (nn.MultiheadAttention,)  # modules that use their children's weights without calling them


def lend_weights(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Have every module of a model without memory filled before it runs and emptied after; returns all shapes."""
    for path, module in model.named_modules():
        if any(isinstance(parent, WHOLE) for parent in ancestors(model, path)):
            continue
        owners = list(module.named_modules(prefix=path)) if isinstance(module, WHOLE) else [(path, module)]
        if any(owner._parameters for _, owner in owners):
            module.register_forward_pre_hook(lambda _module, _inputs, owners=owners: fill(owners))
            module.register_forward_hook(lambda _module, _inputs, _output, owners=owners: empty(owners))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def ancestors(model: nn.Module, path: str) -> list[nn.Module]:
    """The modules around the one at `path`."""
    names = path.split(".")[:-1] if path else []
    return [model.get_submodule(".".join(names[: i + 1])) for i in range(len(names))]


def fill(owners: list[tuple[str, nn.Module]]) -> None:
    """Give modules their seeded weights in float64."""
    for path, module in owners:
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                values = seeded_weight(f"{path}.{name}".removeprefix("."), tuple(parameter.shape))
                module._parameters[name] = nn.Parameter(torch.from_numpy(values).double(), requires_grad=False)


def empty(owners: list[tuple[str, nn.Module]]) -> None:
    """Take the weights away again."""
    for _, module in owners:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)


def inputs_of(case: Published) -> dict[str, torch.Tensor]:
    """The inputs of a case: seeded ones in float64, numbers as they are; a mask of ones and zeros."""
    x = {
        name: given(name, value) if isinstance(value, tuple) else torch.tensor(value)
        for name, value in case.inputs.items()
    }
    return x | {"mask": (x["mask"] > 0).double()} if "mask" in x else x


# One function for each kind: (folder of the originals, case, inputs) -> (shapes, outputs) ------------------


def run_unet(originals: Path, case: Published, x: dict[str, torch.Tensor]) -> Any:
    """`z, t, context -> epsilon`."""
    package = "sgm" if case.repository.endswith("generative-models") else "ldm"
    module = original_module(originals, case.repository, f"{package}.modules.diffusionmodules.openaimodel")
    parameters = case.parameters if package == "sgm" else {"image_size": x["z"].shape[-1], **case.parameters}
    with torch.device("meta"):
        model = module.UNetModel(**parameters).double().eval()
    shapes = lend_weights(model)
    more = {"context": x["context"]} if "context" in x else {}
    if "class_labels" in x:
        more["y"] = x["class_labels"]
    if "time_ids" in x:
        util = sys.modules["sgm.modules.diffusionmodules.util"]
        embedded = util.timestep_embedding(x["time_ids"].double().reshape(-1), EMBED).reshape(1, -1)
        more["y"] = torch.cat([x["text_embeds"], embedded], dim=1)
    return shapes, {"epsilon": model(x["z"], x["t"].double(), **more)}


def run_first_stage(originals: Path, case: Published, x: dict[str, torch.Tensor]) -> Any:
    """`pixels -> moments` (or latents) and `z -> decoded`."""
    module = original_module(originals, case.repository, "ldm.modules.diffusionmodules.model")
    with torch.device("meta"):
        model = FirstStage(module, case.parameters, case.more["codebook"]).double().eval()
    shapes = lend_weights(model)
    moments = model.quant_conv(model.encoder(x["pixels"]))
    z = x["z"]
    if case.more["codebook"]:
        fill([("quantize.embedding", model.quantize.embedding)])
        z = model.nearest(z)
    return shapes, {"moments": moments, "decoded": model.decoder(model.post_quant_conv(z))}


def run_bert(originals: Path, case: Published, x: dict[str, torch.Tensor]) -> Any:
    """`ids -> context`."""
    module, p = original_module(originals, case.repository, "ldm.modules.x_transformer"), case.parameters
    with torch.device("meta"):
        layers = module.Encoder(dim=p["n_embed"], depth=p["n_layer"])
        model = module.TransformerWrapper(num_tokens=p["vocab_size"], max_seq_len=p["max_seq_len"], attn_layers=layers)
    shapes = lend_weights(model.double().eval())
    return shapes, {"context": model(x["ids"], return_embeddings=True)}


class TextTower(nn.Module):
    """The part of OpenCLIP's model that Stable Diffusion keeps, under the names that it has there."""

    def __init__(self, transformer: Any, width: int, layers: int, heads: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(77, width))
        self.text_projection = nn.Parameter(torch.empty(width, width))
        self.token_embedding = nn.Embedding(49408, width)
        self.transformer = transformer.Transformer(width=width, layers=layers, heads=heads)
        self.ln_final = transformer.LayerNorm(width)

    @property
    def attn_mask(self) -> torch.Tensor:
        """Each token sees those before it."""
        return torch.full((77, 77), float("-inf"), dtype=torch.float64).triu_(1)


def run_open_clip(originals: Path, case: Published, x: dict[str, torch.Tensor]) -> Any:
    """`ids -> context`, and pooled of the XL models, as the original's embedder reads OpenCLIP's tower."""
    transformer = open_clip_module()
    xl = case.repository.endswith("generative-models")
    package = "sgm" if xl else "ldm"
    for name in ("kornia", "clip", "pytorch_lightning"):
        stand_in(name)
    original_module(originals, case.repository, f"{package}.util")
    if xl:  # a class that its embedder imports by way of a package, and does not need
        stand_in("sgm.modules.autoencoding.regularizers", DiagonalGaussianRegularizer=object)
    module = import_module(f"{package}.modules.encoders.modules")
    kind = module.FrozenOpenCLIPEmbedder2 if xl else module.FrozenOpenCLIPEmbedder
    embedder = kind.__new__(kind)
    nn.Module.__init__(embedder)
    with torch.device("meta"):
        embedder.model = TextTower(transformer, **case.parameters).double().eval()
    embedder.layer, embedder.layer_idx, embedder.legacy = "penultimate", 1, False
    shapes = lend_weights(embedder.model)
    fill([("", embedder.model)])
    out = embedder.encode_with_transformer(x["ids"])
    return shapes, {"context": out["penultimate"], "pooled": out["pooled"]} if xl else {"context": out}


def open_clip_module() -> Any:
    """`open_clip.transformer` without the rest of its package, which wants torchvision."""
    package = next(Path(p) / "open_clip" for p in sys.path if (Path(p) / "open_clip" / "transformer.py").is_file())
    spec = ModuleSpec("open_clip", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    sys.modules["open_clip"] = module_from_spec(spec)
    wanted = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    for name in wanted:
        stand_in(name, FrozenBatchNorm2d=object)
    transformer = import_module("open_clip.transformer")
    for name in wanted:
        del sys.modules[name]
    return transformer


def run_diffusers(_originals: Path, case: Published, x: dict[str, torch.Tensor]) -> Any:
    """A model of diffusers with what its kind takes and gives."""
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, case.kind).from_config(case.parameters).double().eval()
    for buffer, value in list(model.named_buffers()):
        assert not value.is_meta, f"{buffer} has no values"
    shapes = lend_weights(model)
    with lifted():
        if "pixels" in x:
            return shapes, run_autoencoder(model, x)
        if "z" not in x:
            return shapes, {f"feature {i}": feature for i, feature in enumerate(model(x["hint"]))}
        if "hint" in x:
            down, middle = model(x["z"], x["t"][0], x["context"], x["hint"], return_dict=False)
            return shapes, {f"residual {i:02}": r for i, r in enumerate([*down, middle])}
        return shapes, {"epsilon": model(x["z"], x["t"][0], x["context"], timestep_cond=x.get("guidance")).sample}


def run_vision(_originals: Path, case: Published, x: dict[str, torch.Tensor]) -> Any:
    """`clip_pixels -> embeds, tokens` of the last layer but one."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.device("meta"):
        model = CLIPVisionModelWithProjection._from_config(
            CLIPVisionConfig(**case.parameters), attn_implementation="eager"
        )
    model = model.double().eval()
    embeddings = model.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    shapes = lend_weights(model)
    with lifted():
        out = model(x["clip_pixels"], output_hidden_states=True)
    return shapes, {"embeds": out.image_embeds, "tokens": out.hidden_states[-2]}


class IPAdapter(nn.Module):
    """The modules of the original's checkpoint: what makes tokens, and one for each attention of the UNet."""

    def __init__(self, originals: Path, case: Published):
        from diffusers import UNet2DConditionModel

        super().__init__()
        parameters = dict(case.parameters)
        config = json.loads((HERE / "configs" / f"{parameters.pop('unet')}_unet.json").read_text())
        folder, unet = originals / case.repository / "ip_adapter", UNet2DConditionModel.from_config(config)
        classes: dict[str, Any] = {"torch": torch, "nn": nn}
        for name in ("resampler", "ip_adapter", "attention_processor"):
            text = (folder / f"{name}.py").read_text()
            for old, new in PATCHES.items():
                text = text.replace(old, new)
            wanted = (ast.ClassDef, ast.FunctionDef, *([ast.Import, ast.ImportFrom] if name == "resampler" else []))
            parts = [node for node in ast.parse(text).body if isinstance(node, wanted)]
            exec(compile(ast.Module(parts, []), name, "exec"), classes)
        self.image_proj = classes[parameters.pop("class")](**parameters)
        widths = config["block_out_channels"]
        level = {"down": lambda i: i, "up": lambda i: -1 - i, "mid": lambda i: -1}
        self.ip_adapter = nn.ModuleList()
        for name in unet.attn_processors:
            way, *rest = name.split("_block")
            block = int(rest[0].split(".")[1]) if way != "mid" else 0
            width, context = widths[level[way](block)], config["cross_attention_dim"]
            crosses = not name.endswith("attn1.processor")
            self.ip_adapter.append(classes["IPAttnProcessor"](width, context) if crosses else nn.Identity())


def run_ip_adapter(originals: Path, case: Published, x: dict[str, torch.Tensor]) -> Any:
    """`embeds -> tokens`, and the keys of the first and the values of the last attention."""
    with torch.device("meta"):
        model = IPAdapter(originals, case).double().eval()
    shapes = lend_weights(model)
    if hasattr(model.image_proj, "latents"):
        fill([("image_proj", model.image_proj)])
    tokens = model.image_proj(x["embeds"])
    attentions = [module for module in model.ip_adapter if hasattr(module, "to_k_ip")]
    found = {"keys": attentions[0].to_k_ip(tokens), "values": attentions[-1].to_v_ip(tokens)}
    return shapes, {"tokens": tokens} | found


RUN = {
    "unet": run_unet,
    "first_stage": run_first_stage,
    "bert": run_bert,
    "open_clip": run_open_clip,
    "vision": run_vision,
    "ip_adapter": run_ip_adapter,
}


def make(originals: Path, name: str) -> None:
    """Run a case and write its golden."""
    case = FULL_WIDTH[name]
    with torch.no_grad():
        shapes, found = RUN.get(case.kind, run_diffusers)(originals, case, inputs_of(case))
    for key, value in found.items():
        assert value.dtype == torch.float64, f"{name}: {key} is {value.dtype}"
        assert torch.isfinite(value).all(), f"{name}: {key} is not finite"
        assert 1e-3 < float(value.std()) < 1e3, f"{name}: {key} has std {value.std()}"
    judged = (
        {"patches": patches()}
        if case.repository in (DIFFUSERS, TRANSFORMERS)
        else {"commit": commit(originals, case.repository), "patches": PATCHES}
    )
    path = save_golden(
        f"full_width/{name}",
        {key: kept(value.numpy()) for key, value in found.items()} | {"shapes": packed(shapes)},
        ("torch", case.repository) if case.repository in (DIFFUSERS, TRANSFORMERS) else ("torch",),
        repository=case.repository.replace("+", "/"),
        parameters=case.parameters,
        inputs=case.inputs,
        **judged,
    )
    elements = sum(int(np.prod(shape)) for shape in shapes.values())
    print(f"{path.name}: {len(shapes)} weights, {elements:,} parameters, {path.stat().st_size} bytes", flush=True)


def main() -> None:
    """Make what the command line names."""
    arguments = asked(__doc__)
    for name in arguments.names or FULL_WIDTH:
        make(arguments.originals, name)


if __name__ == "__main__":
    main()
