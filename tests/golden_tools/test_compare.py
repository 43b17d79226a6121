import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyldm.errors import TinyldmError
from tinyldm.golden import Golden, GoldenWriter
from tinyldm.golden.compare import compare
from tinyldm.golden.layouts import layout_of
from tinyldm.golden.metrics import measure
from tinyldm.golden.report_text import as_text
from tinyldm.golden.tolerance import AutoTolerance, Tolerance

FLOATS = hnp.arrays("f4", hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(-1e3, 1e3, width=32))


@settings(deadline=None, max_examples=60)
@given(FLOATS, st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_a_naive_loop(g, seed):
    c = (g + np.random.default_rng(seed).standard_normal(g.shape).astype(np.float32)).astype(np.float32)
    m = measure(g, c)
    pairs = [(float(a), float(b)) for a, b in zip(g.ravel(), c.ravel(), strict=True)]
    assert m.max_abs == max(abs(b - a) for a, b in pairs)
    assert m.rmse == pytest.approx(np.sqrt(sum((b - a) ** 2 for a, b in pairs) / len(pairs)))
    assert m.largest == max(abs(a) for a, _ in pairs)
    norm = np.linalg.norm([a for a, _ in pairs]) * np.linalg.norm([b for _, b in pairs])
    if norm:
        assert m.cosine == pytest.approx(sum(a * b for a, b in pairs) / norm, abs=1e-12)


def test_ulp_is_the_distance_in_representable_numbers():
    g = np.array([1.0, -3.0, 1000.0], np.float32)
    for steps in (1, 2, 5):
        c = g.copy()
        for _ in range(steps):
            c = np.nextafter(c, np.float32(np.inf))
        assert measure(g, c).ulp == steps


def test_nan_and_infinity_are_counted():
    m = measure(np.array([1.0, 2, np.inf, 4]), np.array([np.nan, 2, np.inf, np.inf]))
    assert (m.nan, m.inf, m.nonfinite_differ, m.max_abs) == (1, 2, 2, 0.0)


def noise(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape)


# Files ------------------------------------------------------------------------------------------------------------


def write(path, tensors, inputs=None, sample=None, values=True, **metadata):
    with GoldenWriter(path, metadata, sample=sample, values=values) as writer:
        for key, value in tensors.items():
            writer.add(key, value, (inputs or {}).get(key, ()))
    return Golden(path)


A = {f"0000/unet/{name}": noise(2, 3, 4, 4).astype(np.float32) + i for i, name in enumerate("abc")}


def bent(key, by=0.1):
    return {k: v + np.float32(by) * (k == key) for k, v in A.items()}


def test_the_first_wrong_tensor_is_named_and_what_follows_inherits(tmp_path):
    wrong = bent("0000/unet/b") | {"0000/unet/c": A["0000/unet/c"] * 2}
    found = compare(write(tmp_path / "g", A), write(tmp_path / "c", wrong))
    assert [r.status for r in found.results] == ["ok", "failed", "failed"]
    assert [r.inherited for r in found.results] == [False, False, True]
    assert found.culprit == "0000/unet/b"
    assert found.status == 1


def test_input_errors_tell_inherited_and_own_errors_apart(tmp_path):
    x, y = noise(3, 3).astype(np.float32), noise(3).astype(np.float32)
    golden = write(tmp_path / "g", {"0000/unet/a.b": x, "0000/unet/a": x + 1}, {"0000/unet/a.b": (y,)})
    same_input = write(tmp_path / "c", {"0000/unet/a.b": x + 1, "0000/unet/a": x + 1}, {"0000/unet/a.b": (y,)})
    other = write(tmp_path / "d", {"0000/unet/a.b": x + 1, "0000/unet/a": x + 1}, {"0000/unet/a.b": (y + 1,)})
    assert compare(golden, same_input).culprit == "0000/unet/a.b"
    found = compare(golden, other)
    assert found.culprit == "0000/unet/a"
    assert found.first.inherited
    assert found.first.input_error == pytest.approx(1 / np.sqrt(np.mean(np.square(y, dtype=np.float64))))


def test_a_relative_tolerance_is_of_the_largest_value(tmp_path):
    golden = write(tmp_path / "g", A)
    candidate = write(tmp_path / "c", bent("0000/unet/c", 0.05))
    largest = float(np.abs(A["0000/unet/c"]).max())
    assert compare(golden, candidate, Tolerance(0.051 / largest)).status == 0
    assert compare(golden, candidate, Tolerance(0.049 / largest)).status == 1


@pytest.mark.parametrize("kept", [{"sample": 7}, {"values": False}])
@pytest.mark.parametrize("side", ["golden", "candidate", "both"])
def test_samples_and_statistics_are_compared_with_whole_tensors(tmp_path, kept, side):
    golden = write(tmp_path / "g", A, **(kept if side != "candidate" else {}))
    options = kept if side != "golden" else {}
    assert compare(golden, write(tmp_path / "c", A, **options)).status == 0
    found = compare(golden, write(tmp_path / "d", bent("0000/unet/b"), **options))
    assert found.culprit == "0000/unet/b"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: {k: v for k, v in A.items() if not k.endswith("b")}, "missing from"),
        (lambda: A | {"0000/unet/z": np.ones(2)}, "only in"),
        (lambda: A | {"0000/unet/b": np.moveaxis(A["0000/unet/b"], 1, -1)}, "(N, H, W, C)"),
    ],
)
def test_other_tensors_are_problems(tmp_path, make, said):
    found = compare(write(tmp_path / "g", A), write(tmp_path / "c", make()))
    assert found.status == 2
    assert said in found.problems[0]
    if "missing" in said:
        assert "1 more are only in the golden and were not compared: 0000/unet/b" in as_text(found)
    allowed = compare(write(tmp_path / "g", A), write(tmp_path / "c", make()), allow_missing=True, allow_extra=True)
    assert allowed.status == (2 if "N, H" in said else 0)


