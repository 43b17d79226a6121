"""What a file of weights is: its family, its components under canonical names with their configurations, its schedule.

Names and shapes decide. What they leave open is taken from the family's published configuration, said in `notes`, and
can be overridden.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.checkpoints import architecture
from tinyldm.checkpoints.base import RenamedSource, TensorSource, quoted
from tinyldm.checkpoints.families import FAMILIES, SDXL, Family, Heads, family_of
from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.text import bert_links, openclip_links
from tinyldm.checkpoints.names.unet import controlnet_links, unet_links
from tinyldm.errors import CheckpointError, ConfigError

Config = dict[str, Any]

# Tensors that published files are known to carry beside the model's own, which play no part in making pictures.
KNOWN_EXTRAS = """
betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod log_one_minus_alphas_cumprod
sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance posterior_log_variance_clipped
posterior_mean_coef1 posterior_mean_coef2 lvlb_weights logvar scale_factor denoiser.sigmas edm_mean edm_std
model_ema.* ema.* loss.* first_stage_model.loss.* first_stage_model.model_ema.* first_stage_model.quantize.embedding_*
*position_ids *logit_scale low_scale_model.* depth_model.* embedding_manager.* optimizer_states.* iteration.* *attn_mask
cond_stage_model.transformer.to_logits.* cond_stage_model.transformer.vision_model.* visual.* vision_model.*
*visual_projection.weight global_step noise_augmentor.* v_pred ztsnr
""".split()
MAX_WRAPPERS = 3
OPENCLIP_LAST = r"cond_stage_model\.model\.(text_projection|transformer\.resblocks\.{last}\..*)"
CLIP_WIDEST = 768  # of OpenAI's text encoders, which have a GELU of their own; wider ones are OpenCLIP's
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Component:
    """One model of a checkpoint: the class that publishes its config, the config, its tensors under canonical names."""

    class_name: str
    config: Config
    source: TensorSource


@dataclass
class Recognised:
    """What a file was recognised as; `extras` are known tensors without a use, `unknown` those that nobody knows.

    `beside` is what the file holds that is no tensor of a model, such as an optimizer's states: name and kind.
    """

    family: str
    title: str
    components: dict[str, Component] = field(default_factory=dict)
    scheduler: Config | None = None
    notes: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)


def recognise(
    source: TensorSource,
    *,
    prediction_type: str | None = None,
    ema: bool | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recognised:
    """Recognise a file of weights in any published layout that is one file.

    `prediction_type` overrides what the family predicts; `ema` asks for the running average of the UNet's weights, or
    for the plain ones (by default as the family's sampling script does); `config` overrides fields of a component's
    configuration, `{"unet": {"attention_head_dim": 8}}`, or of the schedule under `"scheduler"`.

    Raises `CheckpointError` for a file that is no model known here, saying what it looks like.
    """
    if prediction_type not in (None, *PREDICTIONS):
        raise ConfigError(f"prediction type {prediction_type!r} is unknown; known are {', '.join(PREDICTIONS)}")
    found = recognise_names(source, ema)
    wrappers: list[str] = []
    view = source
    while found is None and len(wrappers) < MAX_WRAPPERS and (wrapper := common_prefix(view.names)):
        view = inner(view, wrapper)
        wrappers.append(wrapper)
        found = recognise_names(view, ema)
    if found is None:
        raise CheckpointError(unrecognised(source))
    if wrappers:
        found.notes.append(f"all names begin with {''.join(wrappers)}, which is left out")
    found.beside = dict(source.extras)
    override(found, prediction_type, config or {})
    return found


def recognise_names(source: TensorSource, ema: bool | None) -> Recognised | None:
    """A whole checkpoint or one component under its own names; None for anything else."""
    names = frozenset(source.names)
    return whole_checkpoint(source, names, ema) or bare_component(source, names, ema)


def common_prefix(names: Iterable[str]) -> str:
    """The first part of all names with its dot (`module.`, as training in parallel adds it), or nothing."""
    parts = {name.partition(".")[0] + "." if "." in name else "" for name in names}
    return parts.pop() if len(parts) == 1 else ""


def unrecognised(source: TensorSource) -> str:
    """One line on a file that is of no known layout."""
    shown = ", ".join(quoted(name) for name in source.names[:3]) or "none at all"
    wanted = "an autoencoder, a UNet, a text encoder or a whole checkpoint of latent diffusion"
    return f"{source.path}: its {len(source)} tensors ({shown}, …) are not those of {wanted}"


def override(found: Recognised, prediction_type: str | None, config: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what the caller knows better in place of what was recognised.

    `config` has fields by component, or is the published configuration of one: all of it, known by its class.
    """
    if "_class_name" in config or "architectures" in config:
        config = {component_for(config, found): config}
    for name, fields in config.items():
        if not isinstance(fields, Mapping):
            raise ConfigError(f"config: wanted the fields of the component {name!r}, not {quoted(fields)}")
        if name == "scheduler":
            found.scheduler = {**(found.scheduler or {}), **fields}
        elif name in found.components:
            old = found.components[name]
            found.components[name] = Component(old.class_name, {**old.config, **fields}, old.source)
        else:
            raise ConfigError(f"config: has no component {name!r} here; there is {', '.join(found.components)}")
    if prediction_type is not None and found.scheduler is not None:
        found.scheduler = {**found.scheduler, "prediction_type": prediction_type}
        found.notes = [note for note in found.notes if not note.startswith("prediction type")]
        resize(found, prediction_type, config)


def component_for(config: Mapping[str, Any], found: Recognised) -> str:
    """The component that a published configuration is of. Raises `ConfigError` where there is none of its class."""
    kind = class_of(config)
    if kind.endswith("Scheduler"):
        return "scheduler"
    names = [name for name, component in found.components.items() if component.class_name == kind]
    if len(names) != 1:
        here = ", ".join(f"{name} ({component.class_name})" for name, component in found.components.items())
        raise ConfigError(f"config: is of a {kind}, and there is {here or 'nothing'} here")
    return names[0]


def class_of(config: Mapping[str, Any]) -> str:
    """The published class that a component's config is of."""
    architectures = config.get("architectures")
    named = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else "")
    return named if isinstance(named, str) and named else "unknown"


