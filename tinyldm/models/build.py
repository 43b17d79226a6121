"""The models by the names of the classes that published configurations name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyldm.checkpoints.base import TensorSource
from tinyldm.errors import ConfigError
from tinyldm.models.bert import BertEncoder
from tinyldm.models.conditioners import ClassEmbedder, SpatialRescaler
from tinyldm.models.text_encoder import TextEncoder
from tinyldm.models.unet import UNet
from tinyldm.models.unet2d import UNet2D
from tinyldm.models.vae import AutoencoderKL
from tinyldm.models.vq import VQModel
from tinyldm.nn import Runtime

MODELS: dict[str, Any] = {
    "AutoencoderKL": AutoencoderKL,
    "CLIPTextModel": TextEncoder,
    "CLIPTextModelWithProjection": TextEncoder,
    "ClassEmbedder": ClassEmbedder,
    "LDMBertModel": BertEncoder,
    "SpatialRescaler": SpatialRescaler,
    "UNet2DConditionModel": UNet,
    "UNet2DModel": UNet2D,
    "VQModel": VQModel,
}


def build(class_name: str, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> Any:
    """The model of a published class, from its configuration and its tensors under canonical names.

    Raises `ConfigError` for a class that is not there.
    """
    if class_name not in MODELS:
        raise ConfigError(f"the class {class_name!r} is not supported; supported: {', '.join(MODELS)}")
    return MODELS[class_name](config, source, runtime)
