"""The plugin, in test runs of its own."""

import importlib.util

import pytest

from tinyldm.golden import Golden

pytest_plugins = ["pytester"]

TESTS = """
import numpy as np
import pytest

X = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)

def test_one(golden):
    golden("latents", X * {scale})
    golden("ids", np.arange(3))

@pytest.mark.parametrize("k", [1, 2])
def test_many(golden, k):
    golden("both", {{"a": X + k, "b": X - k}}, tolerance=1e-5)
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A project with tests and their golden files."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # what else is installed takes long to import

    def run(*arguments, scale="1", source=TESTS):
        pytester.makepyfile(test_port=source.format(scale=scale))
        return pytester.runpytest_inprocess("-p", "tinyldm.golden.pytest_plugin", "-p", "no:cacheprovider", *arguments)

    return run


def test_update_then_compare(project, pytester):
    project("--golden-update").assert_outcomes(passed=3)
    files = sorted(path.name for path in pytester.path.glob("golden_data/test_port/*"))
    assert files == ["test_many_1_.safetensors", "test_many_2_.safetensors", "test_one.safetensors"]
    with Golden(pytester.path / "golden_data/test_port/test_many_2_.safetensors") as golden:
        assert golden.order == ["both/a", "both/b"]
    project().assert_outcomes(passed=3)


def test_a_difference_is_shown_with_its_place(project):
    project("--golden-update")
    result = project(scale="2")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*golden 'latents' of *test_one.safetensors: differs by up to 23, allowed 0.0023*",
            "*at [[]0, 1, 2, 3[]]: *46*stored *23*",
            "*looks like: the golden times 2 everywhere*",
        ]
    )


def test_without_a_file_it_says_how_to_write_one(project):
    result = project()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*there is no file *test_one.safetensors; --golden-update writes it*"])


def test_tensors_that_are_added_or_left_out_are_named(project):
    project("--golden-update")
    more = TESTS.replace('golden("ids", np.arange(3))', 'golden("more", X)')
    project(source=more).stdout.fnmatch_lines(["*golden 'more': is not in *test_one.safetensors*"])
    less = TESTS.replace('    golden("ids", np.arange(3))\n', "")
    result = project(source=less)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*golden 'ids' of *was not compared*"])


def test_another_shape_is_explained(project):
    project("--golden-update")
    other = TESTS.replace("X * {scale}", "np.moveaxis(X, 1, -1)")
    project(source=other).stdout.fnmatch_lines(["*golden 'latents'*the same values as (N, H, W, C)*"])


def test_a_failed_test_updates_nothing(project, pytester):
    failing = TESTS.replace("golden", "golden", 1) + "\ndef test_wrong(golden):\n    golden('x', X)\n    assert False\n"
    project("--golden-update", source=failing).assert_outcomes(passed=3, failed=1)
    assert not (pytester.path / "golden_data/test_port/test_wrong.safetensors").exists()


def test_a_damaged_file_is_an_error_that_says_so(project, pytester):
    project("--golden-update")
    (pytester.path / "golden_data/test_port/test_one.safetensors").write_bytes(b"x")
    project().stdout.fnmatch_lines(["*test_one.safetensors: 1 bytes are too few*"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="pytest-xdist is not installed")
def test_it_works_in_parallel(pytester):
    pytester.makepyfile(test_port=TESTS.format(scale="1"))
    options = ["-p", "tinyldm.golden.pytest_plugin", "-n", "2"]
    pytester.runpytest_subprocess(*options, "--golden-update").assert_outcomes(passed=3)
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=3)


def test_our_own_tests_use_it(golden, model64):
    golden("alpha_bar", model64_alpha_bar(model64))


def model64_alpha_bar(model):
    from tinyldm.diffusion.samplers import make_sampler

    return make_sampler("ddim", model.scheduler_config, 10).alpha_bar[::100]