def test_what_is_only_in_part_there_is_judged_by_its_largest_error(tmp_path):
    """Statistics and samples of the candidate: the honest RMSE is that of all values, not of these."""
    key, wrong = "0000/unet/a", A["0000/unet/a"].copy()
    wrong[wrong == wrong.max()] += 0.1
    golden = write(tmp_path / "g", A, rounding={"float32": {k: [0.05, 1e-4] for k in A}})
    tolerance = AutoTolerance(golden, "float32")
    assert compare(golden, write(tmp_path / "c", A | {key: wrong}), tolerance).status == 1
    found = compare(golden, write(tmp_path / "d", A | {key: wrong}, values=False), tolerance)
    assert found.status == 0
    assert found.results[0].used == pytest.approx(0.5, rel=1e-5)
    assert compare(golden, write(tmp_path / "e", bent(key, 0.3), values=False), tolerance).status == 1


def test_a_shape_that_only_statistics_tell(tmp_path):
    other = {k: v[:, :, :2] for k, v in A.items()}
    found = compare(write(tmp_path / "g", A), write(tmp_path / "c", other, values=False))
    assert found.status == 2
    assert "shape (2, 3, 2, 4)" in found.problems[0]


def test_nan_in_the_candidate_fails(tmp_path):
    wrong = bent("0000/unet/b", np.nan)
    found = compare(write(tmp_path / "g", A), write(tmp_path / "c", wrong | {"0000/unet/a": A["0000/unet/a"]}))
    assert found.status == 1


