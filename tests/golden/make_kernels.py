"""How far PyTorch's float32 is from float64 on the cases of `kernels/cases.py`: what the kernels are measured by.

    python tests/golden/make_kernels.py             on a processor with AVX-512
    python tests/golden/make_kernels.py --full      of the whole UNet and VAE at full published width
    python tests/golden/make_kernels.py --bf16      of both, PyTorch in bfloat16

PyTorch sums in another order with AVX2 than with AVX-512 vectors, and its convolutions err up to four times as much, so
both figures are stored.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
from golden.kernels.cases import CASES, SEED, VECTORS, arrays, call, relative_rms  # noqa: E402
from golden.make_models import arrays as input_arrays  # noqa: E402
from golden.make_models import compute, full_width_case  # noqa: E402
from golden.model_cases import sampled  # noqa: E402
from golden.provenance import load_golden, save_golden  # noqa: E402

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


def _norm_silu_conv2d(x, nw, nb, w, b, shift=None, residual=None, *, groups, eps):  # type: ignore[no-untyped-def]
    y = _image(F.conv2d, F.silu(_image(_group_norm, x, nw, nb, groups, eps)), w, b, padding=1)
    y = y if shift is None else y + shift[:, None, None, :]
    return y if residual is None else y + residual


def _quick_gelu(x):  # type: ignore[no-untyped-def]
    return x * torch.sigmoid(1.702 * x)


ISA = {"avx2": "AVX2", "avx512": "AVX512_CORE"}
ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "quick_gelu": _quick_gelu}


TORCH = {
    "linear": F.linear,
    "conv2d": lambda *a, **s: _image(F.conv2d, *a, **s),
    "upsample_conv2d": lambda *a: _image(
        lambda x, w, b: F.conv2d(F.interpolate(x, scale_factor=2), w, b, padding=1), *a
    ),
    "group_norm": lambda *a, **s: _image(_group_norm, *a, **s),
    "norm_silu": lambda *a, **s: F.silu(_image(_group_norm, *a, **s)),
    "norm_silu_conv2d": _norm_silu_conv2d,
    "conv2d_residual": lambda x, w, b, r, **s: _image(F.conv2d, x, w, b, **s) + r,
    "linears": lambda x, *rest: torch.cat([F.linear(x, rest[i], rest[i + 3]) for i in range(3)], -1),
    "linear_residual": lambda x, w, b, r: F.linear(x, w, b) + r,
    "linear_activation": lambda x, w, b, activation: ACTIVATIONS[activation](F.linear(x, w, b)),
    "avg_pool2d": lambda x, kernel: _image(F.avg_pool2d, x, kernel),
    "layer_norm": lambda x, w, b, eps: F.layer_norm(x, x.shape[-1:], w, b, eps),
    "silu": F.silu,
    "gelu": F.gelu,
    "quick_gelu": _quick_gelu,
    "geglu": _geglu,
    "linear_geglu": lambda x, w, b: _geglu(F.linear(x, w, b)),
    "softmax": lambda x: F.softmax(x, -1),
    "attention": _attention,
}


def errors(dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """PyTorch's error in every case, with the vectors that this process may use."""
    torch.set_num_threads(2)
    found = {}
    for case, (operator, _, settings) in CASES.items():
        inputs = arrays(case)
        y = TORCH[operator](*[torch.from_numpy(a).to(dtype) for a in inputs], **settings).float().numpy()
        oracle = call(ops, case, [a.astype(np.float64) for a in inputs])
        found[case] = relative_rms(y, oracle)
    return found


def full_width_errors(dtype: str = "float32") -> dict[str, float]:
    """PyTorch's error in each output of the UNet and the VAE at Stable Diffusion 1.5's width, against the goldens."""
    torch.set_num_threads(2)
    found = {}
    for name in ("sd15_unet", "sd15_vae"):
        oracle, _ = load_golden(f"models/{name}")
        case = full_width_case(name)
        for output, value in compute(case, input_arrays(case), dtype).items():
            output = output.removeprefix(f"{dtype}/")
            found[f"{name}/{output}"] = relative_rms(sampled(value), oracle[f"float64/{output}"])
    return found


def main() -> None:
    """Run once for each width of vectors, and write the errors of all."""
    if sys.argv[1:] == ["print"]:
        print(json.dumps(errors()))
        return
    if sys.argv[1:] == ["print", "--full"]:
        print(json.dumps(full_width_errors()))
        return
    if sys.argv[1:] == ["--bf16"]:
        halves = errors(torch.bfloat16) | full_width_errors("bfloat16")
        save_golden("kernels/bf16_errors", {case: np.array(e) for case, e in halves.items()}, seed=SEED, threads=2)
        return
    found = {}
    for vectors in VECTORS:
        # ATen and oneDNN, which convolves, each ask a variable of their own.
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": vectors, "ONEDNN_MAX_CPU_ISA": ISA[vectors]}
        command = [sys.executable, __file__, "print", *sys.argv[1:]]
        printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        found |= {f"{vectors}/{case}": np.array(error) for case, error in json.loads(printed).items()}
    for case, error in found.items():
        print(f"{case:28} {error:.2e}")
    name = "full_width_errors" if "--full" in sys.argv else "errors"
    save_golden(f"kernels/{name}", found, seed=SEED, threads=2)


if __name__ == "__main__":
    main()
