"""Record a PyTorch model as a golden file: for the other side of a comparison.

Works on any tree of modules that has `named_modules` and `register_forward_hook`, by duck typing: PyTorch is not
imported. With the components of a diffusers pipeline, the keys are those that `tinyldm golden record` writes:

```python
from tinyldm.golden.torch_recorder import TorchRecorder

parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
with TorchRecorder("theirs.safetensors", **parts):
    pipe("red apple", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from tinyldm.errors import InputError
from tinyldm.golden.store import GoldenWriter, selected

# Modules that hand their input on, in evaluation at least.
PASSING = ("Dropout", "Identity")
# The first arguments and the result of the models that tinyldm names at its boundary, under tinyldm's names: those of
# diffusers and transformers, and the UNet of the original repositories (CompVis).
BOUNDARIES: dict[str, tuple[dict[str, str], str]] = {
    "UNet2DConditionModel": ({"sample": "z", "timestep": "t", "encoder_hidden_states": "context"}, "epsilon"),
    "UNetModel": ({"x": "z", "timesteps": "t", "context": "context"}, "epsilon"),
    "CLIPTextModel": ({"input_ids": "ids"}, "context"),
}
VAE_INPUTS = {"post_quant_conv": "decode.z", "encoder": "encode.pixels"}


class Module(Protocol):
    """What is asked of a PyTorch module to record it."""

    def named_modules(self) -> Iterable[tuple[str, Module]]:
        """The module itself, under the empty path, and all below it."""

    def register_forward_pre_hook(self, hook: Callable[..., None], *, with_kwargs: bool) -> Any:
        """Have a function called with the module and its arguments before each call; `remove()` takes it off again."""

    def register_forward_hook(self, hook: Callable[..., None], *, with_kwargs: bool) -> Any:
        """Have a function called with the module, its arguments and its result after each call."""


class Taken(NamedTuple):
    """What was recorded of a call: the key, the output, the inputs, and the tag to store them as."""

    key: str
    output: np.ndarray
    inputs: tuple[np.ndarray, ...]
    tag: str | None


class TorchRecorder:
    """Record the outputs of every module of the given components while the context is open.

    `select`, `inputs`, `sample` and `values` are those of `tinyldm golden record`; `metadata` is written as it is. A
    module that is called again within a step gets `#2`, `#3` and so on behind its name. A component's step counts its
    calls; of a component that is called by a method of its own (`vae.decode`), a step ends where a module without
    parents among those seen is called again.

    `guidance` names the component that a diffusers pipeline calls for the prompt and then for the negative prompt: the
    two calls become one batch, the negative half first, as the UNet sees it and tinyldm records it. Where nothing is
    given it is the `CLIPTextModel`, if there is one; `""` records all calls as they come.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        select: str | Sequence[str] = "*",
        inputs: bool = False,
        sample: int | None = None,
        values: bool = True,
        metadata: Mapping[str, Any] | None = None,
        guidance: str | None = None,
        **components: Module,
    ) -> None:
        if not components:
            raise InputError("TorchRecorder: name the modules to record, such as unet=pipe.unet")
        for name, module in components.items():
            if not hasattr(module, "named_modules") or not hasattr(module, "register_forward_hook"):
                raise InputError(f"TorchRecorder: {name} is a {type(module).__name__}, not a tree of PyTorch modules")
        if guidance is None:
            guidance = next((name for name, m in components.items() if type(m).__name__ == "CLIPTextModel"), "")
        if guidance and guidance not in components:
            raise InputError(f"TorchRecorder: guidance names {guidance!r}, which is not among {', '.join(components)}")
        self._guidance = guidance
        self._held: list[Taken] = []
        self._writer = GoldenWriter(path, metadata, sample=sample, values=values)
        self._patterns = [select] if isinstance(select, str) else list(select)
        self._inputs = inputs
        self._components = components
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._writer.__enter__()
        for name, module in self._components.items():
            self._hook(_Component(name, module, self._take))
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None:
            self._write_held()
        if kind is None and not self._writer.order:
            error = InputError(f"{self._writer.path}: nothing was recorded: no selected module was called")
            self._writer.__exit__(InputError, error, None)
            raise error
        self._writer.__exit__(kind, *exception)

    def _hook(self, component: _Component) -> None:
        for path, module in component.root.named_modules():
            if type(module).__name__.startswith(PASSING):
                continue
            before, after = component.hooks(path)
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after, with_kwargs=True))

    def _take(self, key: str, output: Any, args: Sequence[Any]) -> None:
        if not selected(key, self._patterns):
            return
        array, tag = to_numpy(output)
        inputs = tuple(to_numpy(x)[0] for x in tensors(args)) if self._inputs else ()
        if key.split("/")[1].split(":")[0] == self._guidance:
            self._held.append(Taken(key, array.copy(), tuple(x.copy() for x in inputs), tag))
            return
        self._write_held()
        self._writer.add(key, array, inputs, tag)

    def _write_held(self) -> None:
        """Write what was held back: two calls that are alike as one batch, anything else as it came."""
        held, self._held = self._held, []
        for taken in as_one_batch(held):
            self._writer.add(*taken)


