"""Every sampler against its diffusers scheduler, step by step; and against the exact solution of a Gaussian model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from golden.diffusion.toy_model import toy_model
from golden.provenance import load_golden

from tinyldm.diffusion import schedule
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.random import TorchGenerator
from tinyldm.diffusion.samplers import (
    SAMPLERS,
    Sampler,
    default_sampler,
    find_sampler,
    list_samplers,
    make_sampler,
    register,
)
from tinyldm.diffusion.samplers.base import AlphaBarSampler, Step, denoise
from tinyldm.diffusion.samplers.sigma import VarianceExplodingSampler
from tinyldm.errors import ConfigError, InputError, Stopped, TinyldmError

OF_K_DIFFUSION = ("dpm++_3m_sde", "dpm++_2s_a")  # diffusers has none, or (3M) one with another sign in it
FLOW = ("flow_euler", "flow_heun")
VE_SAMPLERS = [name for name, entry in SAMPLERS.items() if issubclass(entry.sampler, VarianceExplodingSampler)]
DIFFUSION = [name for name in SAMPLERS if name not in FLOW]
NOISY = [
    *("ddpm", "euler_a", "lcm", "dpm2_a", "dpm++_2s_a", "dpm++_sde", "dpm++_2m_sde", "dpm++_3m_sde", "dpm_2m_sde"),
    *("dpm++_2s_sde", "sa_solver", "tcd"),
]
GOLDENS = {
    name: load_golden(f"diffusion/{name.replace('++', 'pp')}") for name in SAMPLERS if name not in OF_K_DIFFUSION
}
CASES = [(name, case) for name, (_, provenance) in GOLDENS.items() for case in provenance["cases"]]
GOOD = [(name, case) for name, case in CASES if "raises" not in GOLDENS[name][1]["cases"][case]]
BAD = [(name, case) for name, case in CASES if "raises" in GOLDENS[name][1]["cases"][case]]
STABLE_DIFFUSION = GOLDENS["ddim"][1]["cases"]["sd_10"]["config"]


def begin(name: str, case: str, dtype: type) -> tuple[Sampler, np.ndarray, TorchGenerator, int]:
    """The sampler of a case, its first latent, its generator, and the step that it begins with."""
    _, provenance = GOLDENS[name]
    settings = provenance["cases"][case]
    options = settings.get("options", {}) | settings.get("make", {})
    sampler = make_sampler(name, settings["config"], settings["steps"], **options)
    rng = TorchGenerator(provenance["seed"])
    z = rng.randn((1, 4, 2, 2)).astype(dtype)
    if "strength" not in settings:
        return sampler, z * sampler.init_noise_sigma, rng, 0
    start = sampler.start(settings["strength"])
    noise = rng.randn(z.shape).astype(dtype)
    return sampler, sampler.add_noise(z / 2, noise, start), rng, start


def relative(a: np.ndarray, b: np.ndarray, *scale: np.ndarray) -> float:
    """The largest difference over the largest value, of the second array or of those given."""
    return float(np.abs(a - b).max() / max(np.abs(x).max() for x in (b, *scale)))


@pytest.mark.parametrize(("name", "case"), GOOD)
def test_tables(name: str, case: str) -> None:
    tensors, _ = GOLDENS[name]
    sampler, z, _, _ = begin(name, case, np.float32)
    timesteps = tensors[f"{case}.timesteps"]
    assert sampler.timesteps.dtype == (np.float32 if timesteps.dtype == np.float64 else timesteps.dtype)
    # Between two levels the original takes float32 logarithms.
    np.testing.assert_allclose(sampler.timesteps, timesteps, rtol=1e-6, atol=1e-2 if name in ("dpm2", "dpm2_a") else 0)
    if np.issubdtype(timesteps.dtype, np.integer):
        assert np.array_equal(sampler.timesteps, timesteps)
    if f"{case}.sigmas" in tensors:
        # As near as two square roots in float32 are; with zero terminal SNR a difference of such roots follows.
        near = 1e-4 if case.startswith("zero_snr") else 2.5e-7
        np.testing.assert_allclose(sampler.sigmas, tensors[f"{case}.sigmas"], rtol=near, atol=0)  # type: ignore[attr-defined]
    assert relative(z, tensors[f"{case}.float32"][0]) < 2e-7


@pytest.mark.parametrize(("name", "case"), GOOD)
def test_each_step_in_float32(name: str, case: str) -> None:
    """Every step from the original's latent: within 1e-6 of the largest value that goes in or comes out.

    The states are the latents before and after every call of the model, also of those within a step.
    """
    tensors, _ = GOLDENS[name]
    states = tensors[f"{case}.float32"]
    sampler, _, rng, start = begin(name, case, np.float32)
    if case.startswith("zero_snr") or name in ("dpm2", "dpm2_a", "dpm++_sde"):
        # `test_schedule` says why they differ with zero terminal SNR; here that reaches 1.4e-6. A Brownian path is
        # asked for six digits of the levels, and DPM2's timesteps differ as `test_tables` says.
        take_tables(sampler, name, case)
    # The original's own rounding at order 3, (e^-h - 1 + h) / h² - 1/2, and where logarithms are subtracted.
    high = "order_3" in case or "order_4" in case
    bar = (1e-5 if name in ("deis", "sa_solver") else 3e-6) if high else 5e-6 if name in ("dpm2", "dpm2_a") else 1e-6
    if (name, case) == ("dpm2_a", "sd_2"):
        bar = 1e-4  # a step so long that the original's float32 level before the noise has few digits left
    assert len(states) == sampler.calls(start) + 1
    call = 0
    for i in range(start, len(sampler)):
        asked: list[np.ndarray] = []

        def predict(z: np.ndarray, t: np.ndarray, asked: list[np.ndarray] = asked) -> np.ndarray:
            asked.append(z)
            return toy_model(z, t)

        z = states[call]
        got = sampler.step(predict, i, z, rng)
        assert got.dtype == np.float32
        for k, inner in enumerate(asked[1:], 1):
            want = states[call + k]
            if name in VE_SAMPLERS:  # the network is given a latent of unit variance
                want = want * (np.linalg.norm(inner) / np.linalg.norm(want))
            assert relative(inner, want, want if name in VE_SAMPLERS else z) < bar, f"step {i}, call {k}"
        call += len(asked)
        assert relative(got, states[call], z) < bar, f"step {i}"
    assert call == sampler.calls(start)


def take_tables(sampler: Sampler, name: str, case: str) -> None:
    """Give a sampler the original's tables, so that only the arithmetic of its steps is left to compare."""
    tensors, _ = GOLDENS[name]
    sampler.timesteps = tensors[f"{case}.timesteps"]
    if f"{case}.sigmas" in tensors:
        sampler.sigmas = tensors[f"{case}.sigmas"]  # type: ignore[attr-defined]
    elif getattr(sampler.config, "rescale_betas_zero_snr", False):
        sampler.alpha_bar = load_golden("diffusion/tables")[0]["zero_snr.alpha_bar"]
        if not getattr(sampler.config, "set_alpha_to_one", True):
            sampler.final_alpha_bar = sampler.alpha_bar[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "case"), GOOD)
