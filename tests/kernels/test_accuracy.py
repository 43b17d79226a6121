"""Rounding errors against float64, held against PyTorch's float32 on the same inputs (figures stored from a run)."""

import numpy as np
import pytest
from golden.kernels.cases import CASES, arrays, relative_rms
from golden.provenance import load_golden

from tinyldm import kernels, ops


def error(case, precision):
    operator, _, settings = CASES[case]
    inputs = arrays(case)
    names = [name for name in settings if name in ("groups", "eps", "heads")]
    rest = {name: value for name, value in settings.items() if name not in names}
    plain = [settings[name] for name in names]
    place = 3 if operator in ("norm_silu_conv2d", "attention", "group_norm", "norm_silu", "layer_norm") else len(inputs)
    exact = [a.astype(np.float64) for a in inputs]
    oracle = getattr(ops, operator)(*exact[:place], *plain, *exact[place:], **rest)
    for i, (name, array) in enumerate(zip(CASES[case][1], inputs, strict=True)):
        if name == "w.weight" and array.ndim == 4:
            inputs[i] = kernels.prepare_conv2d(array, settings.get("stride", 1), precision)
    y = getattr(kernels, operator)(*inputs[:place], *plain, *inputs[place:], **rest)
    return relative_rms(y, oracle)


@pytest.fixture(scope="module")
def pytorch():
    tensors, _ = load_golden("kernels/errors")
    return {case: tensors[case].item() for case in CASES}


def test_strict_is_as_exact_as_pytorch(pytorch):
    ours = [error(case, "strict") ** 2 for case in CASES]
    theirs = [pytorch[case] ** 2 for case in CASES]
    assert np.mean(ours) ** 0.5 <= 1.1 * np.mean(theirs) ** 0.5


@pytest.mark.parametrize("case", CASES)
def test_fast_is_within_three_times_pytorch(pytorch, case):
    assert error(case, "fast") <= 3 * pytorch[case]
