"""What a file of weights is: its family, its components under canonical names with their configurations, its schedule.

Names and shapes decide. What they leave open is taken from the family's published configuration, said in `notes`, and
can be overridden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinyldm.checkpoints.bare_file import bare_component
from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.foreign import foreign_kind
from tinyldm.checkpoints.overrides import override
from tinyldm.checkpoints.recognised import Component, Recognised
from tinyldm.checkpoints.stated import Stated, stated_by
from tinyldm.checkpoints.views import inner
from tinyldm.checkpoints.whole_file import whole_checkpoint
from tinyldm.errors import CheckpointError

MAX_WRAPPERS = 3


def recognise(
    source: TensorSource,
    *,
    prediction_type: str | None = None,
    ema: bool | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    beside: Stated | None = None,
) -> Recognised:
    """Recognise a file of weights in any published layout that is one file.

    `prediction_type` overrides what the family predicts; `ema` asks for the running average of the UNet's weights, or
    for the plain ones (by default as the family's sampling script does); `config` overrides fields of a component's
    configuration, `{"unet": {"attention_head_dim": 8}}`, or of the schedule under `"scheduler"`. `beside` is what a
    file beside it states, which counts more than what it states itself.

    Raises `CheckpointError` for a file that is no model known here, saying what it looks like.
    """
    view, wrappers = source, ""
    beside = beside or Stated()
    decided = prediction_type is not None or "prediction_type" in beside.scheduler
    stated = beside.over(stated_by(source, decided))
    found = recognise_names(view, ema, stated)
    for _ in range(MAX_WRAPPERS):
        if found is not None or not (wrapper := common_prefix(view.names)):
            break
        view, wrappers = inner(view, wrapper), wrappers + wrapper
        found = recognise_names(view, ema, stated)
    if found is None:
        raise CheckpointError(unrecognised(source))
    if wrappers:
        found.notes.append(f"all names begin with {wrappers}, which is left out")
    found.file, found.beside, found.pipeline = view, dict(source.extras), stated.pipeline
    for name, component in found.components.items():
        alone = len(found.components) == 1
        whole = stated.configs.get(name) or (next(iter(stated.configs.values()), None) if alone else None)
        kind, fields = whole or (component.class_name, component.config)
        found.components[name] = Component(kind, fields | stated.components.get(name, {}), component.source)
    override(found, prediction_type, config or {})
    return found


def recognise_names(source: TensorSource, ema: bool | None, stated: Stated) -> Recognised | None:
    """A whole checkpoint or one component under its own names; None for anything else."""
    if kind := foreign_kind(source):
        raise CheckpointError(f"{source.path}: is {kind}, which is not supported")
    return whole_checkpoint(source, ema, stated) or bare_component(source, ema, stated)


def common_prefix(names: Iterable[str]) -> str:
    """The first part of all names with its dot (`module.`, as training in parallel adds it), or nothing."""
    parts = {name.partition(".")[0] + "." if "." in name else "" for name in names}
    return parts.pop() if len(parts) == 1 else ""


def unrecognised(source: TensorSource) -> str:
    """One line on a file that is of no known layout."""
    shown = ", ".join(quoted(name) for name in source.names[:3]) or "none at all"
    wanted = "an autoencoder, a UNet, a text encoder or a whole checkpoint of latent diffusion"
    return f"{source.path}: its {len(source)} tensors ({shown}, …) are not those of {wanted}"
