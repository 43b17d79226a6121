r"""ControlNets that are stored as what differs from their UNet: as a difference, or as a LoRA of it.

$$W_c = W + D \qquad \text{(file with the tensor `difference`)} \qquad W_c = W + B A \qquad \text{(`lora_controlnet`)}$$

with the weight $W$ of the checkpoint's UNet. A LoRA leaves out the weights that are the UNet's own; it states no alpha.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyldm.checkpoints import components
from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.hub import local
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.unet import unet_links
from tinyldm.checkpoints.recognised import Component
from tinyldm.checkpoints.single_file import heads_of
from tinyldm.checkpoints.source import open_source
from tinyldm.checkpoints.views import Place, SourceView, inner
from tinyldm.errors import CheckpointError

DIFFERENCE, LORA = "difference", "lora_controlnet"
# Fields of the configuration that weights do not tell: they are the UNet's.
SAME = ("attention_head_dim", "num_attention_heads", "norm_num_groups", "norm_eps", "act_fn", "addition_time_embed_dim")
COPIED = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")  # of the UNet


def partial_control(path: str | Path, unet: Component | None) -> Component | None:
    """The ControlNet of a file that is stored against a UNet; None for any other file or folder.

    Raises `CheckpointError` where there is no UNet, or one of other shapes.
    """
    place = local(path)
    if not place.is_file():
        return None
    source = open_source(place)
    if not (DIFFERENCE in source or LORA in source):
        source.close()
        return None
    if unet is None:
        raise CheckpointError(f"{path}: a ControlNet stored against a UNet; give it with the checkpoint of that UNet")
    base = LinkedSource.of(unet.source, "canonical", unet_links, heads_of(unet), unet.source.shape)
    file = inner(source, "control_model.") if any(n.startswith("control_model.") for n in source.names) else source
    control = components.controlnet(ControlOnUNet(file, base))
    same = {name: value for name, value in unet.config.items() if name in SAME}
    return replace(control, config=control.config | same)


class ControlOnUNet(SourceView):
    """A ControlNet in original names, made of a file and the UNet that the file is stored against."""

    def __init__(self, file: TensorSource, base: TensorSource):
        places: dict[str, Place] = {}
        self._added: dict[str, tuple[str, ...]] = {}  # by weight: the difference, or the two matrices of a LoRA
        for name in file.names:
            layer, _, part = name.rpartition(".")
            if name in (DIFFERENCE, LORA):
                continue
            if part in ("up", "down"):
                self._added[f"{layer}.weight"] = (f"{layer}.up", f"{layer}.down")
            elif LORA not in file and name in base:
                self._added[name] = (name,)
            else:
                places[name] = file, name
        copied = [name for name in base.names if name.startswith(COPIED) and (LORA in file or name in self._added)]
        places |= {name: (base, name) for name in copied if name not in places}
        super().__init__(file.path, file.metadata, places, [file, base])
        self._file = file
        for name, parts in self._added.items():
            self._check(name, parts)

    def _check(self, name: str, parts: tuple[str, ...]) -> None:
        if name not in self or any(part not in self._file for part in parts):
            raise CheckpointError(f"{self.path}: changes {quoted(name)}, which this UNet or the file does not have")
        shapes, shape = [self._file.shape(part) for part in parts], self.shape(name)
        size = (shapes[0][0], int(np.prod(shapes[-1][1:])))
        fits = shapes == [shape] or (len(shapes) == 2 and size == (shape[0], int(np.prod(shape[1:]))))
        if not fits or (len(shapes) == 2 and shapes[0][1:2] != shapes[1][:1]):
            raise CheckpointError(f"{self.path}: {quoted(parts[0])} {shapes[0]} does not fit {name} of shape {shape}")

    def shown(self, name: str, value: np.ndarray) -> np.ndarray:
        """The sum of a tensor of the UNet and what the file adds."""
        parts = [self._file.read(part, value.dtype) for part in self._added[name]]
        matrices = [part.reshape(len(part), -1) for part in parts]
        added = parts[0] if len(parts) == 1 else matrices[0] @ matrices[1]
        total: np.ndarray = value + added.reshape(value.shape)
        return total

    def changes(self, name: str) -> bool:
        """Whether something is added to a tensor."""
        return name in self._added