def test_whole_run_in_float64(name: str, case: str) -> None:
    tensors, _ = GOLDENS[name]
    sampler, z, rng, start = begin(name, case, np.float64)
    take_tables(sampler, name, case)
    kept = dict(zip(tensors[f"{case}.kept"].tolist(), tensors[f"{case}.float64"], strict=True))
    assert relative(z, kept[0]) < 5e-7  # the first sigma is in it
    states = {0: kept[0]}

    def note(step: Step) -> None:
        states[step.calls] = step.latent

    z = denoise(toy_model, sampler, kept[0], rng, start=start, callback=note)
    assert z.dtype == np.float64
    assert max(states) == max(kept) == sampler.calls(start)
    compared = states.keys() & kept.keys()
    assert len(compared) >= min(3, len(kept) - 1)
    for i in compared:
        assert relative(states[i], kept[i]) < 1e-12, f"state {i}"


@pytest.mark.parametrize(("name", "case"), BAD)
def test_what_the_original_refuses_is_refused(name: str, case: str) -> None:
    settings = GOLDENS[name][1]["cases"][case]
    with pytest.raises(TinyldmError):
        make_sampler(name, settings["config"], settings["steps"])


def test_the_cases_cover_what_they_should() -> None:
    refused = {f"{name}:{case}" for name, case in BAD}
    assert "pndm:runge_kutta_2" in refused
    assert "ddim:zero_snr_epsilon_10" in refused
    assert "euler_a:sample_10" in refused
    assert len(GOOD) > 200
    # The embedded checkpoint's file has no `skip_prk_steps`, so pndm begins with Runge-Kutta steps: four at least.
    assert {x for x in refused if ":sd_" in x or ":embedded_" in x} == {"pndm:embedded_1", "pndm:embedded_2"}


