"""The models by the names of the classes that published configurations name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from tinyldm.errors import ConfigError
from tinyldm.models.asymmetric import AsymmetricAutoencoderKL
from tinyldm.models.bert import BertEncoder
from tinyldm.models.conditioners import ClassEmbedder, SpatialRescaler
from tinyldm.models.controlnet import ControlNet
from tinyldm.models.flow import Flow
from tinyldm.models.image_encoder import ImageEncoder
from tinyldm.models.ip_adapter import IPAdapter
from tinyldm.models.network import Network
from tinyldm.models.pixels import PixelScaling
from tinyldm.models.t2i_adapter import T2IAdapter
from tinyldm.models.text_encoder import ProjectedTextEncoder, TextEncoder
from tinyldm.models.tiny import AutoencoderTiny
from tinyldm.models.unet import UNet
from tinyldm.models.unet2d import UNet2D
from tinyldm.models.vae import AutoencoderKL
from tinyldm.models.vq import VQModel
from tinyldm.runtime import Runtime
from tinyldm.tree import TensorSource

N = TypeVar("N", bound=Network[Any])

MODELS: dict[str, type[Network[Any]]] = {
    "AsymmetricAutoencoderKL": AsymmetricAutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "ControlNetModel": ControlNet,
    "AutoencoderKL": AutoencoderKL,
    "CLIPTextModel": TextEncoder,
    "CLIPTextModelWithProjection": ProjectedTextEncoder,
    "CLIPVisionModelWithProjection": ImageEncoder,
    "ClassEmbedder": ClassEmbedder,
    "Flow": Flow,
    "IPAdapter": IPAdapter,
    "LDMBertModel": BertEncoder,
    "PixelScaling": PixelScaling,
    "SpatialRescaler": SpatialRescaler,
    "T2IAdapter": T2IAdapter,
    "UNet2DConditionModel": UNet,
    "UNet2DModel": UNet2D,
    "VQModel": VQModel,
}


def build(class_name: str, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> Any:
    """The model of a published class, from its configuration and its tensors under canonical names.

    Raises `ConfigError` for a class that is not there, and what the model's own class raises.
    """
    return model_class(class_name)(config, source, runtime)


def rebuilt(network: N, runtime: Runtime, source: TensorSource | None = None) -> N:
    """A twin of a network: the same config, weights from the same source or another, and another way to compute.

    What a runtime is made of (its backend, its dtype, its `operators`) is all that has to be said to replace the
    arithmetic of a network. Raises `CheckpointError` where the source does not have the network's weights.
    """
    twin = type(network)(network.config, network.weights.source if source is None else source, runtime)
    twin.name = network.name
    return twin


def expected(class_name: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a model of a published class with this configuration has."""
    model = model_class(class_name)
    return dict(model.parameters_of(model.read(config)))


def model_class(class_name: str) -> type[Network[Any]]:
    """The model of a published class. Raises `ConfigError` for one that is not there."""
    if class_name not in MODELS:
        raise ConfigError(f"the class {class_name!r} is not supported; supported: {', '.join(MODELS)}")
    return MODELS[class_name]
