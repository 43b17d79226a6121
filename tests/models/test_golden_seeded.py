"""The seeded-weight generator against a second one, number by number, and against the page that defines it."""

import math

import numpy as np
import pytest
from golden import seeded_vectors
from golden.provenance import HERE
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.golden import seeded

names = st.sampled_from(["conv_in.weight", "norm.weight", "norm.bias", "weight"]) | st.text(max_size=5)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
seeds = st.integers(0, 2**40)


def bits(values: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(b"".join(values), ">f4").reshape(shape)


@settings(deadline=None, max_examples=60)
@given(names, shapes, seeds)
def test_weights_and_inputs_bit_for_bit(name, shape, seed):
    count = math.prod(shape)
    weight = seeded.seeded_weight(name, shape, seed)
    assert weight.dtype == np.float32
    wanted = [seeded_vectors.weight(name, shape, i, seed) for i in range(count)]
    np.testing.assert_array_equal(weight, bits(wanted, shape))
    wanted = [seeded_vectors.model_input(name, i, seed) for i in range(count)]
    np.testing.assert_array_equal(seeded.seeded_input(name, shape, seed), bits(wanted, shape))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch):
    whole = seeded.seeded_weight("conv_in.weight", (7, 5, 3), 0)
    monkeypatch.setattr(seeded, "BLOCK", 4)
    np.testing.assert_array_equal(seeded.seeded_weight("conv_in.weight", (7, 5, 3), 0), whole)


def test_the_page_shows_the_vectors_that_the_command_prints():
    page = (HERE.parents[1] / "docs" / "goldens.md").read_text(encoding="utf-8")
    assert seeded_vectors.table() in page