# A model that knows the truth: data of independent normals with mean 0 and deviation S. Then the best prediction of the
# noise in z is linear in z, and the probability-flow ODE keeps z / std(z) constant.
S = 0.5


def gaussian_model(alpha_bar: np.ndarray) -> Any:
    def model(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        a = np.interp(float(t), np.arange(len(alpha_bar)), alpha_bar.astype(np.float64))
        return np.sqrt(1 - a) * z / (a * S**2 + 1 - a)

    return model


@pytest.mark.parametrize(
    ("name", "steps", "error"),
    [
        ("ddim", 1000, 6e-3),
        ("ddim", 50, 5e-2),
        ("pndm", 50, 2e-2),
        ("euler", 1000, 6e-3),
        ("euler", 50, 7e-2),
        ("lms", 50, 5e-3),
        ("dpm++_2m", 50, 4e-2),
        ("dpm++_2m_karras", 50, 5e-3),
    ],
)
def test_deterministic_samplers_solve_the_ode(name: str, steps: int, error: float) -> None:
    config = STABLE_DIFFUSION | {"timestep_spacing": "linspace", "set_alpha_to_one": True}
    sampler = make_sampler(name, config, steps)
    a = float(sampler.alpha_bar[int(sampler.timesteps[0])])
    noise = TorchGenerator(0).randn((1, 64), np.float64)
    z = denoise(gaussian_model(sampler.alpha_bar), sampler, noise * sampler.init_noise_sigma)
    # A latent of the sampler's own scaling, brought to variance-preserving form.
    first = noise * sampler.init_noise_sigma * (np.sqrt(a) if name in VE_SAMPLERS else 1)
    exact = first * S / np.sqrt(a * S**2 + 1 - a)
    assert relative(z, exact) < error


@pytest.mark.parametrize(
    ("name", "order", "gain"),
    [
        ("euler", 2, (1.7, 2.1)),
        ("dpm++_2m_karras", 1, (1.9, 2.1)),
        ("dpm++_2m_karras", 2, (3.8, 4.5)),
        ("lms", 2, (10, 17)),
    ],
)
def test_order_of_convergence(name: str, order: int, gain: tuple[float, float]) -> None:
    """Half the step, half the error for a first-order method; a quarter for a second-order one; LMS has nearly four."""

    def error(steps: int) -> float:
        extra = {"use_karras_sigmas": True, "solver_order": order}
        if name != "euler":
            extra |= {"final_sigmas_type": "sigma_min"}
        sampler = make_sampler(name, STABLE_DIFFUSION | {"timestep_spacing": "linspace"} | extra, steps)
        sigmas = sampler.sigmas.astype(np.float64)  # type: ignore[attr-defined]
        a = 1 / (1 + sigmas**2)
        z = np.full((1, 1), sampler.init_noise_sigma)
        for i in range(steps):
            z = sampler.step(lambda z, t, i=i: np.sqrt(1 - a[i]) * z / (a[i] * S**2 + 1 - a[i]), i, z)
        scale = np.sqrt(S**2 + sigmas**2) if name in VE_SAMPLERS else np.sqrt(a * S**2 + 1 - a)
        return abs(float(z[0, 0]) / sampler.init_noise_sigma * scale[0] / scale[-1] - 1)

    assert gain[0] < error(40) / error(80) < gain[1]


def test_third_order_ends_well_on_a_step_of_no_length() -> None:
    config = STABLE_DIFFUSION | {"final_sigmas_type": "sigma_min", "solver_order": 3}
    sampler = make_sampler("dpm++_2m_karras", config, 20)
    z = denoise(toy_model, sampler, TorchGenerator(0).randn((1, 4, 2, 2)))
    assert np.isfinite(z).all()
    assert sampler.sigmas[-1] == sampler.sigmas[-2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "options"), [("ddpm", {}), ("euler_a", {}), ("ddim", {"eta": 1.0})])
