"""Keys under the module names of the original layout (CompVis), for ports of that code.

The names follow from those of the weights, which `tinyldm.checkpoints.names` maps; a module that the original layout
has no counterpart for keeps what follows its nearest enclosing module's name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import Link
from tinyldm.checkpoints.names.unet import RESNET, block_modules, canonical_levels, unet_links
from tinyldm.models.unet import UNet
from tinyldm.models.vae import AutoencoderKL
from tinyldm.pipelines.model import LatentDiffusion

# Modules without weights, and containers, by their places beside those that have weights.
UNET_MORE = {
    "time_embedding": "time_embed",
    "time_embedding.act": "time_embed.1",
    "conv_act": "out.1",
    "mid_block": "middle_block",
}
RESNET_MORE = {"nonlinearity": "in_layers.1", "nonlinearity#2": "emb_layers.0", "nonlinearity#3": "out_layers.1"}


def compvis_names(model: LatentDiffusion) -> Callable[[str], str]:
    """A function from golden keys with diffusers' names to keys with those of the original layout."""
    tables = {"unet": unet_modules(model.unet), "vae": vae_modules(model.vae)}

    def rename(key: str) -> str:
        step, _, rest = key.partition("/")
        component, slash, path = rest.partition("/")
        if not slash or component not in tables:
            return key
        return f"{step}/{component}/{renamed(path, tables[component])}"

    return rename


def renamed(path: str, modules: dict[str, str]) -> str:
    """A module's path with its longest known beginning replaced."""
    known = path
    while known not in modules:
        if "." not in known:
            return path
        known = known.rpartition(".")[0]
    return modules[known] + path[len(known) :]


def unet_modules(unet: UNet) -> dict[str, str]:
    """The original module for each canonical one of a UNet."""
    names = list(unet.parameters)
    heads = unet.config.per_block("attention_head_dim")[0]
    links = unet_links(names, "canonical", lambda _: heads, lambda name: unet.parameters[name])
    modules = modules_of(links) | UNET_MORE
    for original, canonical, table in block_modules(canonical_levels(names)):
        modules[canonical] = original
        if table == RESNET:
            modules |= {f"{canonical}.{a}": f"{original}.{b}" for a, b in RESNET_MORE.items()}
    return containers(modules, ".attentions.") | modules


def vae_modules(vae: AutoencoderKL) -> dict[str, str]:
    """The original module for each canonical one of an autoencoder."""
    modules = modules_of(autoencoder_links(list(vae.parameters), "canonical"))
    for mark in (".resnets.", ".attentions.", ".downsamplers.", ".upsamplers."):
        modules = containers(modules, mark) | modules
    return modules


def modules_of(links: Collection[Link]) -> dict[str, str]:
    """From links of weights to pairs of modules; one original weight may hold several canonical ones."""
    return {
        name.rpartition(".")[0]: link.original.rpartition(".")[0]
        for link in links
        for name in link.canonical
        if len(link.canonical) == 1
    }


def containers(modules: dict[str, str], mark: str) -> dict[str, str]:
    """The originals of blocks: what a known child's path begins with, one level up on both sides."""
    found = {}
    for canonical, original in modules.items():
        head, _, tail = canonical.partition(mark)
        number, _, child = tail.partition(".")
        if tail and child and "." not in child:
            found[f"{head}{mark}{number}"] = original.rpartition(".")[0]
    return found
