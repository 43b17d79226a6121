"""Links between original and canonical tensors: both ways, against slicing written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from golden.family_cases import FIRST_STAGES, UNETS
from golden.family_files import shapes_of
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.families import FAMILIES
from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import Link, LinkedSource
from tinyldm.checkpoints.names.text import bert_links, openclip_links
from tinyldm.checkpoints.names.unet import unet_links
from tinyldm.errors import CheckpointError


@settings(deadline=None, max_examples=60)
@given(
    parts=st.integers(1, 3),
    heads=st.integers(1, 3),
    channels=st.integers(1, 3),
    columns=st.integers(1, 4),
    units=st.integers(0, 2),
    transposed=st.booleans(),
)
def test_a_link_splits_and_joins(parts, heads, channels, columns, units, transposed) -> None:
    rows = parts * heads * channels
    matrix = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    pieces = []
    for part in range(parts):  # by hand: for every head the part's rows
        kept = [h * parts * channels + part * channels + c for h in range(heads) for c in range(channels)]
        pieces.append(matrix[kept] if parts > 1 else matrix)
    stored = matrix.T if transposed else matrix
    stored = stored.reshape(*stored.shape, *[1] * units)
    names = tuple(f"part{i}" for i in range(parts))
    link = Link("whole", names, heads=heads, transposed=transposed, unit_axes=units)

    canonical = LinkedSource(MemorySource({"whole": stored}), [link])
    assert canonical.names == names
    for name, piece in zip(names, pieces, strict=True):
        assert canonical.shape(name) == piece.shape
        np.testing.assert_array_equal(canonical.read(name), piece)
        assert not canonical.read(name).flags.writeable
        assert canonical.original_name(name) == "whole"
    original = LinkedSource(canonical, [link], to="original")
    assert original.shape("whole") == stored.shape
    np.testing.assert_array_equal(original.read("whole"), stored)


def test_a_view_keeps_the_stored_type() -> None:
    source = MemorySource({"in_proj": np.arange(12, dtype=np.float16).reshape(6, 2)})
    view = LinkedSource(source, [Link("in_proj", ("q", "k", "v"))])
    assert view.dtype("k") == "F16"
    assert view.read("k", None).dtype == np.float16
    np.testing.assert_array_equal(view.read("k"), [[4, 5], [6, 7]])


@pytest.mark.parametrize("shape", [(7, 2), (), (0,)])
def test_what_cannot_be_split(shape: tuple[int, ...]) -> None:
    source = MemorySource({"in_proj": np.zeros(shape, np.float32)})
    if shape == (0,):
        assert LinkedSource(source, [Link("in_proj", ("q", "k", "v"))]).shape("q") == (0,)
        return
    with pytest.raises(CheckpointError, match=r"'in_proj' of shape .* does not split into 3 tensors"):
        LinkedSource(source, [Link("in_proj", ("q", "k", "v"))])


def test_what_cannot_be_joined() -> None:
    source = MemorySource({"q": np.zeros((2, 2)), "k": np.zeros((2, 3)), "v": np.zeros((2, 2))})
    with pytest.raises(CheckpointError, match="differs in shape"):
        LinkedSource(source, [Link("in_proj", ("q", "k", "v"))], to="original")


def test_a_link_to_nothing() -> None:
    source = MemorySource({"a": np.zeros(2)}, path="file")
    with pytest.raises(CheckpointError, match="file: has no tensor 'b'"):
        LinkedSource(source, [Link("b", ("c",))])
    view = LinkedSource(source, [Link("a", ("c",))])
    with pytest.raises(CheckpointError, match="has no tensor 'a'"):
        view.read("a")


def meaningful(shapes: dict[str, tuple[int, ...]]) -> MemorySource:
    """Tensors that all differ, and within themselves."""
    counter = iter(range(10**6))
    return MemorySource(
        {n: np.arange(np.prod(s), dtype=np.float32).reshape(s) + next(counter) for n, s in shapes.items()}
    )


def assert_round_trip(source: MemorySource, links: list[Link], back) -> None:
    canonical = LinkedSource(source, links)
    assert len(set(canonical.names)) == len(canonical.names)
    original = LinkedSource(canonical, back(canonical), to="original")
    assert set(original.names) == set(source.names)
    for name in source.names:
        assert original.shape(name) == source.shape(name)
        np.testing.assert_array_equal(original.read(name), source.read(name))


@pytest.mark.parametrize("family", UNETS)
def test_unet_there_and_back(family: str) -> None:
    source = meaningful(shapes_of(load_golden(f"families/unet-{family}")[0]))
    heads = next(f.heads for f in FAMILIES if f.name == family)
    links = unet_links(source.names, "original", heads, source.shape)
    assert_round_trip(source, links, lambda view: unet_links(view.names, "canonical", heads, view.shape))


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage_there_and_back(name: str) -> None:
    source = meaningful(shapes_of(load_golden(f"families/first-stage-{name}")[0]))
    links = autoencoder_links(source.names, "original")
    assert_round_trip(source, links, lambda view: autoencoder_links(view.names, "canonical"))


def test_text_encoders_there_and_back() -> None:
    from golden.family_cases import openclip_shapes

    shapes = {name: shape for name, shape in openclip_shapes(4, 3).items() if name != "logit_scale"}
    source = meaningful(shapes)
    links = openclip_links(source.names, "original")
    assert_round_trip(source, links, lambda view: openclip_links(view.names, "canonical"))
    shapes = shapes_of(load_golden("families/bert")[0])
    source = meaningful({name: shape for name, shape in shapes.items() if not name.startswith("to_logits")})
    links = bert_links(source.names, "original")
    assert_round_trip(source, links, lambda view: bert_links(view.names, "canonical"))