@pytest.mark.parametrize(
    ("golden", "candidate", "said"),
    [
        ({"x": np.array([1.0, np.nan])}, {"x": np.ones(2)}, "holds NaN"),
        ({"x": np.ones(2)}, {"y": np.ones(2)}, "nothing to compare"),
        ({"x": np.ones(2)}, {}, "nothing to compare"),
    ],
)
def test_what_compares_nothing_is_an_error(tmp_path, golden, candidate, said):
    files = write(tmp_path / "g", golden), write(tmp_path / "c", candidate)
    with pytest.raises(TinyldmError, match=said):
        compare(*files)


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        ({"config": {"unet": {"layers": [1, 2]}}}, {"config": {"unet": {"layers": [1, 3]}}}, "config.unet.layers"),
        ({"weights_sha256": {"unet": "aa"}}, {"weights_sha256": {"unet": "bb"}}, "not the same model"),
        ({"settings": {"seed": 1}}, {"settings": {"seed": 2}}, "settings.seed is 2"),
        ({"settings": {"prompt": ["a"]}}, {"settings": {"fixture": "unet"}}, "it is 'fixture unet'"),
    ],
)
def test_files_of_another_model_or_run_are_refused(tmp_path, mine, theirs, said):
    files = write(tmp_path / "g", A, **mine), write(tmp_path / "c", A, **theirs)
    with pytest.raises(TinyldmError, match=said):
        compare(*files)
    assert compare(*files, same_model=False).status == 0


def test_settings_that_say_how_it_was_computed_may_differ(tmp_path):
    files = write(tmp_path / "g", A, settings={"select": ["*"]}), write(tmp_path / "c", A, settings={"select": ["a"]})
    assert compare(*files).status == 0


def test_auto_needs_the_errors_in_the_file(tmp_path):
    golden = write(tmp_path / "g", A)
    with pytest.raises(TinyldmError, match="record it with"):
        AutoTolerance(golden, "float32")


def test_auto_is_a_multiple_of_the_honest_error(tmp_path):
    rounding = {"float16": {key: [0.2, 0.1] for key in A}}
    golden = write(tmp_path / "g", A, rounding=rounding)
    tolerance = AutoTolerance(golden, "float16", factor=2)
    results = compare(golden, write(tmp_path / "c", bent("0000/unet/a", 0.15)), tolerance).results
    assert results[0].used == pytest.approx(0.15 / (2 * 0.1), rel=1e-5)
    assert results[1].used == 0


def test_a_tensor_in_which_the_honest_evaluation_overflows_is_not_judged(tmp_path):
    rounding = {"float16": {key: [None, None] for key in list(A)[:1]}}
    golden = write(tmp_path / "g", A, rounding=rounding)
    found = compare(golden, write(tmp_path / "c", bent("0000/unet/a")), AutoTolerance(golden, "float16"))
    assert [r.status for r in found.results] == ["unjudged", "ok", "ok"]
    only = write(tmp_path / "one", dict(list(A.items())[:1]), rounding=rounding)
    with pytest.raises(TinyldmError, match="not one tensor"):
        compare(only, write(tmp_path / "d", dict(list(A.items())[:1])), AutoTolerance(only, "float16"))


def test_an_8_bit_picture_may_be_one_level_off(tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    golden = write(tmp_path / "g", {"picture": picture})
    assert compare(golden, write(tmp_path / "c", {"picture": picture + 1})).status == 0
    assert compare(golden, write(tmp_path / "d", {"picture": picture + 2})).status == 1


def test_results_are_plain_data(tmp_path):
    found = compare(write(tmp_path / "g", A), write(tmp_path / "c", bent("0000/unet/b")))
    assert dataclasses.asdict(found)["results"][1]["metrics"]["max_abs"] == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) + 3])
def test_the_largest_error_and_the_rmse_by_themselves(size):
    from tinyldm.golden.metrics import largest_and_rmse

    g = np.random.default_rng(0).standard_normal(size)
    c = g.astype(np.float32)
    m = measure(g, c)
    assert largest_and_rmse(g, c) == (m.max_abs, m.rmse)
    for bad in (np.nan, np.inf):
        assert not size or largest_and_rmse(g, np.append(c[:-1], bad)) is None