def resize(found: Recognised, prediction_type: str, config: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the size of pictures, where models that predict something else are published for another size."""
    family = next((family for family in FAMILIES if family.name == found.family), None)
    unet = found.components.get("unet")
    if family is None or unet is None or prediction_type not in family.sizes:
        return
    if "sample_size" not in config.get("unet", {}):
        size = unet.config["sample_size"] * family.sizes[prediction_type] // family.size
        found.components["unet"] = Component(unet.class_name, {**unet.config, "sample_size": size}, unet.source)


# A whole checkpoint in the original layout ----------------------------------------------------------------------------

UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."


def whole_checkpoint(source: TensorSource, names: frozenset[str], ema: bool | None) -> Recognised | None:
    """A file with the UNet under `model.diffusion_model.`, beside it a first stage and what makes the context."""
    if f"{UNET}input_blocks.0.0.weight" not in names:
        return None
    facts = architecture.unet_facts(inner(source, UNET))
    family = family_of(facts)
    found = Recognised(family.name if family else "unknown", family.title if family else "an unpublished model")
    taken: set[str] = set()
    unet_source, used = choose_ema(source, names, family, ema, found)
    taken |= used
    first_stage = f"{FIRST_STAGE}decoder.conv_in.weight" in names
    autoencoder = inner(source, FIRST_STAGE) if first_stage else None
    factor = 2 ** (_levels(autoencoder) - 1) if autoencoder else 8
    found.components["unet"] = unet(unet_source, family, found.notes, factor)
    if autoencoder:
        scaling = latent_scale(source, names, family, found.notes)
        found.components["vae"] = first_stage_model(autoencoder, scaling, family.size if family else 512)
    found.components |= conditioners(source, names)
    if "control_model.input_hint_block.0.weight" in names:
        control = inner(source, "control_model.")
        found.components |= bare_controlnet(control, frozenset(control.names)).components
    found.scheduler = dict(family.scheduler) if family else dict(SDXL)
    if family and family.also:
        assumed = found.scheduler["prediction_type"]
        found.notes.append(f"prediction type {assumed} is assumed; {family.also}, which --prediction-type says")
    sort_leftovers(found, source, taken)
    return found


def choose_ema(
    source: TensorSource, names: frozenset[str], family: Family | None, ema: bool | None, found: Recognised
) -> tuple[TensorSource, set[str]]:
    """The UNet's plain weights, or their running average: which of them, and all names that belong to either."""
    plain = {name[len(UNET) :]: name for name in names if name.startswith(UNET)}
    averaged = {short: "model_ema.diffusion_model" + short.replace(".", "") for short in plain}
    complete = all(name in names for name in averaged.values())
    if ema and not complete:
        raise CheckpointError(f"{source.path}: has no running average (EMA) of the weights, or not of all of them")
    wanted = complete and (ema if ema is not None else bool(family and family.ema))
    if complete:
        found.notes.append(f"{'EMA' if wanted else 'plain'} weights are used; the file has both")
    order = [name[len(UNET) :] for name in source.names if name.startswith(UNET)]
    chosen = {short: (averaged if wanted else plain)[short] for short in order}
    return RenamedSource(source, chosen), set(plain.values())


def latent_scale(source: TensorSource, names: frozenset[str], family: Family | None, notes: list[str]) -> float:
    """What the first stage's latents are multiplied by: a file may hold its own, measured at the start of training."""
    if "scale_factor" in names and source.shape("scale_factor") == ():
        return float(source.read("scale_factor", np.float64))
    if family is None:
        notes.append("scaling factor 0.18215 is assumed")
    return family.scaling_factor if family else 0.18215


def conditioners(source: TensorSource, names: frozenset[str]) -> dict[str, Component]:
    """What makes the context: text encoders, a table of classes, a map of segments; none for unconditional models."""
    found: dict[str, Component] = {}
    for prefix, name in (
        ("cond_stage_model.transformer.", "text_encoder"),
        ("conditioner.embedders.0.transformer.", "text_encoder"),
        ("cond_stage_model.model.", "text_encoder"),
        ("conditioner.embedders.0.model.", "text_encoder_2"),
        ("conditioner.embedders.1.model.", "text_encoder_2"),
    ):
        if any(n.startswith(prefix) for n in names):
            view = inner(source, prefix)
            penultimate = prefix == "cond_stage_model.model."
            if made := text_encoder(view, frozenset(view.names), penultimate):
                found[name] = made
    if "cond_stage_model.embedding.weight" in names:
        count, width = architecture.sizes(source, "cond_stage_model.embedding.weight", 2)
        config = {"_class_name": "ClassEmbedder", "num_classes": count, "embed_dim": width}
        table = RenamedSource(source, {"embedding.weight": "cond_stage_model.embedding.weight"})
        found["class_embedder"] = Component("ClassEmbedder", config, table)
    if "cond_stage_model.channel_mapper.weight" in names:
        out, channels = architecture.sizes(source, "cond_stage_model.channel_mapper.weight", 4)[:2]
        config = {"_class_name": "SpatialRescaler", "in_channels": channels, "out_channels": out, "n_stages": 2}
        view = inner(source, "cond_stage_model.")
        found["spatial_rescaler"] = Component("SpatialRescaler", config, view)
    return found


# The components -------------------------------------------------------------------------------------------------------


def unet(source: TensorSource, family: Family | None, notes: list[str], factor: int = 8) -> Component:
    """A UNet with original names."""
    heads = family.heads if family else Heads(channels=64) if architecture.unet_facts(source).linear else Heads(count=8)
    if family is None:
        told = f"{heads.count} heads" if heads.count else f"heads of {heads.channels} channels"
        notes.append(f"a UNet of no published family: {told} and the schedule of Stable Diffusion are assumed")
    config = architecture.unet_config(source, family, heads, factor)
    links = unet_links(source.names, "original", heads, source.shape)
    return Component(config["_class_name"], config, LinkedSource(source, links))


def first_stage_model(source: TensorSource, scaling_factor: float, size: int) -> Component:
    """An autoencoder with original names."""
    config = architecture.autoencoder_config(source, scaling_factor, size)
    return Component(config["_class_name"], config, LinkedSource(source, autoencoder_links(source.names, "original")))


def text_encoder(source: TensorSource, names: frozenset[str], penultimate: bool = False) -> Component | None:
    """A text encoder of any kind; `penultimate` leaves out the last layer and the projection of an OpenCLIP one."""
    if "transformer.resblocks.0.ln_1.weight" in names:
        layers = len({n.split(".")[2] for n in names if n.startswith("transformer.resblocks.")})
        links = openclip_links(names, "original", layers - 1 if penultimate else None, not penultimate)
        view: TensorSource = LinkedSource(source, links)
        config = architecture.clip_config(view, "gelu")
    elif "token_emb.weight" in names:
        view = LinkedSource(source, bert_links(names, "original"))
        config = architecture.bert_config(view)
    else:
        view = clip_view(source)
        if "embeddings.token_embedding.weight" not in view:
            return None
        config = architecture.clip_config(view, "quick_gelu" if clip_width(view) <= CLIP_WIDEST else "gelu")
    return Component(config["architectures"][0], config, view)


def clip_width(view: TensorSource) -> int:
    """The width of a text encoder with canonical names."""
    return architecture.sizes(view, "embeddings.token_embedding.weight", 2)[1]


def clip_view(source: TensorSource) -> TensorSource:
    """A CLIP text encoder without the prefix `text_model.` and without what is not its own."""
    own = ("embeddings.", "encoder.", "final_layer_norm.", "text_projection.")
    renamed = {n.removeprefix("text_model."): n for n in source.names if not n.endswith("position_ids")}
    return RenamedSource(source, {new: old for new, old in renamed.items() if new.startswith(own)})


# A file with one model ------------------------------------------------------------------------------------------------

# What a component may stand under in a file that holds it alone.
BARE_PREFIXES = (
    "",
    "control_model.",
    UNET,
    FIRST_STAGE,
    "vae.",
    "unet.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
)


def bare_component(source: TensorSource, names: frozenset[str], ema: bool | None) -> Recognised | None:
    """A file that holds an autoencoder, a UNet or a text encoder, in either layout."""
    for prefix in BARE_PREFIXES:
        view = inner(source, prefix) if prefix else source
        inside = frozenset(view.names)
        for known in (bare_controlnet, bare_unet, bare_tiny, bare_first_stage, bare_text_encoder):
            if found := known(view, inside):
                if ema:
                    raise CheckpointError(f"{source.path}: is {found.title}: it has no running average (EMA)")
                sort_leftovers(found, source)
                return found
    return None


def bare_controlnet(source: TensorSource, names: frozenset[str]) -> Recognised | None:
    """A ControlNet."""
    if "controlnet_cond_embedding.conv_in.weight" in names:
        links = controlnet_links(names, "canonical", source.shape)
        original, canonical = LinkedSource(source, links, to="original"), source
    elif "input_hint_block.0.weight" in names:
        original = source
        canonical = LinkedSource(source, controlnet_links(names, "original", source.shape))
    else:
        return None
    facts = architecture.unet_facts(original)
    family = family_of(facts)
    heads = family.heads if family else Heads(channels=64) if facts.linear else Heads(count=8)
    config = architecture.controlnet_config(original, heads)
    component = Component("ControlNetModel", config, canonical)
    return Recognised(
        "controlnet", f"a ControlNet of {family.title if family else 'a UNet'}", {"controlnet": component}
    )


def bare_tiny(source: TensorSource, names: frozenset[str]) -> Recognised | None:
    """A tiny autoencoder."""
    if not {"encoder.layers.0.weight", "decoder.layers.0.weight", "decoder.layers.2.conv.0.weight"} <= names:
        return None
    component = Component("AutoencoderTiny", architecture.tiny_config(source), source)
    return Recognised("tiny", "an autoencoder, tiny (TAESD)", {"vae": component})


def bare_unet(source: TensorSource, names: frozenset[str]) -> Recognised | None:
    """A UNet alone."""
    if "down_blocks.0.resnets.0.norm1.weight" in names and "conv_in.weight" in names:
        heads = Heads(count=1)  # only names and shapes are wanted of this view
        links = unet_links(names, "canonical", heads, source.shape)
        original, canonical = LinkedSource(source, links, to="original"), source
    elif "input_blocks.0.0.weight" in names:
        original, canonical = source, None
    else:
        return None
    family = family_of(architecture.unet_facts(original))
    title = f"the UNet of {family.title}" if family else "a UNet"
    found = Recognised(family.name if family else "unknown", title, scheduler=dict((family or FALLBACK).scheduler))
    made = unet(original, family, found.notes)
    found.components["unet"] = Component(made.class_name, made.config, canonical or made.source)
    if family and family.also and found.scheduler:
        assumed = found.scheduler["prediction_type"]
        found.notes.append(f"prediction type {assumed} is assumed; {family.also}, which --prediction-type says")
    return found


def bare_first_stage(source: TensorSource, names: frozenset[str]) -> Recognised | None:
    """A first stage alone; the scale of its latents is nowhere in it."""
    if "encoder.down_blocks.0.resnets.0.norm1.weight" in names:
        links = autoencoder_links(names, "canonical")
        original: TensorSource = LinkedSource(source, links, to="original")
    elif "encoder.down.0.block.0.norm1.weight" in names:
        original = source
    else:
        return None
    quantised = "quantize.embedding.weight" in names
    made = first_stage_model(original, 1.0 if quantised else 0.18215, 256 if quantised else 512)
    found = Recognised("vq" if quantised else "kl", "an autoencoder, " + ("VQ" if quantised else "KL"))
    found.components["vae"] = made if original is source else Component(made.class_name, made.config, source)
    found.notes.append(f"scaling factor {made.config['scaling_factor']} is assumed; Stable Diffusion XL's is 0.13025")
    return found


def bare_text_encoder(source: TensorSource, names: frozenset[str]) -> Recognised | None:
    """A text encoder alone."""
    made = text_encoder(source, names)
    if made is None:
        return None
    return Recognised("text-encoder", f"a text encoder, {made.class_name}", {"text_encoder": made})


# Odds and ends --------------------------------------------------------------------------------------------------------

FALLBACK = Family("unknown", "an unpublished model", lambda facts: True, Heads(count=8), dict(SDXL))


def inner(source: TensorSource, prefix: str) -> TensorSource:
    """The tensors below a prefix, without it."""
    return RenamedSource(source, {name[len(prefix) :]: name for name in source.names if name.startswith(prefix)})


def _levels(autoencoder: TensorSource) -> int:
    names = {name.split(".")[2] for name in autoencoder.names if name.startswith("decoder.up.")}
    return max(1, len(names))


def _read_names(found: Recognised) -> set[str]:
    """The names in the file that the components read."""
    return {c.source.original_name(name) for c in found.components.values() for name in c.source.names}


def sort_leftovers(found: Recognised, source: TensorSource, taken: Collection[str] = ()) -> None:
    """Sort what no component reads into known extras and unknown tensors; `taken` are names that belong to one anyway.

    `source` may itself be a view with other names than the file's.
    """
    read = _read_names(found)
    for name in sorted(n for n in source.names if n not in taken and source.original_name(n) not in read):
        known = any(fnmatchcase(name, pattern) for pattern in KNOWN_EXTRAS) or is_last_openclip(name, found)
        (found.extras if known else found.unknown).append(name)
    if found.unknown:
        shown = ", ".join(quoted(name) for name in found.unknown[:3])
        found.notes.append(f"{len(found.unknown)} tensors are not known and not used: {shown}")


def is_last_openclip(name: str, found: Recognised) -> bool:
    """Whether a tensor is of the last OpenCLIP layer or its projection, which Stable Diffusion 2 leaves out."""
    text = found.components.get("text_encoder")
    last = text.config.get("num_hidden_layers", -1) if text else -1
    return re.fullmatch(OPENCLIP_LAST.format(last=last), name) is not None


def parameterization(path: str | Path) -> str | None:
    """The prediction type that an original configuration file beside a checkpoint states, or None.

    Such a file has the checkpoint's name and the suffix `.yaml`; of it only the line `parameterization: …` is read.
    """
    file = Path(path).with_suffix(".yaml")
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
    stated = found.group(1) if found else "eps"
    return {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}.get(stated)
