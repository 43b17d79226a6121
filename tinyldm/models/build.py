"""The models by the names of the classes that published configurations name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tinyldm.checkpoints.base import TensorSource
from tinyldm.errors import ConfigError
from tinyldm.models import asymmetric, bert, conditioners, controlnet, text_encoder, tiny, unet2d, unet_config, vae, vq
from tinyldm.models.asymmetric import AsymmetricAutoencoderKL
from tinyldm.models.bert import BertEncoder
from tinyldm.models.conditioners import ClassEmbedder, SpatialRescaler
from tinyldm.models.config import read_config
from tinyldm.models.controlnet import ControlNet
from tinyldm.models.text_encoder import TextEncoder
from tinyldm.models.tiny import AutoencoderTiny
from tinyldm.models.unet import UNet
from tinyldm.models.unet2d import UNet2D
from tinyldm.models.vae import AutoencoderKL
from tinyldm.models.vq import VQModel
from tinyldm.runtime import Runtime


class Kind(NamedTuple):
    """A published class: the model here, its config, the config's inert fields, the weights that follow from it."""

    model: Any
    config: Any
    inert: Iterable[str]
    parameters: Callable[[Any], Iterable[tuple[str, tuple[int, ...]]]]


def _projected(config: text_encoder.TextEncoderConfig) -> Iterable[tuple[str, tuple[int, ...]]]:
    return text_encoder.parameters(config, projection=True)


MODELS: dict[str, Kind] = {
    "AsymmetricAutoencoderKL": Kind(
        AsymmetricAutoencoderKL, asymmetric.AsymmetricConfig, asymmetric.INERT, asymmetric.parameters
    ),
    "AutoencoderTiny": Kind(AutoencoderTiny, tiny.TinyConfig, tiny.INERT, tiny.parameters),
    "ControlNetModel": Kind(ControlNet, None, (), controlnet.parameters),
    "AutoencoderKL": Kind(AutoencoderKL, vae.AutoencoderConfig, vae.INERT, vae.parameters),
    "CLIPTextModel": Kind(TextEncoder, text_encoder.TextEncoderConfig, text_encoder.INERT, text_encoder.parameters),
    "CLIPTextModelWithProjection": Kind(TextEncoder, text_encoder.TextEncoderConfig, text_encoder.INERT, _projected),
    "ClassEmbedder": Kind(ClassEmbedder, conditioners.ClassEmbedderConfig, (), conditioners.class_embedder_parameters),
    "LDMBertModel": Kind(BertEncoder, bert.BertConfig, bert.INERT, bert.parameters),
    "SpatialRescaler": Kind(
        SpatialRescaler, conditioners.SpatialRescalerConfig, (), conditioners.spatial_rescaler_parameters
    ),
    "UNet2DConditionModel": Kind(UNet, unet_config.UNetConfig, unet_config.INERT, unet_config.parameters),
    "UNet2DModel": Kind(UNet2D, unet2d.UNet2DConfig, unet2d.INERT, unet2d.parameters),
    "VQModel": Kind(VQModel, vq.VQConfig, vq.INERT, vq.parameters),
}


def build(class_name: str, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> Any:
    """The model of a published class, from its configuration and its tensors under canonical names.

    Raises `ConfigError` for a class that is not there, and what the model's own class raises.
    """
    return kind_of(class_name).model(config, source, runtime)


def expected(class_name: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a model of a published class with this configuration has."""
    kind = kind_of(class_name)
    if class_name == "ControlNetModel":
        return dict(kind.parameters(controlnet.ControlNetConfig.read(config)))
    return dict(kind.parameters(read_config(kind.config, config, component=class_name, inert=kind.inert)))


def kind_of(class_name: str) -> Kind:
    """What belongs to a published class. Raises `ConfigError` for one that is not there."""
    if class_name not in MODELS:
        raise ConfigError(f"the class {class_name!r} is not supported; supported: {', '.join(MODELS)}")
    return MODELS[class_name]