@pytest.mark.parametrize("change", [lambda y: y[:, :1], lambda y: y.astype(np.int64)])
def test_another_shape_or_type_behind_recorded_inputs(tmp_path, change):
    """Inputs agree but for rounding: it was made there; a wrong module before it is named as such."""
    x, y = noise(2, 3), noise(2, 4)
    for name, into, before in (("golden", x, x * 2), ("right", x.astype(np.float32), x * 2), ("wrong", x, x * 3)):
        with GoldenWriter(tmp_path / name) as writer:
            writer.add("0000/unet/a", before, (into,))
            writer.add("0000/unet/b", y if name == "golden" else change(y), (before, into))
    with Golden(tmp_path / "golden") as golden:
        with Golden(tmp_path / "right") as candidate:
            found = compare(golden, candidate, Tolerance(1e-3))
            assert (found.first.key, found.culprit, found.status) == ("0000/unet/b", "0000/unet/b", 2)
            assert "made there" in found.explanation
        with Golden(tmp_path / "wrong") as candidate:
            found = compare(golden, candidate, Tolerance(1e-3))
            assert (found.first.key, found.status) == ("0000/unet/a", 2)
            assert found.failed[1].inherited


# What a port does not have --------------------------------------------------------------------------------------------

X = noise(2, 4, 6, 6)
OUTPUTS = ("0000/text_encoder:context", "0000/unet:epsilon", "0000/vae:decode.pixels")
RUN = {key: noise(2, 3, 4, 4).astype(np.float32) for key in ("0000/unet:z", *A, *OUTPUTS, "picture")}


def without(*keys):
    return {key: value for key, value in RUN.items() if key not in keys}


def test_what_a_whole_port_lacks_or_has_beside_is_only_reported(tmp_path):
    lacks = without("0000/unet/b", "picture") | {"0000/unet/own": np.ones(3)}
    found = compare(write(tmp_path / "g", RUN), write(tmp_path / "c", lacks))
    assert (found.status, found.problems) == (0, [])
    text = as_text(found)
    assert "2 more are only in the golden and were not compared: 0000/unet/b, picture" in text
    assert "1 more are only in the candidate and were not compared: 0000/unet/own" in text
    wrong = lacks | {"0000/unet/a": RUN["0000/unet/a"] * 2}
    assert compare(write(tmp_path / "g", RUN), write(tmp_path / "d", wrong)).status == 1


@pytest.mark.parametrize("output", OUTPUTS)
def test_without_the_output_of_a_network_it_is_not_whole(tmp_path, output):
    files = write(tmp_path / "g", RUN), write(tmp_path / "c", without(output, "0000/unet/b"))
    found = compare(*files)
    assert found.status == 2
    assert "missing from the candidate" in found.problems[0]
    assert compare(*files, allow_missing=True).status == 0


def test_the_context_that_a_unet_is_given_is_no_output(tmp_path):
    run = {"0000/unet:context": X, "0000/unet/a": X}
    found = compare(write(tmp_path / "g", run), write(tmp_path / "c", {"0000/unet:context": X}))
    assert found.status == 2


COMPVIS = {"0000/unet/input_blocks.0.0": X, "0000/unet/time_embed.0": X}
DIFFUSERS = {"0000/unet/conv_in": X, "0000/unet/down_blocks.0.resnets.0": X}


@pytest.mark.parametrize(
    ("golden", "candidate", "names", "whose"),
    [(DIFFUSERS, COMPVIS, "compvis", "original layout's"), (COMPVIS, DIFFUSERS, "diffusers", "diffusers'")],
)
def test_the_names_of_another_layout_are_recognised(tmp_path, golden, candidate, names, whose):
    said = rf"the candidate's names are (the )?{whose}.*: record the golden with --names {names} to compare"
    with pytest.raises(TinyldmError, match=said):
        compare(write(tmp_path / "g", golden), write(tmp_path / "c", candidate))
    files = write(tmp_path / "h", golden | RUN), write(tmp_path / "d", candidate | RUN)
    found = compare(*files)
    assert found.status == 0
    assert re.search(said, as_text(found))


@pytest.mark.parametrize(
    ("key", "layout"),
    [
        ("model.diffusion_model.middle_block.1.norm", "compvis"),
        ("first_stage_model.decoder.up.0.block.0", "compvis"),
        ("0000/vae/encoder.mid.attn_1.q", "compvis"),
        ("0000/vae/decoder.mid_block.resnets.0", "diffusers"),
        ("0000/unet/time_embedding.linear_1", "diffusers"),
        ("0000/unet/conv_in", None),
    ],
)
def test_layouts_are_told_by_their_names(key, layout):
    assert layout_of([key]) == layout
