"""The runtimes that `conformance.py` judges, behind the interface of tinyldm's own networks.

A runtime is given as functions for three networks: `text_encoder` (ids), `unet` (z, t, context) and `decode` (z). Each
takes arrays and gives back the network's output, and by name the outputs of the modules inside it, where it was asked
for them.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm import tracing
from tinyldm.golden.torch_recorder import PASSING, tensors

Layers = dict[str, np.ndarray]
Function = Callable[..., tuple[np.ndarray, Layers]]


def adapted(network: Any, functions: Mapping[str, Function]) -> Any:
    """A twin of a tinyldm network whose computing is done by `functions`."""
    kind = type(network)
    steps = itertools.count()

    def call(name: str, *arrays: np.ndarray) -> np.ndarray:
        output, layers = functions[name](*arrays)
        prefix = f"{next(steps):04d}/{'vae' if name == 'decode' else name}/"
        for path, array in layers.items():
            tracing.milestone(prefix + path, array)
        return output

    class Adapted(kind):
        """The same configuration and checks, another runtime."""

        def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
            return self._unet(*args, **kwargs) if kind.__name__ == "UNet" else self._text(*args)

        def prepare(self, context: np.ndarray) -> np.ndarray:
            return context

        def _unet(self, z: np.ndarray, t: Any, context: np.ndarray) -> np.ndarray:
            t = np.broadcast_to(np.asarray(t), (len(z),))
            tracing.begin("unet", z=z, t=t, context=context)
            epsilon = call("unet", z, t, context)
            tracing.note(epsilon=epsilon)
            return epsilon

        def _text(self, ids: np.ndarray) -> np.ndarray:
            tracing.begin("text_encoder", ids=ids)
            context = call("text_encoder", ids)
            tracing.note(context=context)
            return context

        def decode(self, z: np.ndarray) -> np.ndarray:
            tracing.begin("vae.decode", z=z)
            pixels = call("decode", z)
            tracing.note(pixels=pixels)
            return pixels

    return Adapted(network.config, network.weights.source, network.runtime)


def with_functions(model: Any, functions: Mapping[str, Function]) -> Any:
    """The model with every network computed by another runtime."""
    return model.replaced(**{name: adapted(part, functions) for name, part in model.networks.items()})


# PyTorch -------------------------------------------------------------------------------------------------------------


def torch_modules(folder: Path, dtype: str) -> dict[str, Any]:
    """The originals' modules of a checkpoint folder."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    quieten()
    kinds = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae": AutoencoderKL}
    kind = getattr(torch, dtype)
    return {name: cls.from_pretrained(folder / name, dtype=kind).to(kind).eval() for name, cls in kinds.items()}


def quieten() -> None:
    """Keep the libraries' progress bars and advice, which is about training and tracing, out of the log."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"torch|transformers|diffusers|openvino")


def wrapped(modules: Mapping[str, Any]) -> dict[str, Any]:
    """The originals as modules of arrays only, for calling and for converting."""
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = modules["text_encoder"]

        def forward(self, ids):
            return self.net(ids)[0]

    class Unet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = modules["unet"]

        def forward(self, z, t, context):
            return self.net(z, t, context, return_dict=False)[0]

    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = modules["vae"]

        def forward(self, z):
            return self.net.decode(z, return_dict=False)[0]

    return {"text_encoder": Text().eval(), "unet": Unet().eval(), "decode": Decode().eval()}


def torch_functions(modules: Mapping[str, Any], dtype: str) -> dict[str, Function]:
    """PyTorch itself."""
    import torch

    kind = getattr(torch, dtype)

    def function(module: Any) -> Function:
        def run(*arrays: np.ndarray) -> np.ndarray:
            given = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
            given = [x.to(kind) if x.is_floating_point() else x for x in given]
            with torch.inference_mode():
                return module(*given).float().numpy(), {}

        return run

    return {name: function(module) for name, module in wrapped(modules).items()}


# Runtimes that convert PyTorch's modules -----------------------------------------------------------------------------


def probed(module: Any) -> Any:
    """A wrapped module that returns, behind its own output, those of the modules inside; `names` says which."""
    import torch

    class Probed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.seen: dict[str, Any] = {}
            for path, child in module.net.named_modules():
                name = path.removeprefix("text_model.")
                if path not in ("", "text_model") and not type(child).__name__.startswith(PASSING):
                    child.register_forward_hook(lambda _, args, output, name=name: self.take(name, output))

        def take(self, name: str, output: Any) -> None:
            calls = next(n for n in itertools.count(1) if (name if n == 1 else f"{name}#{n}") not in self.seen)
            result = next(tensors([output]), None)
            if result is not None:
                self.seen[name if calls == 1 else f"{name}#{calls}"] = result

        def forward(self, *args):
            self.seen = {}
            return (self.inner(*args), *self.seen.values())

        def names(self) -> list[str]:
            return list(self.seen)

    return Probed().eval()


Compiled = Callable[[list[np.ndarray]], list[np.ndarray]]
Maker = Callable[[Any, list[np.ndarray]], Compiled]  # a module and inputs of the shapes to compile it for


def converted(make: Maker, folder: Path, layers: bool) -> dict[str, Function]:
    """A compiling runtime: each network is converted when it is first called with inputs of new shapes."""
    modules = wrapped(torch_modules(folder, "float32"))

    def function(module: Any) -> Function:
        known: dict[Any, tuple[Compiled, list[str]]] = {}
        module = probed(module) if layers else module

        def run(*arrays: np.ndarray) -> tuple[np.ndarray, Layers]:
            shapes = tuple(a.shape for a in arrays)
            inputs = [np.ascontiguousarray(a, a.dtype if a.dtype.kind == "i" else np.float32) for a in arrays]
            if shapes not in known:
                compiled = make(module, inputs)
                known[shapes] = compiled, module.names() if layers else []
            compiled, names = known[shapes]
            output, *inner = compiled(inputs)
            return output, dict(zip(names, inner, strict=True))

        return run

    return {name: function(module) for name, module in modules.items()}


def openvino_maker(hint: str) -> Maker:
    """OpenVINO with a precision hint; a processor that can't compute in it is refused."""
    import openvino
    import torch

    core = openvino.Core()

    def make(module: Any, inputs: list[np.ndarray]) -> Compiled:
        with torch.no_grad():
            found = openvino.convert_model(module, example_input=tuple(map(torch.from_numpy, inputs)))
        compiled = core.compile_model(found, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != hint:
            raise RuntimeError(f"this processor computes {used} where {hint} was asked for")
        return lambda arrays: [np.array(x, np.float32) for x in compiled(arrays).to_tuple()]

    return make


def onnxruntime_maker() -> Maker:
    """ONNX Runtime on the processor."""
    import onnxruntime
    import torch

    folder = tempfile.TemporaryDirectory(prefix="conformance-onnx-")
    count = itertools.count()

    def make(module: Any, inputs: list[np.ndarray]) -> Compiled:
        file = Path(folder.name) / str(next(count)) / "network.onnx"  # large weights lie beside it
        file.parent.mkdir()
        torch.onnx.export(module, tuple(map(torch.from_numpy, inputs)), str(file), dynamo=False)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))

    return make