def test_stochastic_samplers_have_the_right_spread(name: str, options: dict[str, float]) -> None:
    sampler = make_sampler(name, STABLE_DIFFUSION | {"timestep_spacing": "linspace"}, 200, **options)
    rng = TorchGenerator(1)
    z = rng.randn((1, 20_000), np.float64) * sampler.init_noise_sigma
    z = denoise(gaussian_model(sampler.alpha_bar), sampler, z, rng)
    assert abs(z.mean()) < 2e-2
    assert z.std() == pytest.approx(S, rel=5e-2)


def test_lcm_jumps_to_the_model_s_clean_latent() -> None:
    sampler = make_sampler("lcm", {}, 1)
    z = TorchGenerator(2).randn((1, 16), np.float64)
    z0 = denoise(gaussian_model(sampler.alpha_bar), sampler, z)
    a = float(sampler.alpha_bar[999])
    np.testing.assert_allclose(z0, np.sqrt(a) * S**2 / (a * S**2 + 1 - a) * z, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in DIFFUSION if n not in NOISY])
@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 3, 1, 2)])
def test_any_layout(name: str, axes: tuple[int, ...]) -> None:
    z = TorchGenerator(4).randn((2, 4, 3, 5))

    def model(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        return np.tanh(z)

    config = STABLE_DIFFUSION | {"thresholding": True}
    plain, other = (make_sampler(name, config, 10) for _ in range(2))
    want = denoise(model, plain, z * plain.init_noise_sigma)
    got = denoise(model, other, z.transpose(axes) * other.init_noise_sigma)
    np.testing.assert_allclose(got, want.transpose(axes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NOISY)
def test_noise_has_to_come_from_somewhere(name: str) -> None:
    sampler = make_sampler(name, STABLE_DIFFUSION, 2)
    z = np.ones((1, 4, 2, 2), np.float32)
    with pytest.raises(InputError, match=re.escape(f"the sampler {name} adds noise")):
        sampler.step(toy_model, 0, z)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [0, -1, 1001, True, 2.0])
def test_bad_steps(name: str, steps: Any) -> None:
    with pytest.raises(InputError, match="steps"):
        make_sampler(name, {} if name in FLOW else STABLE_DIFFUSION, steps)


def test_timesteps_beyond_the_model() -> None:
    with pytest.raises(ConfigError, match="steps_offset 1"):
        make_sampler("ddim", STABLE_DIFFUSION, 1000)


def test_names_and_options() -> None:
    with pytest.raises(InputError, match=r"'eulr' is unknown; did you mean 'euler'\?.*ddpm.*lcm"):
        make_sampler("eulr", {}, 10)
    with pytest.raises(InputError, match="euler has no option eta"):
        make_sampler("euler", {}, 10, eta=1.0)
    with pytest.raises(InputError, match=r"no option solver_ordr; did you mean solver_order\?"):
        make_sampler("dpm++_2m", {}, 10, solver_ordr=3)
    with pytest.raises(InputError, match=r"sampler ddim: eta is 1\.5; it takes a number at least 0, at most 1"):
        make_sampler("ddim", {}, 10, eta=1.5)


def test_options_take_the_place_of_the_file() -> None:
    options: dict[str, Any] = {"solver_order": 3, "use_karras_sigmas": True, "timestep_spacing": "trailing"}
    by_hand = make_sampler("dpm++_2m", STABLE_DIFFUSION | {"solver_order": 1}, 10, **options)
    assert by_hand.config == make_sampler("dpm++_2m", STABLE_DIFFUSION | options, 10).config


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("DPM++ 2M Karras", "dpm++_2m_karras"),
        ("dpmpp_2m", "dpm++_2m"),
        ("k_dpmpp_2m_karras", "dpm++_2m_karras"),
        ("sample_dpmpp_2m", "dpm++_2m"),
        ("DPMSolverMultistepScheduler", "dpm++_2m"),
        ("Euler a", "euler_a"),
        ("k_euler_a", "euler_a"),
        ("euler-ancestral", "euler_a"),
        ("EulerDiscreteScheduler", "euler"),
        ("PLMS", "pndm"),
        ("DDIM", "ddim"),
        ("kdpm_2_a", "dpm2_a"),
        ("dpmpp_sde_gpu", "dpm++_sde"),
    ],
)
def test_names_that_others_use(called: str, name: str) -> None:
    assert find_sampler(called) == name
    assert type(make_sampler(called, STABLE_DIFFUSION, 5)) is SAMPLERS[name].sampler


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("Euler a normal", "euler_a_uniform"),
        ("dpmpp_3m_sde_gpu_exponential", "dpm++_3m_sde_exponential"),
        ("kdpm_2_a_k", "dpm2_a_karras"),
        ("lms_k", "lms_karras"),
    ],
)
def test_names_that_others_use_with_a_schedule(called: str, name: str) -> None:
    assert find_sampler(called) == name