def as_one_batch(held: list[Taken]) -> list[Taken]:
    """The tensors of two calls as those of one, the second call's half first; of any other number as they are."""
    first, second = (held[: len(held) // 2], held[len(held) // 2 :])
    names = [[taken.key.partition("/")[2] for taken in half] for half in (first, second)]
    if not first or names[0] != names[1] or len({taken.key.partition("/")[0] for taken in held}) != 2:
        return held

    def joined(key: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        has_batch = not key.endswith("position_embedding")  # which is the same for every prompt
        return np.concatenate([b, a]) if has_batch else a

    def both(a: Taken, b: Taken) -> Taken:
        inputs = tuple(joined(a.key, x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
        return a._replace(output=joined(a.key, a.output, b.output), inputs=inputs)

    return [both(a, b) for a, b in zip(first, second, strict=True)]


class _Component:
    """One tree of modules: which step it is in, and under which keys its calls are recorded."""

    def __init__(self, name: str, root: Module, take: Callable[[str, Any, Sequence[Any]], None]) -> None:
        self.name, self.root, self._take = name, root, take
        self._step = -1
        self._calls: dict[str, int] = {}
        self._depth = 0
        kind = type(root).__name__
        self._boundary = BOUNDARIES.get(kind, ({}, ""))
        self._is_vae = kind == "AutoencoderKL"

    def hooks(self, path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """What runs before and after the module `path`; the empty path is the root."""

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._depth == 0 and (self._step < 0 or not path or path in self._calls):
                self._step += 1
                self._calls = {}
                if not path:
                    self._boundary_in(args, kwargs)
            self._depth += 1
            if self._is_vae and path in VAE_INPUTS:
                self._take_boundary(VAE_INPUTS[path], args[0])

        def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._depth -= 1
            if not path:
                self._boundary_out(output)
                return
            call = self._calls[path] = self._calls.get(path, 0) + 1
            key = f"{self._step:04d}/{self.name}/{path.removeprefix('text_model.')}"
            result = next(tensors([output]), None)
            if result is None or path == "text_model":
                return
            self._take(key if call == 1 else f"{key}#{call}", result, [*args, *kwargs.values()])
            if self._is_vae:
                self._vae_out(path, result)

        return before, after

    def _boundary_in(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names, _ = self._boundary
        given = dict(zip(names, args, strict=False)) | kwargs
        batch = next(iter(tensors([given.get(name) for name, ours in names.items() if ours == "z"])), None)
        for theirs, ours in names.items():
            value = given.get(theirs)
            if value is None:
                continue
            if ours == "t":
                value = np.broadcast_to(to_numpy(value)[0], (len(batch),) if batch is not None else ())
            self._take_boundary(ours, value)

    def _vae_out(self, path: str, result: Any) -> None:
        """What `encode` and `decode` return, which are no modules."""
        arrays = {"decode.pixels": result} if path == "decoder" else {}
        if path == "quant_conv":
            mean, logvar = np.split(to_numpy(result)[0], 2, axis=1)
            arrays = {"encode.mean": mean, "encode.logvar": np.clip(logvar, -30, 20)}
        for name, array in arrays.items():
            self._take_boundary(name, array)

    def _boundary_out(self, output: Any) -> None:
        _, name = self._boundary
        result = next(tensors([output]), None)
        if name and result is not None:
            self._take_boundary(name, result)

    def _take_boundary(self, name: str, value: Any) -> None:
        self._take(f"{self._step:04d}/{self.name}:{name}", value, ())


def tensors(values: Any) -> Iterator[Any]:
    """The tensors among values, in order; lists, tuples and the values of mappings are looked into."""
    for value in values:
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)
        elif isinstance(value, Mapping):
            yield from tensors(value.values())


def to_numpy(value: Any) -> tuple[np.ndarray, str | None]:
    """A tensor, array or number as an array, and the tag to store it as where NumPy lacks its type (`BF16`)."""
    if not hasattr(value, "detach"):
        return np.asarray(value), None
    value = value.detach().cpu()
    if "bfloat16" in str(value.dtype):
        return value.float().numpy(), "BF16"
    return value.numpy(), None


def module_runner(from_numpy: Callable[[np.ndarray], Any], **components: Any) -> Callable[..., Any]:
    """A candidate for `bisect` out of PyTorch modules: `module_runner(torch.from_numpy, unet=pipe.unet)`.

    It runs modules that take one tensor, and the diffusers blocks whose arguments it knows; of others it says nothing.
    """

    def run(key: str, inputs: list[np.ndarray]) -> Any:
        _, name, path = [*key.split("/", 2), "", ""][:3]
        modules = components[name].named_modules() if name in components else ()
        module = {p.removeprefix("text_model."): m for p, m in modules}.get(path.partition("#")[0]) if path else None
        if module is None:
            return None
        dtype = next((p.dtype for p in components[name].parameters()), None)
        given = [from_numpy(np.ascontiguousarray(x)) for x in inputs]
        given = [x.to(dtype) if x.is_floating_point() else x for x in given]
        arguments = call_arguments(module, given)
        if arguments is None:
            return None
        return next(tensors([module(*arguments[0], **arguments[1])]))

    return run


# The arguments of the blocks of diffusers and of a text encoder's layers, in the order in which tinyldm records their
# inputs. `SKIPS` are several; `UNUSED` is the context, which every block is given and those without attention do not
# take.
SKIPS = "res_hidden_states_tuple"
CONTEXT = "encoder_hidden_states"
UNUSED = ""
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "ResnetBlock2D": ("input_tensor", "temb"),
    "Transformer2DModel": ("hidden_states", CONTEXT),
    "BasicTransformerBlock": ("hidden_states", CONTEXT),
    "DownBlock2D": ("hidden_states", "temb", UNUSED),
    "CrossAttnDownBlock2D": ("hidden_states", "temb", CONTEXT),
    "UNetMidBlock2DCrossAttn": ("hidden_states", "temb", CONTEXT),
    "UpBlock2D": ("hidden_states", SKIPS, "temb", UNUSED),
    "CrossAttnUpBlock2D": ("hidden_states", SKIPS, "temb", CONTEXT),
    "CLIPEncoderLayer": ("hidden_states", "attention_mask"),
}


def call_arguments(module: Any, given: list[Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """What to call a module with, by place and by name; None where its recorded inputs are not all that it takes."""
    names = ARGUMENTS.get(type(module).__name__)
    if names is None:
        return (given, {}) if len(given) == 1 else None
    if names == ARGUMENTS["ResnetBlock2D"] and len(given) == 1:  # in an autoencoder it has no time
        return [], {"input_tensor": given[0], "temb": None}
    skips = len(given) - len(names) + 1 if SKIPS in names else 1
    if skips < 1 or len(given) != len(names) - 1 + skips:
        return None
    values = iter(given)
    named = {n: tuple(next(values) for _ in range(skips)) if n == SKIPS else next(values) for n in names}
    return [], {n: value for n, value in named.items() if n != UNUSED}
