"""The names that one component has had over the years, brought to the one that the models here use."""

from __future__ import annotations

import re

from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.views import RenamedSource

# How the autoencoder's attention was called until 2023, and how it has been since.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# What stands before the names of a text encoder in its folder; of CLIP's in files until 2025, newer ones lack it.
PREFIXES = {"CLIPTextModel": "text_model.", "CLIPTextModelWithProjection": "text_model.", "LDMBertModel": "model."}
VISION = "vision_model."
CLIP_OWN = ("embeddings.", "encoder.", "final_layer_norm.", "text_projection.")


def vision_names(source: TensorSource) -> TensorSource:
    """A CLIP image encoder without the `vision_model.` prefix, and without what else a file has beside it."""
    prefix = VISION if any(name.startswith(VISION) for name in source.names) else ""
    own = (n for n in source.names if n.startswith((prefix, "visual_projection.")) and "position_ids" not in n)
    return RenamedSource(source, {name.removeprefix(prefix): name for name in own})


def clip_names(source: TensorSource) -> TensorSource:
    """A CLIP text encoder without its prefix, and without what else a file has beside it."""
    names = {name.removeprefix(PREFIXES["CLIPTextModel"]): name for name in source.names}
    own = (name for name in names if name.startswith(CLIP_OWN) and not name.endswith("position_ids"))
    return RenamedSource(source, {name: names[name] for name in own})


def vae_names(source: TensorSource) -> TensorSource:
    """An autoencoder with canonical names and the attention's present ones: `to_q` for `query`, and so on."""
    return RenamedSource(source, {present_attention(name): name for name in source.names})


def present_attention(name: str) -> str:
    """The present name of a weight of an autoencoder."""
    head, dot, kind = name.rpartition(".")
    module, _, last = head.rpartition(".")
    if last in OLD_ATTENTION and ".attentions." in name:
        return f"{module}.{OLD_ATTENTION[last]}{dot}{kind}"
    return name


# Names that are not the present ones, of any component: only who has some is walked through again.
OLDER = re.compile(r"^(?:text_|vision_)?model\.|\.attentions\..*\b(?:query|key|value|proj_attn)\.|position_ids")


def present_names(class_name: str, source: TensorSource) -> TensorSource:
    """The tensors of a published folder, some of them `OLDER`, under the names that the models here use."""
    if class_name == "CLIPVisionModelWithProjection":
        return vision_names(source)
    if class_name in ("AutoencoderKL", "AsymmetricAutoencoderKL", "VQModel"):
        return vae_names(source)
    prefix = PREFIXES.get(class_name, "")
    return RenamedSource(source, {name.removeprefix(prefix): name for name in source.names})
