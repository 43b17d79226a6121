"""Pictures that tile: what leaves them on one side comes in on the other.

Every convolution, of the denoiser, of what controls it and of the first stage, continues its images around instead of
padding them with zeros; the other layers know no edges. So the noise, rolled, gives the picture, rolled.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

from tinyldm.models.network import Network
from tinyldm.pipelines.parts import Parts

N = TypeVar("N", bound=Network)  # type: ignore[type-arg]  # of any config


def seamless(network: N, axes: str) -> N:
    """The same network on images that continue along `x`, `y` or `both`; it shares the weights.

    Raises `InputError` for other axes.
    """
    result = copy.copy(network)
    result.runtime = replace(network.runtime, seamless=axes)
    result.weights = network.weights.computed_by(result.runtime)
    return result


def seamless_parts(parts: Parts, axes: str) -> Parts:
    """Parts whose networks, and what controls them, are seamless."""
    networks = {name: seamless(network, axes) for name, network in parts.networks.items()}
    controls = tuple(replace(control, network=seamless(control.network, axes)) for control in parts.controls)
    return parts.replaced(**networks, controls=controls)
