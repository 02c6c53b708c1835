"""Flows against known ones: a constant field, a Gaussian carried to another, the regression that defines the velocity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.flow import VelocityField, integrate, straight_path

MEAN, STD = 1.5, 0.4


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """The mean velocity at x of straight lines from N(0, 1) to an independent N(MEAN, STD²): the regression of x1 - x0 on x_t."""
    slope = (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2)
    return MEAN + slope * (x - t * MEAN)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_euler_is_exact_in_a_constant_field(steps: int) -> None:
    start = torch.tensor([[0.25, -1.0], [2.0, 0.5]], dtype=torch.float64)
    field = torch.tensor([0.5, -2.0], dtype=torch.float64)
    torch.testing.assert_close(integrate(lambda x, t: field, start, steps), start + field, rtol=1e-14, atol=1e-14)


def test_euler_asks_at_the_start_of_each_step() -> None:
    # x' = t: Euler's sum is (0 + 1/4 + 2/4 + 3/4) / 4; x' = x: (1 + 1/4)^4
    start = torch.ones(1, 1, dtype=torch.float64)
    assert integrate(lambda x, t: t.expand_as(x), start, 4).item() == pytest.approx(1 + 6 / 16)
    assert integrate(lambda x, t: x, start, 4).item() == pytest.approx(1.25**4)


def test_a_gaussian_flows_to_a_gaussian() -> None:
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    # in one dimension the exact flow keeps the order of points: it is the map between the two distributions' quantiles
    exact = MEAN + STD * noise
    error = [float((integrate(gaussian_velocity, noise, steps) - exact).abs().max()) for steps in (100, 200, 400)]
    assert error[2] < 0.01
    assert error[0] / error[1] == pytest.approx(2, rel=0.1) and error[1] / error[2] == pytest.approx(2, rel=0.1), "Euler is of first order"
    draws = integrate(gaussian_velocity, torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 100)
    assert draws.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert draws.std().item() == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize("time", [0.0, 0.3, 0.9])
def test_the_regression_of_the_paths_velocity_on_its_point_is_the_flows(time: float) -> None:
    rng = np.random.default_rng(0)
    noise, data = rng.standard_normal(200_000), MEAN + STD * rng.standard_normal(200_000)
    t = torch.full((200_000,), time, dtype=torch.float64)
    x, velocity = straight_path(torch.tensor(noise).unsqueeze(1), torch.tensor(data).unsqueeze(1), t)
    slope, intercept = np.polyfit(x[:, 0].numpy(), velocity[:, 0].numpy(), 1)
    at = torch.tensor([0.0, 1.0], dtype=torch.float64)
    exact = gaussian_velocity(at, torch.tensor(time, dtype=torch.float64)).numpy()
    np.testing.assert_allclose([intercept, intercept + slope], exact, atol=0.02)


def test_a_straight_path_begins_at_noise_and_ends_at_data() -> None:
    noise, data = torch.tensor([[0.5, 1.0]] * 3), torch.tensor([[-1.0, 3.0]] * 3)
    x, velocity = straight_path(noise, data, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(x, torch.tensor([[0.5, 1.0], [0.125, 1.5], [-1.0, 3.0]]))
    torch.testing.assert_close(velocity, torch.tensor([[-1.5, 2.0]] * 3))


@pytest.mark.parametrize("observation", [Box((3,)), Discrete(4)])
def test_a_velocity_field_reads_observation_point_and_time(observation: Box | Discrete) -> None:
    torch.manual_seed(0)
    field = VelocityField(Spec(observation, Box((2,), (-1.0,), (1.0,))), 2, ())
    s = torch.tensor([0, 3]) if isinstance(observation, Discrete) else torch.randn(2, 3)
    x = torch.randn(2, 2)
    weight, bias = field.mlp.layers[0].weight, field.mlp.layers[0].bias
    read = torch.nn.functional.one_hot(s, 4).float() if isinstance(observation, Discrete) else s
    for time in (torch.tensor(0.25), torch.tensor([0.5, 0.75])):
        expected = torch.cat([read, x, time.expand(2).unsqueeze(1)], 1) @ weight + bias
        torch.testing.assert_close(field(s, x, time), expected)
    many = field(s.expand(5, *s.shape), x.expand(5, 2, 2), torch.tensor(0.25))
    torch.testing.assert_close(many[3], field(s, x, torch.tensor(0.25)))
