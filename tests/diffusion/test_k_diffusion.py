"""What diffusers does not have, against k-diffusion: ancestral and stochastic samplers, churn, Brownian noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden.diffusion.toy_model import toy_model
from golden.provenance import load_golden

from tinyldm.diffusion.brownian import POOL, BrownianTree, Seeds
from tinyldm.diffusion.random import TorchGenerator
from tinyldm.diffusion.samplers import SAMPLERS, make_sampler
from tinyldm.diffusion.samplers.base import Step, denoise
from tinyldm.diffusion.samplers.sigma import VarianceExplodingSampler
from tinyldm.diffusion.spacing import beta_quantile
from tinyldm.diffusion.streams import picture_streams

TENSORS, PROVENANCE = load_golden("diffusion/k_diffusion")
CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "linspace",
}


@pytest.mark.parametrize("name", PROVENANCE["cases"])
def test_run(name: str) -> None:
    """In float64, over the same levels, the model asked for the same timesteps: every state within 1e-7."""
    case = PROVENANCE["cases"][name]
    states, asked, levels = (TENSORS[f"{name}.{key}"] for key in ("states", "timesteps", "sigmas"))
    options: dict[str, Any] = case.get("options", {}) | case.get("ours", {})
    options["sigmas"] = tuple(levels.tolist())
    sampler = make_sampler(case["sampler"], CONFIG, case["steps"], **options)
    # The variance-preserving solvers keep a latent that is smaller by this factor.
    exploding = isinstance(sampler, VarianceExplodingSampler)
    scale = np.ones(len(levels)) if exploding else 1 / np.hypot(levels.astype(np.float64), 1)

    rng: Any = TorchGenerator(PROVENANCE["seed"])
    z = rng.randn((1, 4, 2, 2)).astype(np.float64) * levels[0] * scale[0]
    if case.get("brownian"):
        rng = TorchGenerator(PROVENANCE["seeds"]["brownian"][0])
    seen: list[np.ndarray] = [z]
    times: list[float] = []

    def predict(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        times.append(float(t))
        return toy_model(z, asked[len(times) - 1])

    def note(step: Step) -> None:
        seen.append(step.latent)

    denoise(predict, sampler, z, rng, callback=note)
    np.testing.assert_allclose(times, asked, rtol=1e-6, atol=5e-3)  # the original takes logarithms in float32
    # k-diffusion shows the latent of Karras's Algorithm 2 after the noise is added; so the churned ones end alone.
    compared = [len(levels) - 1] if "churn" in name else range(len(levels))
    for i in compared:
        want = states[i] * scale[i]
        assert np.abs(seen[i] - want).max() < 1e-7 * np.abs(want).max(), f"state {i}"


def test_churn_is_added_between_its_limits_only() -> None:
    levels = make_sampler("euler", CONFIG, 10).sigmas  # type: ignore[attr-defined]
    options = {"s_churn": 4.0, "s_tmin": float(levels[6]), "s_tmax": float(levels[3])}
    sampler = make_sampler("euler", CONFIG, 10, **options)
    for i in range(10):
        z = np.full((1, 4, 2, 2), 3.0)
        plain = make_sampler("euler", CONFIG, 10).step(toy_model, i, z)
        assert (sampler.step(toy_model, i, z, TorchGenerator(0)) == plain).all() == (not 3 <= i <= 6)


def test_brownian_path_has_the_bits_of_torchsde() -> None:
    tensors, provenance = load_golden("diffusion/brownian")
    tree = BrownianTree(provenance["start"], provenance["end"], (2, 3, 5), provenance["seed"], np.dtype(np.float32))
    for k, (high, low) in enumerate(provenance["questions"]):
        assert tree(low, high).tobytes() == tensors[str(k)].tobytes()


@pytest.mark.parametrize("entropy", [0, 11, 2**64 - 1, 2**800])
def test_seeds_of_a_brownian_path_are_numpy_s(entropy: int) -> None:
    seeds = Seeds(entropy)
    assert seeds.of_all == np.random.SeedSequence(entropy, pool_size=POOL).generate_state(4)[0]
    places = [(0, 0), (0, 1), (1, 1), (6, 3), (2**24 - 1, 24), (2**32 - 1, 32)]
    for some in (places, [*places, (2**32, 33), (2**40 + 5, 41)]):  # the last two have numbers of two words
        found = seeds([(1 << depth) + number for number, depth in some])
        for seed, place in zip(found, some, strict=True):
            wanted = np.random.SeedSequence(entropy, spawn_key=place, pool_size=POOL)
            assert seed == wanted.generate_state(4)[0]


def test_a_brownian_path_is_the_same_whatever_was_asked_before() -> None:
    questions = [(0.5, 3.0), (0.1, 0.5), (0.1, 0.3), (0.123456, 0.5), (2.0, 2.000001), (0.0, 4.0), (0.5, 3.0)]
    tree = BrownianTree(0.0, 4.0, (2, 16), 3, np.dtype(np.float32))
    for a, b in questions:
        assert tree(a, b).tobytes() == BrownianTree(0.0, 4.0, (2, 16), 3, np.dtype(np.float32))(a, b).tobytes()


def test_brownian_path_adds_up_and_has_the_variance_of_its_length() -> None:
    tree = BrownianTree(0.0, 4.0, (50_000,), 7, np.dtype(np.float64))
    parts = [tree(a, b) for a, b in ((0.0, 0.7), (0.7, 2.5), (2.5, 4.0))]
    np.testing.assert_allclose(sum(parts), tree(0.0, 4.0), atol=1e-12)
    for part, length in zip(parts, (0.7, 1.8, 1.5), strict=True):
        assert part.var() == pytest.approx(length, rel=2e-2)
    assert abs(np.corrcoef(parts[0], parts[1])[0, 1]) < 2e-2
    assert not tree(1.0, 1.0).any()


@pytest.mark.parametrize("name", ["dpm++_sde", "dpm++_2m_sde", "dpm++_3m_sde"])
def test_a_picture_is_the_same_in_any_batch(name: str) -> None:
    options = {} if name == "dpm++_sde" else {"brownian": True}

    def run(seed: int, count: int) -> np.ndarray:
        sampler = make_sampler(name, CONFIG, 4, **options)
        rng = picture_streams(seed, count)
        return denoise(toy_model, sampler, rng.randn((count, 4, 2, 2)) * np.float32(sampler.init_noise_sigma), rng)

    together = run(20, 3)
    for k in range(3):
        assert np.array_equal(together[k], run(20 + k, 1)[0])


def test_beta_quantiles_are_scipy_s() -> None:
    tensors, _ = load_golden("diffusion/beta")
    np.testing.assert_allclose(beta_quantile(tensors["p"]), tensors["quantile"], rtol=0, atol=1e-13)


def test_every_sampler_of_the_table_is_there() -> None:
    wanted = "heun dpm2 dpm2_a dpm++_2s_a dpm++_sde dpm++_2m_sde dpm++_3m_sde dpm++_2s unipc deis sa_solver tcd"
    assert {*wanted.split(), "ddim_inverse", "flow_euler", "flow_heun"} <= SAMPLERS.keys()
