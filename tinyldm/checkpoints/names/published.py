"""The names that one component has had over the years, brought to the one that the models here use."""

from __future__ import annotations

from tinyldm.checkpoints.base import RenamedSource, TensorSource

# How the autoencoder's attention was called until 2023, and how it has been since.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def text_encoder_names(source: TensorSource) -> TensorSource:
    """A text encoder without the `text_model.` prefix, which files had until 2025 and newer ones lack."""
    prefix = "text_model."
    return RenamedSource(source, {name.removeprefix(prefix): name for name in source.names})


def vae_names(source: TensorSource) -> TensorSource:
    """An autoencoder with the attention's present names: `to_q` for `query`, and so on."""
    return RenamedSource(source, {_present(name): name for name in source.names})


def _present(name: str) -> str:
    head, dot, kind = name.rpartition(".")
    module, _, last = head.rpartition(".")
    if last in OLD_ATTENTION and ".attentions." in name:
        return f"{module}.{OLD_ATTENTION[last]}{dot}{kind}"
    return name
