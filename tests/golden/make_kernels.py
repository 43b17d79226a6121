"""How far PyTorch's float32 is from float64 on the cases of `kernels/cases.py`: what the kernels are measured by.

python tests/golden/make_kernels.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
from golden.kernels.cases import CASES, SEED, arrays, relative_rms  # noqa: E402
from golden.provenance import save_golden  # noqa: E402

from tinyldm import ops  # noqa: E402


def _image(f, x, *rest, **settings):  # type: ignore[no-untyped-def]
    """Call f on a channels-first image."""
    return f(x.movedim(-1, 1).contiguous(), *rest, **settings).movedim(1, -1)


def _group_norm(x, w, b, groups, eps):  # type: ignore[no-untyped-def]
    return F.group_norm(x, groups, w, b, eps)


def _attention(q, k, v, heads):  # type: ignore[no-untyped-def]
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _geglu(x):  # type: ignore[no-untyped-def]
    a, g = x.chunk(2, -1)
    return a * F.gelu(g)


def _norm_silu_conv2d(x, nw, nb, w, b, groups, eps):  # type: ignore[no-untyped-def]
    return F.conv2d(F.silu(F.group_norm(x, groups, nw, nb, eps)), w, b, padding=1)


TORCH = {
    "linear": F.linear,
    "conv2d": lambda *a, **s: _image(F.conv2d, *a, **s),
    "upsample_conv2d": lambda *a: _image(
        lambda x, w, b: F.conv2d(F.interpolate(x, scale_factor=2), w, b, padding=1), *a
    ),
    "group_norm": lambda *a, **s: _image(_group_norm, *a, **s),
    "norm_silu": lambda *a, **s: F.silu(_image(_group_norm, *a, **s)),
    "norm_silu_conv2d": lambda *a, **s: _image(_norm_silu_conv2d, *a, **s),
    "layer_norm": lambda x, w, b, eps: F.layer_norm(x, x.shape[-1:], w, b, eps),
    "silu": F.silu,
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "geglu": _geglu,
    "linear_geglu": lambda x, w, b: _geglu(F.linear(x, w, b)),
    "softmax": lambda x: F.softmax(x, -1),
    "attention": _attention,
}


def main() -> None:
    """Write the errors."""
    torch.set_num_threads(2)
    errors = {}
    for case, (operator, _, settings) in CASES.items():
        inputs = arrays(case)
        y = TORCH[operator](*map(torch.from_numpy, inputs), **settings).numpy()
        order = (0, 1, 2, "groups", "eps", 3, 4) if operator == "norm_silu_conv2d" else range(len(inputs))
        exact = [settings[i] if isinstance(i, str) else inputs[i].astype(np.float64) for i in order]
        rest = {} if operator == "norm_silu_conv2d" else settings
        oracle = getattr(ops, operator)(*exact, **rest)
        errors[case] = np.array(relative_rms(y, oracle))
        print(f"{case:20} {errors[case]:.2e}")
    save_golden("kernels/errors", errors, seed=SEED, threads=2, processor=torch.backends.cpu.get_cpu_capability())


if __name__ == "__main__":
    main()
