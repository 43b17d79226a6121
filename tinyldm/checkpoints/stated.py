"""What a single file states beside its weights, so that it need not be assumed: in its header, by tensors, by buffers.

- The header's `modelspec.prediction_type` and `modelspec.resolution` (the ModelSpec of Stability AI), sd-scripts'
  `ss_zero_terminal_snr`, and what `convert` writes: `tinyldm.scheduler`, `tinyldm.components`, `tinyldm.pipeline`.
- Tensors without numbers that mark a file: `v_pred`, `ztsnr`, and of an EDM schedule `edm_mean`, `edm_std`.
- The buffers of a training run, `betas` or `alphas_cumprod`: its noise schedule.

The later counts more. A schedule that is not supported is refused, whoever states it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.families import Heads
from tinyldm.checkpoints.recognised import Config
from tinyldm.checkpoints.safetensors import parse_json_object
from tinyldm.errors import CheckpointError

# What the UNet predicts, by the words that files have for it.
PREDICTIONS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
PREDICTIONS |= {"x0": "sample", "sample": "sample"}
EDM_MARKS = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
ZERO_SNR: Config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SCHEDULER, COMPONENTS, PIPELINE = "tinyldm.scheduler", "tinyldm.components", "tinyldm.pipeline"
CLOSE = 1e-3  # of schedules that are the same but for the type that they are stored in


@dataclass
class Stated:
    """Facts by what they are of; `notes` say where each comes from.

    `scheduler` are fields of the schedule, or with `whole_schedule` all of it; `components` fields by component, and
    `configs` whole configurations with their classes;
    `pipeline` the class of the folder and its options; `heads` how the UNet divides its attention; `penultimate`
    whether the text encoder's last layer is left out; `size` the side of pictures in pixels.
    """

    scheduler: Config = field(default_factory=dict)
    whole_schedule: bool = False
    components: dict[str, Config] = field(default_factory=dict)
    configs: dict[str, tuple[str, Config]] = field(default_factory=dict)
    pipeline: Config = field(default_factory=dict)
    heads: Heads | None = None
    penultimate: bool | None = None
    size: int | None = None
    notes: list[str] = field(default_factory=list)

    def over(self, weaker: Stated) -> Stated:
        """These facts, and where they say nothing those of another."""
        return Stated(
            self.scheduler if self.whole_schedule else weaker.scheduler | self.scheduler,
            self.whole_schedule or weaker.whole_schedule,
            weaker.components | {n: weaker.components.get(n, {}) | f for n, f in self.components.items()},
            weaker.configs | self.configs,
            weaker.pipeline | self.pipeline,
            self.heads or weaker.heads,
            self.penultimate if self.penultimate is not None else weaker.penultimate,
            self.size or weaker.size,
            weaker.notes + self.notes,
        )


def stated_by(source: TensorSource, decided: bool = False) -> Stated:
    """What a file states. Raises `CheckpointError` for a schedule that is not supported.

    And where header and marks contradict each other in what is predicted, unless that is `decided` elsewhere.
    """
    header, marks = stated_by_header(source), stated_by_marks(source)
    said = [stated.scheduler.get("prediction_type") for stated in (header, marks)]
    if None not in said and said[0] != said[1] and not decided:
        words = f"{said[0]} by its header and {said[1]} by the tensor v_pred; --prediction-type says which"
        raise CheckpointError(f"{source.path}: states that it predicts {words}")
    return header.over(marks).over(stated_by_buffers(source))


def stated_by_header(source: TensorSource) -> Stated:
    """The entries of the header."""
    metadata, stated = source.metadata, Stated()
    if name := metadata.get("modelspec.prediction_type"):
        if name.lower() not in PREDICTIONS:
            raise CheckpointError(f"{source.path}: states that it predicts {quoted(name)}, which is not supported")
        stated.scheduler["prediction_type"] = PREDICTIONS[name.lower()]
        stated.notes.append(f"prediction type {PREDICTIONS[name.lower()]} is stated by the header")
    if metadata.get("ss_zero_terminal_snr", "").lower() == "true":
        stated.scheduler |= ZERO_SNR
        stated.notes.append("the header states a schedule that ends in pure noise (zero terminal SNR)")
    width, _, height = metadata.get("modelspec.resolution", "").partition("x")
    if width == height and width.isdecimal() and 64 <= int(width) <= 8192:
        stated.size = int(width)
    if SCHEDULER in metadata:
        stated.scheduler, stated.whole_schedule = json_entry(source, SCHEDULER), True
    for name, entry in json_entry(source, COMPONENTS).items():
        if not (isinstance(entry, list) and list(map(type, entry)) == [str, dict]):
            raise CheckpointError(f"{source.path}: {COMPONENTS}: wanted the class and the config of {quoted(name)}")
        stated.configs[name] = (entry[0], entry[1])
    stated.pipeline = json_entry(source, PIPELINE)
    return stated


def json_entry(source: TensorSource, name: str) -> dict[str, Any]:
    """A JSON object in the header; an empty one where there is none."""
    return parse_json_object(source.metadata.get(name, "{}").encode(), f"{source.path}: {name}", infinite=True)


def stated_by_marks(source: TensorSource) -> Stated:
    """The tensors that only mark a file."""
    for name in EDM_MARKS:
        if name in source:
            raise CheckpointError(f"{source.path}: holds {name}: it was trained on an EDM schedule, not supported")
    stated = Stated()
    if "v_pred" in source:
        stated.scheduler["prediction_type"] = "v_prediction"
        stated.notes.append("prediction type v_prediction is stated by the tensor v_pred")
    if "ztsnr" in source:
        stated.scheduler |= ZERO_SNR
        stated.notes.append("the tensor ztsnr states a schedule that ends in pure noise (zero terminal SNR)")
    return stated


def stated_by_buffers(source: TensorSource) -> Stated:
    """The noise schedule of the training, as the fields of a configuration; nothing where the numbers are none."""
    betas = buffered_betas(source)
    if betas is None:
        return Stated()
    return Stated(fitted(betas), notes=["the noise schedule is that of the betas in the file"])


def buffered_betas(source: TensorSource) -> np.ndarray | None:  # -> (T,)
    """The betas that a file has, or that follow from its alphas; None where it has none, or what can't be them."""
    name = next((name for name in ("betas", "alphas_cumprod") if name in source), None)
    if name is None or len(source.shape(name)) != 1 or not 2 <= source.shape(name)[0] <= 10_000:
        return None
    values: np.ndarray = source.read(name, np.float64)
    if name == "alphas_cumprod":
        if not ((values >= 0) & (values < 1)).all() or (np.diff(values) >= 0).any():
            return None
        values = 1 - values / np.concatenate([[1.0], values[:-1]])
    sound = (
        np.isfinite(values).all() and (values > 0).all() and (values <= 1).all() and (np.diff(values) >= -1e-6).all()
    )
    return values if sound else None


def fitted(betas: np.ndarray) -> Config:
    """The fields of the schedule that has these betas: a published form with its ends, or the betas themselves."""
    if betas[-1] == 1:
        return dict(ZERO_SNR)
    start, end = (float(f"{beta:.6g}") for beta in (betas[0], betas[-1]))
    fields: Config = {"num_train_timesteps": len(betas), "beta_start": start, "beta_end": end, "trained_betas": None}
    for name, power in (("scaled_linear", 0.5), ("linear", 1.0)):
        fit = np.linspace(start**power, end**power, len(betas)) ** (1 / power)
        if np.allclose(np.log1p(-fit).cumsum(), np.log1p(-betas).cumsum(), rtol=CLOSE, atol=0):
            return fields | {"beta_schedule": name}
    return {"num_train_timesteps": len(betas), "trained_betas": betas.tolist()}


def same_schedule(fields: Mapping[str, Any], assumed: Mapping[str, Any]) -> bool:
    """Whether what is stated of the betas is what is assumed anyway, but for rounding."""
    return all(
        np.isclose(value, assumed[name], rtol=CLOSE) if isinstance(value, float) else value == assumed.get(name)
        for name, value in fields.items()
    )
