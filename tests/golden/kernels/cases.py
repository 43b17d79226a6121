"""Fixed inputs on which float32 kernels and PyTorch's float32 are held against float64: operator, arrays, settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyldm import kernels
from tinyldm.golden.seeded import seeded_input, seeded_weight

# name: (operator of tinyldm.ops, shapes of its inputs and weights in order, keyword arguments). Weights have a dot in
# their name.
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "linear_320": ("linear", {"x": (2, 48, 320), "w.weight": (160, 320), "w.bias": (160,)}, {}),
    "linear_1280": ("linear", {"x": (1, 40, 1280), "w.weight": (96, 1280), "w.bias": (96,)}, {}),
    "linear_5120": ("linear", {"x": (1, 24, 5120), "w.weight": (64, 5120), "w.bias": (64,)}, {}),
    "conv_320": (
        "conv2d",
        {"x": (1, 16, 16, 320), "w.weight": (48, 320, 3, 3), "w.bias": (48,)},
        {"padding": 1},
    ),
    "conv_odd": ("conv2d", {"x": (2, 13, 11, 96), "w.weight": (40, 96, 3, 3), "w.bias": (40,)}, {"padding": 1}),
    "conv_in": ("conv2d", {"x": (1, 24, 24, 4), "w.weight": (64, 4, 3, 3), "w.bias": (64,)}, {"padding": 1}),
    "conv_out": ("conv2d", {"x": (1, 24, 24, 128), "w.weight": (3, 128, 3, 3), "w.bias": (3,)}, {"padding": 1}),
    "conv_down": (
        "conv2d",
        {"x": (1, 16, 16, 192), "w.weight": (48, 192, 3, 3), "w.bias": (48,)},
        {"padding": 1, "stride": 2},
    ),
    "conv_1x1": ("conv2d", {"x": (1, 12, 12, 640), "w.weight": (64, 640, 1, 1), "w.bias": (64,)}, {}),
    "upsample": ("upsample_conv2d", {"x": (1, 8, 8, 256), "w.weight": (48, 256, 3, 3), "w.bias": (48,)}, {}),
    "group_norm": (
        "group_norm",
        {"x": (2, 16, 16, 320), "n.weight": (320,), "n.bias": (320,)},
        {"groups": 32, "eps": 1e-5},
    ),
    "layer_norm": ("layer_norm", {"x": (2, 64, 640), "n.weight": (640,), "n.bias": (640,)}, {"eps": 1e-5}),
    "norm_silu": (
        "norm_silu",
        {"x": (2, 16, 16, 320), "n.weight": (320,), "n.bias": (320,)},
        {"groups": 32, "eps": 1e-5},
    ),
    "norm_silu_conv": (
        "norm_silu_conv2d",
        {
            "x": (1, 16, 16, 256),
            "n.weight": (256,),
            "n.bias": (256,),
            "w.weight": (64, 256, 3, 3),
            "w.bias": (64,),
        },
        {"groups": 32, "eps": 1e-6},
    ),
    "half_block": (
        "norm_silu_conv2d",
        {
            "x": (2, 12, 12, 320),
            "n.weight": (320,),
            "n.bias": (320,),
            "w.weight": (64, 320, 3, 3),
            "w.bias": (64,),
            "shift": (2, 64),
            "residual": (2, 12, 12, 64),
        },
        {"groups": 32, "eps": 1e-5},
    ),
    "conv_residual": (
        "conv2d_residual",
        {"x": (1, 12, 12, 640), "w.weight": (64, 640, 3, 3), "w.bias": (64,), "residual": (1, 12, 12, 64)},
        {"padding": 1},
    ),
    "silu": ("silu", {"x": (4, 4096)}, {}),
    "gelu": ("gelu", {"x": (4, 4096)}, {}),
    "quick_gelu": ("quick_gelu", {"x": (4, 4096)}, {}),
    "geglu": ("geglu", {"x": (4, 4096)}, {}),
    "linear_geglu": ("linear_geglu", {"x": (1, 64, 320), "w.weight": (256, 320), "w.bias": (256,)}, {}),
    "linear_silu": (
        "linear_activation",
        {"x": (1, 64, 320), "w.weight": (128, 320), "w.bias": (128,)},
        {"activation": "silu"},
    ),
    "linear_gelu": (
        "linear_activation",
        {"x": (1, 64, 768), "w.weight": (96, 768), "w.bias": (96,)},
        {"activation": "gelu"},
    ),
    "linear_quick_gelu": (
        "linear_activation",
        {"x": (1, 64, 768), "w.weight": (96, 768), "w.bias": (96,)},
        {"activation": "quick_gelu"},
    ),
    "linears": (
        "linears",
        {
            "x": (1, 64, 768),
            "w.q": (96, 768),
            "w.k": (96, 768),
            "w.v": (64, 768),
            "q.bias": (96,),
            "k.bias": (96,),
            "v.bias": (64,),
        },
        {},
    ),
    "linear_residual": (
        "linear_residual",
        {"x": (1, 64, 1280), "w.weight": (96, 1280), "w.bias": (96,), "residual": (1, 64, 96)},
        {},
    ),
    "avg_pool": ("avg_pool2d", {"x": (1, 12, 12, 64)}, {"kernel": 3}),
    "softmax": ("softmax", {"x": (64, 256)}, {}),
    "attention_self": ("attention", {"q": (1, 256, 160), "k": (1, 256, 160), "v": (1, 256, 160)}, {"heads": 4}),
    "attention_cross": ("attention", {"q": (2, 96, 160), "k": (2, 77, 160), "v": (2, 77, 160)}, {"heads": 2}),
    "attention_one_head": ("attention", {"q": (1, 100, 512), "k": (1, 300, 512), "v": (1, 300, 512)}, {"heads": 1}),
}
SEED = 11
VECTORS = ("avx2", "avx512")  # that PyTorch computed with


def arrays(case: str) -> list[np.ndarray]:
    """The inputs and weights of a case, float32."""
    _, shapes, _ = CASES[case]
    make = {False: seeded_input, True: seeded_weight}
    return [make["." in name](f"{case}.{name}", shape, SEED) for name, shape in shapes.items()]


def call(module: Any, case: str, inputs: list[Any]) -> np.ndarray:
    """The case's operator of a module (`tinyldm.ops` or `tinyldm.kernels`) on these inputs."""
    operator, shapes, settings = CASES[case]
    if operator == "linears":
        x, *rest = inputs
        return np.concatenate(module.linears(x, rest[: len(rest) // 2], rest[len(rest) // 2 :]), axis=-1)
    by_name = dict(zip(shapes, inputs, strict=True))
    optional = {
        name: by_name.pop(name) for name in ("shift", "residual") if operator == "norm_silu_conv2d" and name in by_name
    }
    plain = [settings[name] for name in ("groups", "eps", "heads", "activation", "kernel") if name in settings]
    keywords = {name: value for name, value in settings.items() if name in ("stride", "padding")}
    given = list(by_name.values())
    place = 3 if operator == "norm_silu_conv2d" else len(given)
    return getattr(module, operator)(*given[:place], *plain, *given[place:], **keywords, **optional)


def prepared(case: str, inputs: list[np.ndarray], precision: str) -> list[Any]:
    """The inputs with the filters of a convolution prepared for the kernels."""
    operator, shapes, settings = CASES[case]
    given: list[Any] = list(inputs)
    for i, (name, array) in enumerate(zip(shapes, inputs, strict=True)):
        if name == "w.weight" and operator == "upsample_conv2d":
            given[i] = kernels.prepare_upsample_conv2d(array, precision)
        elif name == "w.weight" and array.ndim == 4:
            given[i] = kernels.prepare_conv2d(array, settings.get("stride", 1), precision)
    return given


def relative_rms(y: np.ndarray, oracle: np.ndarray) -> float:
    """The RMS of the error over the RMS of what is right."""
    return float(np.sqrt(np.mean(np.square(y - oracle)) / np.mean(np.square(oracle))))
