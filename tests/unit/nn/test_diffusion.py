"""Samplers take diffusers' own steps, bring back exact moments where the best network is known, and keep what they are told to keep."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from diffusers import schedulers
from torch import Tensor

from stitchrl.core.errors import ConfigError
from stitchrl.nn.diffusion import Diffusion, draws, sample
from stitchrl.nn.noise_schedules import Chain, Schedule, chain

TRAINED = 20
START = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def network(x: Tensor, time: Tensor) -> Tensor:
    """Returns something nonlinear that depends on point and time."""
    return torch.tanh(x.roll(1, -1) + 0.1 * time) + 0.3 * x


def theirs(scheduler: Any, steps: int, **settings: Any) -> Tensor:
    """Returns what a loop over a scheduler of diffusers makes of the same start and network."""
    scheduler.set_timesteps(steps)
    x = START
    for time in scheduler.timesteps:
        x = scheduler.step(network(x, time), int(time), x, **settings).prev_sample
    return x


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("steps", [TRAINED, 5])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddpm_is_diffusers_own(prediction: Any, steps: int, clip: float | None) -> None:
    schedule = Schedule("cosine", TRAINED)
    options = {"prediction_type": prediction, "clip_sample": clip is not None, "timestep_spacing": "trailing"}
    scheduler = schedulers.DDPMScheduler(TRAINED, beta_schedule="squaredcos_cap_v2", **options)
    expected = theirs(scheduler, steps, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    ours = chain(schedule, "ddpm", steps)
    noise = torch.stack([torch.randn(START.shape, generator=generator) for _ in range(draws(ours))])
    assert len(noise) == steps - 1
    torch.testing.assert_close(sample(network, START, ours, noise=noise, prediction=prediction, clip=clip), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("steps", [TRAINED, 4])
def test_ddim_is_diffusers_own(steps: int, clip: float | None) -> None:
    options = {"clip_sample": clip is not None, "timestep_spacing": "trailing", "beta_schedule": "linear"}
    expected = theirs(schedulers.DDIMScheduler(TRAINED, **options), steps, use_clipped_model_output=True)
    found = sample(network, START, chain(Schedule("linear", TRAINED), "ddim", steps), clip=clip)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers hands a tensor to numpy so
@pytest.mark.parametrize("steps", [TRAINED, 7, 1])
def test_dpm_solver_is_diffusers_own(steps: int) -> None:
    scheduler = schedulers.DPMSolverMultistepScheduler(TRAINED, beta_schedule="linear", timestep_spacing="trailing")
    found = sample(network, START, chain(Schedule("linear", TRAINED), "dpm_solver++", steps), clip=None)
    torch.testing.assert_close(found, theirs(scheduler, steps), rtol=1e-4, atol=1e-5)


def moments(kind: Any, trained: int, sampler: Any, steps: int, mean: float, deviation: float) -> tuple[float, float]:
    """Returns the exact mean and deviation of what a chain makes of normal noise, with the best network for a normal law.

    That network is affine, and so is the whole chain: its mean is what it makes of zeros, its variance the sum of its squared slopes.
    """
    schedule = Schedule(kind, trained).double()
    steps_taken = chain(schedule, sampler, steps)
    share, level = (p.detach().square() for p in (schedule.signal, schedule.deviation))

    def best(x: Tensor, time: Tensor) -> Tensor:
        """Returns E[noise | x] for data ~ N(mean, deviation²)."""
        a, b = share[time].sqrt(), level[time].sqrt()
        variance = share[time] * deviation**2 + level[time]
        return b * (x - a * mean) / variance

    start = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    noise = torch.zeros(draws(steps_taken), 1, dtype=torch.float64, requires_grad=True)
    made = sample(best, start, steps_taken, noise=noise, clip=None)
    slopes = torch.autograd.grad(made.sum(), [start, noise], allow_unused=True)
    return made.item(), sum(s.square().sum() for s in slopes if s is not None).sqrt().item()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "trained", "sampler", "steps", "law", "tolerance"),
    [
        ("linear", 1000, "ddpm", 1000, (0.5, 0.3), 0.01),
        ("cosine", 1000, "ddpm", 500, (-0.2, 1.0), 0.01),
        ("linear", 1000, "ddim", 1000, (0.5, 0.3), 0.01),
        ("linear", 1000, "ddim", 100, (-0.2, 1.0), 0.05),
        ("linear", 1000, "dpm_solver++", 20, (0.5, 0.3), 0.05),  # its last step, from time 49 to the data, takes the mean
        ("cosine", 100, "dpm_solver++", 20, (-0.2, 1.0), 0.02),
    ],
)
def test_a_normal_law_comes_back_with_its_moments(
    kind: str, trained: int, sampler: str, steps: int, law: tuple[float, float], tolerance: float
) -> None:
    assert moments(kind, trained, sampler, steps, *law) == pytest.approx(law, abs=tolerance)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver++"])
def test_more_steps_come_nearer(sampler: str) -> None:
    errors = [abs(moments("linear", 1000, sampler, steps, 0.5, 0.3)[1] - 0.3) for steps in (5, 20, 100)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("steps", [10, 5, 1])
@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver++"])
def test_who_knows_the_noise_gets_the_data_back(sampler: Any, steps: int) -> None:
    schedule = Schedule("cosine", 10)
    data, noise = START.clamp(-1, 1), START.flip(0)
    last = schedule.noised(data, noise, torch.full((6,), 9))
    found = sample(lambda x, time: noise, last, chain(schedule, sampler, steps), clip=None)
    torch.testing.assert_close(found, data, rtol=1e-3, atol=1e-3)  # at the last time 1 part in 200 of x is data


def test_what_is_known_is_kept_at_every_step() -> None:
    known = torch.tensor([0.25, -0.5])

    def hold(x: Tensor) -> Tensor:
        return torch.cat([known.expand(len(x), 2), x[:, 2:]], 1)

    seen: list[Tensor] = []

    def spy(x: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return network(x, time)

    path = sample(spy, START, chain(Schedule("vp", 5), "ddpm"), noise=torch.ones(4, 6, 3), hold=hold, record=True)
    assert path.shape == (6, 6, 3)
    for x in (*path, *seen):
        assert torch.equal(x[:, :2], known.expand(6, 2))
    assert not torch.equal(path[-1, :, 2], path[0, :, 2])


def test_a_record_ends_with_the_sample_and_begins_with_the_scaled_start() -> None:
    steps = chain(Schedule("vp", 5), "ddpm")
    noise = torch.ones(4, 6, 3)
    path = sample(network, START, steps, noise=noise, temperature=0.5, record=True)
    assert torch.equal(path[0], 0.5 * START)
    assert torch.equal(path[-1], sample(network, START, steps, noise=noise, temperature=0.5))
    assert torch.equal(sample(network, START, steps), sample(network, START, steps, noise=torch.zeros(4, 6, 3)))


def test_a_guide_moves_what_the_network_sees() -> None:
    steps = chain(Schedule("vp", 5), "ddim")
    seen: list[Tensor] = []

    def spy(x: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return 0 * x

    sample(spy, START, steps, guide=lambda x, step: x + 10.0**step.time, record=True)
    assert torch.equal(seen[0], START + 10_000)
    assert [step.time for step in steps] == [4, 3, 2, 1, 0]


def test_errors_are_those_of_the_noise_the_data_and_the_velocity() -> None:
    data, noise = torch.tensor([[0.5], [-1.0]]), torch.tensor([[2.0], [1.0]])
    uniform = torch.tensor([0.0, 0.99])  # times 0 and 4
    schedule = Schedule("vp", 5)
    signal, deviation = schedule.signal[[0, 4]].unsqueeze(1), schedule.deviation[[0, 4]].unsqueeze(1)
    torch.testing.assert_close(signal.square() + deviation.square(), torch.ones(2, 1))
    for prediction, target in (("epsilon", noise), ("sample", data), ("v_prediction", signal * noise - deviation * data)):
        model = Diffusion(torch.nn.Identity(), schedule, prediction)  # type: ignore[arg-type]
        model.network.forward = lambda x, times: x  # type: ignore[method-assign]
        x = signal * data + deviation * noise
        torch.testing.assert_close(model.errors(data, noise, uniform), (x - target).square())
    held = model.errors(data, noise, uniform, hold=lambda x: 0 * x)
    torch.testing.assert_close(held, target.square())


def test_the_variance_preserving_schedule_is_xiaos() -> None:
    # 1 - exp(-0.1/T - 9.9 (2t - 1) / (2 T²)): of T = 2 times the shares kept are exp(-0.05 - 9.9/8) and that times exp(-0.05 - 29.7/8)
    expected = torch.tensor([-0.05 - 9.9 / 8, -0.1 - 39.6 / 8]).exp()
    torch.testing.assert_close(Schedule("vp", 2).signal.square(), expected, rtol=1e-6, atol=1e-7)


def test_steps_that_do_not_divide_are_refused() -> None:
    schedule = Schedule("cosine", 10)
    with pytest.raises(ConfigError, match="sampling_steps is 3; expected a divisor of the diffusion's 10 steps"):
        chain(schedule, "ddim", 3)
    with pytest.raises(ConfigError, match="sampling_steps is 11; expected at most 10"):
        chain(schedule, "dpm_solver++", 11)
    assert len(chain(schedule, "dpm_solver++", 3)) == 3


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'stitchrl\[diffusion\]'"):
        Schedule("vp", 5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver++"])
def test_seeds_are_mapped_and_gradients_pass(sampler: Any) -> None:
    steps: Chain = chain(Schedule("vp", 5), sampler)
    noise = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.3, -0.8])

    def one(weight: Tensor, z: Tensor) -> Tensor:
        return sample(lambda x, time: network(weight * x, time), START, steps, noise=z).square().sum()

    mapped = torch.func.vmap(torch.func.grad(one))(weights, noise)
    alone = torch.stack([torch.func.grad(one)(w, z) for w, z in zip(weights, noise, strict=True)])
    torch.testing.assert_close(mapped, alone)
    assert (mapped != 0).all()


def test_constants_are_no_weights() -> None:
    schedule = Schedule("vp", 5)
    assert [name for name, _ in schedule.named_parameters()] == ["signal", "deviation"]
    assert not any(parameter.requires_grad for parameter in schedule.parameters())
