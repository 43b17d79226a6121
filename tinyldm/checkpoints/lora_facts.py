r"""What the file of a LoRA and its neighbours state: how alpha scales it, and for which sampler it was distilled.

The difference is multiplied by $\alpha / r$, or by $\alpha / \sqrt r$ where it was trained rank-stabilised
(Kalajdzievski 2023, arXiv:2312.03732). An `alpha` tensor of a layer counts first; then what PEFT's configuration says,
which diffusers writes into the header (`lora_adapter_metadata`) and PEFT into `adapter_config.json`; then sd-scripts'
`ss_network_alpha`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.folder import SUFFIXES, read_json
from tinyldm.checkpoints.source import open_source
from tinyldm.checkpoints.stated import json_entry
from tinyldm.checkpoints.views import SourceView
from tinyldm.errors import CheckpointError

HEADER, BESIDE = "lora_adapter_metadata", "adapter_config.json"
FILES = tuple(f"{stem}.{suffix}" for stem in ("adapter_model", "pytorch_lora_weights") for suffix in SUFFIXES)
PEFT_TYPES = ("LORA", "LOHA", "LOKR")

# The adapters that distil a checkpoint to few steps, by what their files or repositories are called.
AS_NAMED = "with as many steps as its name says, `trailing` spacing of the timesteps and no guidance (scale 1)"
DISTILLED = {
    r"lcm": "was distilled for the sampler lcm: 4 to 8 steps, guidance scale 1 to 2",
    r"hyper.?sd(?:xl)?.*1.?step": "was distilled to one step of the sampler tcd, with eta=1 and no guidance (scale 1)",
    r"hyper.?sd(?:xl)?": f"was distilled for the sampler ddim {AS_NAMED}",
    r"lightning": f"was distilled for the sampler euler {AS_NAMED}",
    r"sdxs": "was distilled to one step: --steps 1 --guidance-scale 0",
    r"(?:sd|sdxl|xl)?.?turbo": "was distilled for the sampler euler_a: 1 to 4 steps, `trailing` spacing, no guidance",
    r"tcd": "was distilled for the sampler tcd: 4 steps with eta=0.3, or more of both, and no guidance (scale 1)",
}


@dataclass(frozen=True)
class StatedAlpha:
    """What a configuration says of the layers of one component; `patterns` are alphas of layers of their own."""

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def factor(self, layer: str, rank: int, own: float | None) -> float | None:
        """What a layer's difference is multiplied by; `own` is its alpha tensor. None where nothing states it."""
        matches = (a for pattern, a in self.patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", layer))
        alpha = own if own is not None else next(matches, self.alpha)
        if alpha is None:
            return None
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def open_lora(path: Path) -> TensorSource:
    """The tensors of a LoRA: of a file, or of a folder as PEFT and diffusers write it.

    What `adapter_config.json` beside the file says is put into the metadata, as diffusers has it.
    """
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path}: holds no LoRA; wanted one of {', '.join(FILES)}")
        path = found[0]
    source = open_source(path)
    beside = path.with_name(BESIDE)
    if not path.name.startswith("adapter_model.") or not beside.is_file():
        return source
    config = read_json(beside)
    if config.get("peft_type", "LORA") not in PEFT_TYPES or config.get("fan_in_fan_out"):
        raise CheckpointError(f"{beside}: an adapter of the type {quoted(config.get('peft_type'))}, not a LoRA")
    metadata = {**source.metadata, HEADER: json.dumps(config)}
    return SourceView(source.path, metadata, {name: (source, name) for name in source.names}, [source])


def stated_alphas(lora: TensorSource) -> dict[str, StatedAlpha]:
    """What is stated, by component; under `` what is said of the whole file."""
    found = {prefix: stated_alpha(fields, lora) for prefix, fields in by_component(json_entry(lora, HEADER))}
    if "" not in found and (alpha := number(lora.metadata.get("ss_network_alpha"))) is not None:
        found[""] = StatedAlpha(alpha)
    return found


def by_component(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A configuration's fields by the component that their names begin with, or of the whole file."""
    for component in ("unet", "text_encoder", "text_encoder_2"):
        prefix = f"{component}."
        if fields := {name[len(prefix) :]: value for name, value in config.items() if name.startswith(prefix)}:
            yield component, fields
    if "lora_alpha" in config or "alpha" in config:
        yield "", dict(config)


def stated_alpha(fields: Mapping[str, Any], lora: TensorSource) -> StatedAlpha:
    """The configuration of PEFT for one model. Raises `CheckpointError` for an alpha that is no number."""
    patterns = fields.get("alpha_pattern") or {}
    alpha = fields.get("lora_alpha", fields.get("alpha"))
    if not isinstance(patterns, dict) or not all(is_number(a) for a in patterns.values()) or not is_number(alpha):
        raise CheckpointError(f"{lora.path}: its configuration has the alpha {quoted(alpha)}, {quoted(patterns)}")
    return StatedAlpha(float(alpha), patterns, bool(fields.get("use_rslora")))


def is_number(value: object) -> bool:
    """Whether a value out of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(text: str | None) -> float | None:
    """The number that a header's entry is; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def distilled_for(path: str | Path, metadata: Mapping[str, str]) -> str | None:
    """How to sample with a file that is distilled to few steps, a LoRA or a checkpoint, by its name and title."""
    title = " ".join([*Path(path).parts[-3:], metadata.get("modelspec.title", ""), metadata.get("ss_output_name", "")])
    words = title.lower()
    return next((text for name, text in DISTILLED.items() if re.search(rf"(?<![a-z]){name}(?![a-z])", words)), None)
