"""A whole checkpoint in one file, in the original layout: the UNet, a first stage, and what makes the context."""

from __future__ import annotations

import numpy as np

from tinyldm.checkpoints import components
from tinyldm.checkpoints.architecture import unet_facts
from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.families import SDXL, Family, family_of
from tinyldm.checkpoints.leftovers import sort_leftovers
from tinyldm.checkpoints.names.links import consecutive
from tinyldm.checkpoints.overrides import resize
from tinyldm.checkpoints.recognised import Recognised
from tinyldm.checkpoints.stated import Stated, same_schedule
from tinyldm.checkpoints.views import RenamedSource, inner
from tinyldm.errors import CheckpointError

UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."


def whole_checkpoint(source: TensorSource, ema: bool | None, stated: Stated) -> Recognised | None:
    """A file with the UNet under `model.diffusion_model.`; None for anything else."""
    if f"{UNET}input_blocks.0.0.weight" not in source:
        return None
    family = family_of(unet_facts(inner(source, UNET)))
    found = Recognised(family.name if family else "unknown", family.title if family else "an unpublished model")
    weights = choose_ema(source, family, ema, found.notes)
    has_first_stage = f"{FIRST_STAGE}decoder.conv_in.weight" in source
    autoencoder = inner(source, FIRST_STAGE) if has_first_stage else None
    levels = consecutive(autoencoder, "decoder.up.{}.block.0.norm1.weight") if autoencoder else 4
    factor = 2 ** (max(1, levels) - 1)
    found.components["unet"] = components.unet(weights, found.notes, stated, factor)
    if autoencoder:
        scaling = latent_scale(source, family, found, stated)
        found.components["vae"] = components.first_stage(autoencoder, scaling, family.size if family else 512)
    elif f"{FIRST_STAGE}decoder.layers.0.weight" in source:
        found.components["vae"] = components.tiny(inner(source, FIRST_STAGE))
    found.components |= components.conditioners(source, stated)
    if "control_model.input_hint_block.0.weight" in source:
        found.components["controlnet"] = components.controlnet(inner(source, "control_model."))
    add_schedule(found, family, stated)
    sort_leftovers(found, source, [name for name in source.names if name.startswith(UNET)])
    return found


def add_schedule(found: Recognised, family: Family | None, stated: Stated) -> None:
    """Give a checkpoint the schedule that it states, and of its family what it does not; say what is assumed."""
    usual = family.scheduler if family else SDXL
    if stated.whole_schedule:
        found.scheduler = dict(stated.scheduler)
        return
    found.scheduler = dict(usual)
    if not same_schedule(stated.scheduler, usual):
        found.scheduler |= stated.scheduler
        found.notes += stated.notes
    else:
        found.notes += [note for note in stated.notes if note.startswith("prediction type")]
    if stated.scheduler.get("rescale_betas_zero_snr") and usual["_class_name"] == "PNDMScheduler":
        found.scheduler["_class_name"] = "DDIMScheduler"  # the other's has no such schedule
    if predicted := stated.scheduler.get("prediction_type"):
        if not stated.size:
            resize(found, predicted)
    elif family and family.also:
        found.assumed.add("prediction_type")
        predicted = usual["prediction_type"]
        found.notes.append(f"prediction type {predicted} is assumed; {family.also}, which --prediction-type says")


def choose_ema(source: TensorSource, family: Family | None, ema: bool | None, notes: list[str]) -> TensorSource:
    """The UNet's plain weights, or their running average; by default as the family's sampling script does."""
    plain = {name[len(UNET) :]: name for name in source.names if name.startswith(UNET)}
    averaged = {short: "model_ema.diffusion_model" + short.replace(".", "") for short in plain}
    complete = all(name in source for name in averaged.values())
    if ema and not complete:
        raise CheckpointError(f"{source.path}: has no running average (EMA) of the weights, or not of all of them")
    wanted = complete and (ema if ema is not None else bool(family and family.ema))
    if complete:
        notes.append(f"{'EMA' if wanted else 'plain'} weights are used; the file has both")
    return RenamedSource(source, averaged if wanted else plain)


def latent_scale(source: TensorSource, family: Family | None, found: Recognised, stated: Stated) -> float:
    """What the first stage's latents are multiplied by: a file may hold its own, measured at the start of training."""
    if "scale_factor" in source and source.shape("scale_factor") == ():
        return float(source.read("scale_factor", np.float64))
    if family is None and "scaling_factor" not in stated.components.get("vae", {}):
        found.notes.append("scaling factor 0.18215 is assumed")
        found.assumed.add("scaling_factor")
    return family.scaling_factor if family else 0.18215
