"""What the prompt says to one step: the predictions without and with it, and what guidance makes of the two."""

from __future__ import annotations

from dataclasses import dataclass

from tinyldm.diffusion.prediction import classifier_free_guidance
from tinyldm.server.laboratory.walks import Moment
from tinyldm.typing import Array


@dataclass(frozen=True)
class Predictions:
    """What the network said in one step: `(C, h, w)` each; without guidance there is the one with the prompt alone."""

    conditional: Array
    unconditional: Array | None = None
    guided: Array | None = None

    @property
    def difference(self) -> Array | None:
        """What the prompt adds."""
        return None if self.unconditional is None else self.conditional - self.unconditional


def predictions(moment: Moment, scale: float) -> Predictions:
    """The predictions of a step of a walk, and how a guidance scale joins them."""
    if len(moment.outputs) == 1:
        return Predictions(moment.outputs[0])
    unconditional, conditional = moment.outputs
    return Predictions(conditional, unconditional, classifier_free_guidance(unconditional, conditional, scale))
