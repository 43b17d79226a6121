"""Rounding errors against float64, held against PyTorch's float32 on the same inputs (figures stored from a run)."""

import numpy as np
import pytest
from golden.kernels.cases import CASES, VECTORS, arrays, call, prepared, relative_rms
from golden.provenance import load_golden

from tinyldm import kernels, ops


def error(case, precision):
    inputs = arrays(case)
    oracle = call(ops, case, [a.astype(np.float64) for a in inputs])
    return relative_rms(call(kernels, case, prepared(case, inputs, precision)), oracle)


@pytest.fixture(scope="module")
def pytorch():
    tensors, _ = load_golden("kernels/errors")
    return {vectors: {case: tensors[f"{vectors}/{case}"].item() for case in CASES} for vectors in VECTORS}


@pytest.mark.parametrize("vectors", VECTORS)
def test_strict_is_as_exact_as_pytorch(pytorch, vectors):
    ours = [error(case, "strict") ** 2 for case in CASES]
    theirs = [pytorch[vectors][case] ** 2 for case in CASES]
    assert np.mean(ours) ** 0.5 <= 1.1 * np.mean(theirs) ** 0.5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("vectors", VECTORS)
def test_fast_is_within_three_times_pytorch(pytorch, vectors, case):
    assert error(case, "fast") <= 3 * pytorch[vectors][case]


def test_every_operator_that_rounds_has_a_case():
    exact = {"embedding", "upsample_nearest", "timestep_embedding", "moments"}  # the last two are float64, rounded once
    exact |= {"affine_silu_conv2d"}  # the second half of norm_silu_conv2d, which has cases
    assert {operator for operator, _, _ in CASES.values()} == set(ops.__all__) & set(kernels.__all__) - exact