@pytest.mark.parametrize("called", ["DDIM Karras", "lcm_sgm_uniform", "flow_euler_karras"])
def test_a_schedule_behind_a_sampler_without_levels_is_refused_by_name(called: str) -> None:
    with pytest.raises(InputError, match="takes no schedule of noise levels"):
        find_sampler(called)


def test_every_listed_name_is_found_and_told_once() -> None:
    listed = list_samplers()
    assert [entry.name for entry in listed] == list(SAMPLERS)
    for entry in listed:
        assert entry.summary
        assert all(find_sampler(alias) == entry.name for alias in (entry.name, *entry.aliases)), entry


def test_a_sampler_from_outside() -> None:
    @register
    class Jump(AlphaBarSampler):
        """To the clean latent at once, at every step."""

        name = "jump"
        aliases = ("leap",)
        scheduler_class = "JumpScheduler"
        summary = "straight to the clean latent"

        @dataclass(frozen=True)
        class Config(SchedulerConfig):
            far: float = 1.0

        config: Config

        def step(self, predict: Any, i: int, z: np.ndarray, rng: Any = None) -> np.ndarray:
            _, x0 = self.predicted(predict, z, self.timesteps[i])
            return z + self.config.far * (x0 - z)

    try:
        published = {"_class_name": "JumpScheduler", "far": 0.5}
        assert default_sampler(published) == "jump"
        sampler = make_sampler("Leap", published, 2)
        assert sampler.config.far == 0.5  # type: ignore[attr-defined]
        assert make_sampler("jump", published, 2, far=0.25).config.far == 0.25  # type: ignore[attr-defined]
        z = denoise(lambda z, t: np.zeros_like(z), sampler, np.ones((1, 4)))
        a, b = sampler.alpha_bar[sampler.timesteps]
        np.testing.assert_allclose(z, (1 + a**-0.5) * (1 + b**-0.5) / 4)
        assert make_sampler("ddim", published, 2).name == "ddim"
    finally:
        del SAMPLERS["jump"]
    with pytest.raises(InputError, match="unknown"):
        find_sampler("leap")


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start", [0, 3, 7])
@pytest.mark.parametrize("extra", [{}, {"skip_prk_steps": False}])
def test_what_a_callback_sees(name: str, start: int, extra: dict[str, Any]) -> None:
    sampler = make_sampler(name, {} if name in FLOW else STABLE_DIFFUSION | extra, 8)
    z = TorchGenerator(1).randn((2, 4, 2, 2)) * np.float32(sampler.init_noise_sigma)
    asked: list[Any] = []
    seen: list[Step] = []

    def predict(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        asked.append(t)
        return toy_model(z, t)

    end = denoise(predict, sampler, z, TorchGenerator(2), start=start, callback=seen.append)  # type: ignore[arg-type]
    assert [step.index for step in seen] == list(range(start, 8))
    assert {step.count for step in seen} == {8}
    assert seen[-1].latent is end
    assert seen[-1].calls == len(asked) == sampler.calls(start)
    firsts = [0, *(step.calls for step in seen[:-1])]
    assert [step.timestep for step in seen] == [asked[k] for k in firsts]
    for step in seen:
        assert step.clean is not None
        assert step.clean.shape == z.shape
        assert step.clean.dtype == np.float32
    if start == 0:
        assert np.array_equal(asked, sampler.timesteps)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++_2m"])
def test_the_clean_latent_is_the_model_s(name: str) -> None:
    def knows(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        level = float(np.interp(float(t), np.arange(1000), sampler.alpha_bar))
        return (z - np.sqrt(level) * truth) / np.sqrt(1 - level)

    sampler = make_sampler(name, STABLE_DIFFUSION, 4)
    truth, noise = TorchGenerator(1).randn((2, 1, 4, 2, 2), np.float64)
    steps: list[Step] = []
    denoise(knows, sampler, sampler.add_noise(truth, noise, 1), start=1, callback=steps.append)  # type: ignore[arg-type]
    for step in steps:
        assert relative(step.clean, truth) < 1e-3  # type: ignore[arg-type]


def test_a_callback_may_change_the_latent_and_stop_the_run() -> None:
    sampler = make_sampler("ddim", STABLE_DIFFUSION, 5)
    seen = []

    def change(step: Step) -> np.ndarray | None:
        seen.append(step.latent)
        if step.index == 3:
            raise Stopped
        return np.zeros_like(step.latent) if step.index == 2 else None

    def predict(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        seen.append(z)
        return toy_model(z, t)

    with pytest.raises(Stopped):
        denoise(predict, sampler, np.ones((1, 4, 2, 2)), callback=change)
    assert len(seen) == 8
    assert seen[2] is seen[1]
    assert not seen[6].any()


@pytest.mark.parametrize("steps", [4, 5, 10])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_runge_kutta_steps_solve_the_ode_from_anywhere(steps: int, start: int) -> None:
    config = STABLE_DIFFUSION | {"skip_prk_steps": False, "set_alpha_to_one": True}
    sampler = make_sampler("pndm", config, steps)
    a = float(sampler.alpha_bar[sampler.timesteps[0] if start == 0 else sampler.visited[start]])  # type: ignore[attr-defined]
    z = TorchGenerator(0).randn((1, 64), np.float64)
    end = denoise(gaussian_model(sampler.alpha_bar), sampler, z, start=start)
    assert relative(end, z * S / np.sqrt(a * S**2 + 1 - a)) < 0.15


@pytest.mark.parametrize(("strength", "first"), [(1.0, 0), (0.65, 4), (0.1, 9)])
def test_start(strength: float, first: int) -> None:
    assert make_sampler("ddim", STABLE_DIFFUSION, 10).start(strength) == first


@pytest.mark.parametrize("strength", [-0.1, 1.1, 0.05, float("nan")])
def test_bad_strength(strength: float) -> None:
    with pytest.raises(InputError, match="strength"):
        make_sampler("ddim", STABLE_DIFFUSION, 10).start(strength)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "dpm++_2s_a"])
def test_default_sampler(name: str) -> None:
    sampler, overrides = SAMPLERS[name]
    assert default_sampler({"_class_name": sampler.scheduler_class} | overrides) == name


@pytest.mark.parametrize("config", [{}, {"_class_name": "NoScheduler"}])
def test_no_default_sampler(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="_class_name"):
        default_sampler(config)


def test_forward_process_agrees_with_the_schedule() -> None:
    z0, noise = TorchGenerator(5).randn((2, 1, 4, 2, 2), np.float64)
    a = schedule.alpha_bar(schedule.make_betas("scaled_linear", 0.00085, 0.012, 1000))
    for name in DIFFUSION:
        if SAMPLERS[name].sampler.scheduler_class == "DPMSolverSinglestepScheduler" or name == "ddim_inverse":
            continue  # which visit timesteps of their own
        sampler = make_sampler(name, STABLE_DIFFUSION | {"timestep_spacing": "trailing"}, 10)
        first = sampler.calls() - sampler.calls(3)
        alpha_bar = float(a[round(float(sampler.timesteps[first]))])
        want = np.sqrt(alpha_bar) * z0 + np.sqrt(1 - alpha_bar) * noise
        seen: list[np.ndarray] = []
        sampler.step(lambda z, t, seen=seen: seen.append(z) or z, 3, sampler.add_noise(z0, noise, 3), TorchGenerator(0))
        assert relative(seen[0], want) < (2e-2 if name == "dpm++_2m_karras" else 1e-6)
