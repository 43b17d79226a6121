"""Make the goldens of the families with the original repositories' own modules: `make_families.py ORIGINALS [name …]`.

ORIGINALS is a folder with a check-out of each repository under `owner+name`. Their modules are imported from there,
with `einops` and torch, and compute in float64: the casts to float32 inside are replaced as `PATCHES` says. A golden
holds the names and shapes of the weights, which are seeded by name, and the outputs for seeded inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import zlib
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.family_cases import (  # noqa: E402
    ADAPTED,
    BERT,
    CONTROLLED,
    FIRST_STAGES,
    LDM,
    ORIGINAL_T2I,
    PUBLISHED,
    SINGLE_FILES,
    T2I,
    UNETS,
)
from golden.family_files import single_file  # noqa: E402
from golden.provenance import save_golden  # noqa: E402

from tinyldm.golden.seeded import seeded_input, seeded_weight  # noqa: E402

PATCHES = {".float()": ".double()", "dtype=torch.float32": "dtype=torch.float64", "th.float32": "th.float64"}


ListConfig = type("ListConfig", (list,), {})  # in place of the configuration package's


class Patched(SourceFileLoader):
    """Loads a module of an original repository with the casts to float32 lifted."""

    def get_data(self, path: str) -> bytes:
        text = super().get_data(path).decode()
        for old, new in PATCHES.items():
            text = text.replace(old, new)
        return text.encode()


class Originals:
    """Finds the packages `ldm` and `sgm` in one repository; their `__init__` files are passed over."""

    def __init__(self, root: Path):
        self.root = root

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] not in ("ldm", "sgm"):
            return None
        place = self.root / name.replace(".", "/")
        if place.is_dir():
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        file = place.with_suffix(".py")
        return importlib.util.spec_from_file_location(name, file, loader=Patched(name, str(file)))


def original_module(originals: Path, repository: str, name: str) -> Any:
    """Import a module of a repository anew."""
    for loaded in [m for m in sys.modules if m.split(".")[0] in ("ldm", "sgm")]:
        del sys.modules[loaded]
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, Originals)]
    sys.meta_path.insert(0, Originals(originals / repository))
    return importlib.import_module(name)


def stand_in(name: str, **contents: Any) -> None:
    """Put an empty module in place of a package that the originals import and do not need here."""
    module = ModuleType(name)
    vars(module).update(contents)
    sys.modules.setdefault(name, module)


def commit(originals: Path, repository: str) -> str:
    """Where the repository stands."""
    file = originals / repository / "COMMIT"
    if file.is_file():
        return file.read_text().strip()
    command = ["git", "-C", str(originals / repository), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def seed(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Fill a model with seeded weights by its own names; returns their shapes."""
    model.double().eval()
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(seeded_weight(name, tuple(tensor.shape))))
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def packed(shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Names and shapes as compressed JSON."""
    return np.frombuffer(zlib.compress(json.dumps(shapes).encode(), 9), np.uint8)


def given(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A seeded input in float64."""
    return torch.from_numpy(seeded_input(name, shape)).double()


def make_unet(originals: Path, family: str) -> None:
    """`z, t, context -> epsilon` of a family's UNet."""
    repository, parameters, conditions = UNETS[family]
    package = "sgm" if repository.endswith("generative-models") else "ldm"
    module = original_module(originals, repository, f"{package}.modules.diffusionmodules.openaimodel")
    parameters = {"image_size": 8, "num_res_blocks": 2, "model_channels": 32} | parameters
    if package == "sgm":
        parameters.pop("image_size")
    model = module.UNetModel(**parameters)
    shapes = seed(model)
    levels = len(parameters["channel_mult"])
    size = 2 ** max(levels - 1, 1)
    z = given("z", (1, parameters["in_channels"], size, 2 * size))
    t = torch.tensor([321.0], dtype=torch.float64)
    context_dim = parameters.get("context_dim")
    context_dim = context_dim[0] if isinstance(context_dim, list) else context_dim
    more: dict[str, Any] = {}
    if context_dim:
        more["context"] = given("context", (1, 5, context_dim))
    if "class_labels" in conditions:
        more["y"] = torch.tensor(conditions["class_labels"])
    if "time_ids" in conditions:
        util = sys.modules["sgm.modules.diffusionmodules.util"]
        ids = torch.tensor(conditions["time_ids"], dtype=torch.float64)
        embedded = util.timestep_embedding(ids.reshape(-1), 256).reshape(len(ids), -1)
        more["y"] = torch.cat([given("text_embeds", conditions["text_embeds"]), embedded], dim=1)
    with torch.no_grad():
        epsilon = model(z, t, **more)
    write(originals, f"unet-{family}", repository, shapes, {"epsilon": epsilon}, z=list(z.shape), parameters=parameters)


class FirstStage(nn.Module):
    """What the original's autoencoders put together: encoder, decoder, 1×1 convolutions, codebook."""

    def __init__(self, model: Any, parameters: dict[str, Any], codebook: int | None):
        super().__init__()
        z = parameters["z_channels"]
        self.encoder, self.decoder = model.Encoder(**parameters), model.Decoder(**parameters)
        self.quant_conv = nn.Conv2d(2 * z if parameters["double_z"] else z, 2 * z if codebook is None else z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)
        if codebook is not None:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(codebook, z)

    def nearest(self, z: torch.Tensor) -> torch.Tensor:
        """Each latent vector replaced by the nearest of the codebook."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        table = self.quantize.embedding.weight
        index = (flat[:, None] - table[None]).square().sum(-1).argmin(1)
        return table[index].reshape(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2)


def make_first_stage(originals: Path, name: str) -> None:
    """`pixels -> moments` (or latents, of the VQ models) and `z -> decoded`."""
    module = original_module(originals, LDM, "ldm.modules.diffusionmodules.model")
    own, codebook = FIRST_STAGES[name]
    parameters = {
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "num_res_blocks": 2,
        "dropout": 0.0,
        **own,
    }
    model = FirstStage(module, parameters, codebook)
    shapes = seed(model)
    factor = 2 ** (len(parameters["ch_mult"]) - 1)
    with torch.no_grad():
        moments = model.quant_conv(model.encoder(given("pixels", (1, 3, 32, 32))))
        z = given("z", (1, parameters["z_channels"], 32 // factor, 32 // factor))
        decoded = model.decoder(model.post_quant_conv(z if codebook is None else model.nearest(z)))
    found = {"moments": moments, "decoded": decoded}
    write(originals, f"first-stage-{name}", LDM, shapes, found, z=list(z.shape), parameters=parameters)


def make_bert(originals: Path) -> None:
    """`ids -> context` of the first text encoder."""
    module = original_module(originals, LDM, "ldm.modules.x_transformer")
    model = module.TransformerWrapper(
        num_tokens=BERT["vocab_size"],
        max_seq_len=BERT["max_seq_len"],
        attn_layers=module.Encoder(dim=BERT["n_embed"], depth=BERT["n_layer"]),
    )
    shapes = seed(model)
    ids = torch.tensor([[101, 7, 42, 299, 102, 0, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        context = model(ids, return_embeddings=True)
    write(originals, "bert", LDM, shapes, {"ids": ids, "context": context}, parameters=BERT)


def make_single_file(family: str) -> None:
    """The sha256 of every tensor of a whole file after conversion by diffusers, and what its text encoders say."""
    from diffusers.loaders import single_file_utils as judge

    weights = {name: torch.from_numpy(value) for name, value in single_file(family).items()}
    blocks = {"down_block_types": [0] * 4, "up_block_types": [0] * 4}
    found = {
        "unet": judge.convert_ldm_unet_checkpoint(dict(weights), unet_fields(family)),
        "vae": judge.convert_ldm_vae_checkpoint(dict(weights), blocks),
    }
    outputs: dict[str, np.ndarray] = {}
    for prefix in SINGLE_FILES[family]:
        name = "text_encoder_2" if prefix.startswith("conditioner") and prefix.endswith("model.") else "text_encoder"
        tensors, outputs[name] = run_text_encoder(judge, weights, prefix)
        found[name] = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    digests = {
        name: {k: hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest()[:16] for k, v in tensors.items()}
        for name, tensors in found.items()
    }
    packed_digests = np.frombuffer(zlib.compress(json.dumps(digests, sort_keys=True).encode(), 9), np.uint8)
    path = save_golden(
        f"families/single-file-{family}",
        {"digests": packed_digests, **outputs},
        ("torch", "diffusers", "transformers"),
        family=family,
    )
    print(f"{path.name}: {sum(map(len, digests.values()))} tensors, {path.stat().st_size} bytes", flush=True)


def unet_fields(family: str) -> dict[str, Any]:
    """The fields of the UNet's config that diffusers needs to convert its names."""
    more = {"addition_embed_type": "text_time"} if "-xl" in family else {}
    return {"layers_per_block": 2, **more}


def run_text_encoder(judge: Any, weights: dict[str, torch.Tensor], prefix: str) -> tuple[dict[str, Any], np.ndarray]:
    """A text encoder's tensors as diffusers converts them, and the context for some ids (pooled where it projects)."""
    from golden.make_models import lifted
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    open_clip = prefix.endswith("model.")
    fields = {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 1,
        "num_hidden_layers": {"cond_stage_model.model.": 23}.get(prefix, 3 if open_clip else 2),
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "projection_dim": 64,
        "eos_token_id": 99,
    }
    projected = open_clip and prefix.startswith("conditioner")
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    model = kind._from_config(CLIPTextConfig(**fields), attn_implementation="eager").eval()
    if open_clip:
        tensors = judge.convert_open_clip_checkpoint(model, dict(weights), prefix)
    else:
        mine = {key: value for key, value in weights.items() if key.startswith(prefix)}
        tensors = judge.convert_ldm_clip_checkpoint(mine)
    tensors = {key: value for key, value in tensors.items() if not key.endswith(("position_ids", "logit_scale"))}
    own = model.state_dict()
    model.load_state_dict({key if key in own else key.removeprefix("text_model."): v for key, v in tensors.items()})
    ids = torch.tensor([[98, 5, 17, 99, 99, 99]])
    with lifted(), torch.no_grad():
        out = model.double()(ids)
    return tensors, (out.text_embeds if projected else out.last_hidden_state).numpy()


def make_published(name: str) -> None:
    """A model whose original is diffusers, with everything that goes in and comes out."""
    import diffusers
    from golden.make_models import lifted, patches

    class_name, config, inputs = PUBLISHED[name]
    model = getattr(diffusers, class_name).from_config(config)
    shapes = seed(model)
    x = {key: given(key, shape) for key, shape in inputs.items()}
    if "mask" in x:
        x["mask"] = (x["mask"] > 0).double()
    with lifted(), torch.no_grad():
        found = RUN[class_name](model, x)
    found["shapes"] = torch.from_numpy(packed(shapes).copy())
    path = save_golden(
        f"families/published-{name}",
        {key: value.numpy() for key, value in found.items()},
        ("torch", "diffusers"),
        config=config,
        patches=patches(),
    )
    print(f"{path.name}: {len(shapes)} weights, {path.stat().st_size} bytes", flush=True)


def run_autoencoder(model: Any, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`pixels -> latents` or mean and logvar, `z -> decoded`, and with a mask `z, image, mask -> masked`."""
    encoded = model.encode(x["pixels"])
    found = {"decoded": model.decode(x["z"]).sample}
    if "mask" in x:
        found["masked"] = model.decode(x["z"], image=x["image"], mask=x["mask"]).sample
    if "latent_dist" in encoded:
        return found | {"mean": encoded.latent_dist.mean, "logvar": encoded.latent_dist.logvar}
    return found | {"mean": encoded.latents}


def run_unet2d(model: Any, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`z, t -> epsilon`."""
    labels = torch.tensor([3, 0]) if model.config.num_class_embeds else None
    return {"epsilon": model(x["z"], torch.tensor([321, 7]), class_labels=labels).sample}


def run_controlnet(model: Any, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`z, t, context, hint -> residuals`, and what the UNet makes of them."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(CONTROLLED)
    seed(unet)
    t = torch.tensor([321, 7])
    down, middle = model(x["z"], t, x["context"], x["hint"], conditioning_scale=0.5, return_dict=False)
    epsilon = unet(
        x["z"],
        t,
        x["context"],
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    return {"epsilon": epsilon} | {f"residual {i:02}": r for i, r in enumerate([*down, middle])}


def run_t2i_adapter(model: Any, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`hint -> features`, and what a UNet makes of them."""
    from diffusers import UNet2DConditionModel

    config, shape = next(
        ADAPTED[name] for name, (_, own, _) in T2I.items() if own.items() <= dict(model.config).items()
    )
    unet = UNet2DConditionModel.from_config(config)
    seed(unet)
    features = [0.5 * feature for feature in model(x["hint"])]
    epsilon = unet(
        given("z", shape),
        torch.tensor([321]),
        given("context", (shape[0], 5, 12)),
        down_intrablock_additional_residuals=[feature.clone() for feature in features],
    ).sample
    return {"epsilon": epsilon} | {f"feature {i}": feature for i, feature in enumerate(features)}


RUN = {
    "T2IAdapter": run_t2i_adapter,
    "AutoencoderTiny": run_autoencoder,
    "AsymmetricAutoencoderKL": run_autoencoder,
    "VQModel": run_autoencoder,
    "UNet2DModel": run_unet2d,
    "ControlNetModel": run_controlnet,
}


def make_original_t2i(originals: Path, name: str) -> None:
    """`hint -> features` of a T2I-Adapter by its first publishers' code, of which each branch has a kind."""
    branch, file, class_name, parameters = ORIGINAL_T2I[name]
    repository = f"TencentARC+T2I-Adapter@{branch}"
    lines = (originals / repository / file).read_text().splitlines()
    namespace: dict[str, Any] = {}
    exec("\n".join(line for line in lines if not line.startswith("from ldm.")), namespace)  # what others need of it
    model = namespace[class_name](**parameters)
    shapes = seed(model)
    with torch.no_grad():
        features = model(given("hint", (1, {64: 1, 192: 3, 256: 1}[parameters["cin"]], 64, 128)))
    found = {f"feature {i}": feature for i, feature in enumerate(features)}
    write(originals, f"t2i-{name}", repository, shapes, found, parameters=parameters)


def make_lora() -> None:
    """`z, t, context -> epsilon` of a UNet with a LoRA on attention, perceptron and convolutions, with PEFT."""
    from diffusers import UNet2DConditionModel
    from golden.make_models import lifted, patches
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel.from_config(CONTROLLED)
    seed(unet)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "time_emb_proj"]
    unet.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False))
    state = get_peft_model_state_dict(unet)
    shapes = {f"unet.{name}": tuple(tensor.shape) for name, tensor in state.items()}
    parameters = dict(unet.named_parameters())
    with torch.no_grad():
        for name, shape in shapes.items():
            path = name.removeprefix("unet.").replace(".weight", ".default.weight")
            parameters[path].copy_(torch.from_numpy(seeded_weight(name, shape)))
    unet.double()
    with lifted(), torch.no_grad():
        epsilon = unet(given("z", (1, 4, 4, 6)), torch.tensor([321]), given("context", (1, 5, 12))).sample
    path = save_golden(
        "families/lora",
        {"epsilon": epsilon.numpy(), "shapes": packed(shapes)},
        ("torch", "diffusers", "peft"),
        rank=3,
        alpha=6,
        patches=patches(),
    )
    print(f"{path.name}: {len(shapes)} weights, {path.stat().st_size} bytes", flush=True)


def write(
    originals: Path,
    name: str,
    repository: str,
    shapes: dict[str, tuple[int, ...]],
    found: dict[str, torch.Tensor],
    **more: Any,
) -> None:
    """Write a golden."""
    for key, value in found.items():
        if value.is_floating_point():
            assert value.dtype == torch.float64, f"{name}: {key} is {value.dtype}"
            assert torch.isfinite(value).all(), f"{name}: {key} is not finite"
            assert 1e-3 < float(value.std()) < 1e3, f"{name}: {key} has std {value.std()}"
    arrays = {key: value.numpy() for key, value in found.items()} | {"shapes": packed(shapes)}
    path = save_golden(
        f"families/{name}",
        arrays,
        repository=repository.replace("+", "/"),
        commit=commit(originals, repository),
        patches=PATCHES,
        **more,
    )
    print(f"{path.name}: {len(shapes)} weights, {path.stat().st_size} bytes", flush=True)


def asked(description: str) -> argparse.Namespace:
    """The originals' folder and the names of the command line; the process is made ready to import originals."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("originals", type=Path)
    parser.add_argument("names", nargs="*", help="cases; without any, all")
    arguments = parser.parse_args()
    os.environ["ATTN_PRECISION"] = "fp64"
    sys.dont_write_bytecode = True
    stand_in("omegaconf", ListConfig=ListConfig)
    stand_in("omegaconf.listconfig", ListConfig=ListConfig)
    return arguments


def main() -> None:
    """Make what the command line names."""
    arguments = asked(__doc__)
    torch.set_num_threads(1)
    for family in UNETS:
        if not arguments.names or f"unet-{family}" in arguments.names:
            make_unet(arguments.originals, family)
    for name in FIRST_STAGES:
        if not arguments.names or f"first-stage-{name}" in arguments.names:
            make_first_stage(arguments.originals, name)
    for name in PUBLISHED:
        if not arguments.names or f"published-{name}" in arguments.names:
            make_published(name)
    for name in ORIGINAL_T2I:
        if not arguments.names or f"t2i-{name}" in arguments.names:
            make_original_t2i(arguments.originals, name)
    if not arguments.names or "lora" in arguments.names:
        make_lora()
    for family in SINGLE_FILES:
        if not arguments.names or f"single-file-{family}" in arguments.names:
            make_single_file(family)
    if not arguments.names or "bert" in arguments.names:
        make_bert(arguments.originals)


if __name__ == "__main__":
    main()
