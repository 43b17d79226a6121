"""What every network is: a configuration, the tree of weights that follows from it, and how to compute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from tinyldm.models.blocks import Parameters
from tinyldm.models.config import read_config
from tinyldm.runtime import Runtime
from tinyldm.tree import Settings, TensorSource, bind_weights

C = TypeVar("C")


class Network(ABC, Generic[C]):
    """A network of a checkpoint, from a config as published (or as `read` before) and its tensors by canonical names.

    Raises `ConfigError` for a field or value that is unknown or not supported, and `CheckpointError` for a weight that
    is missing, has no place, or is of another shape than the config says.
    """

    component: ClassVar[str]  # what messages call it
    name: str  # under which a trace records it
    config_class: ClassVar[type[Any]]
    inert: ClassVar[Iterable[str]] = ()  # published fields that do not change what is computed here
    extras: ClassVar[Iterable[str]] = ()  # patterns of weights that may be there and are not used

    def __init__(self, config: Mapping[str, Any] | C, source: TensorSource, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.config: C = self.read(config) if isinstance(config, Mapping) else config
        self.parameters = dict(self.expected(source))
        self.weights = bind_weights(
            source,
            self.parameters,
            self.runtime,
            component=self.component,
            settings=self.settings_of(self.config),
            extras=self.extras,
        )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> C:
        """The fields of a published config. Raises `ConfigError` for one that is unknown or not supported."""
        fields: C = read_config(cls.config_class, config, component=cls.component, inert=cls.inert)
        return fields

    @staticmethod
    @abstractmethod
    def parameters_of(config: Any, /) -> Parameters:
        """Name and shape of every weight that a config asks for."""

    @staticmethod
    def settings_of(config: Any, /) -> Settings:
        """What a config binds to the nodes of the tree."""
        return ()

    def expected(self, source: TensorSource) -> Parameters:
        """Name and shape of every weight that the config asks for, where there is a choice as the source has it."""
        return self.parameters_of(self.config)
