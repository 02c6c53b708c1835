"""A network as a constant, first weights, targets as copies, specs and settings as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from stitchrl import algorithms
from stitchrl.core.algorithm import build, frozen
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import Goals, with_goal
from stitchrl.core.settings import Count, Fraction, check_settings, read_settings, to_json
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.mlp import Critic

SPEC = Spec(Box((3,)), Box((2,), (-1.0,), (1.0,)))


def test_gradients_pass_through_a_frozen_network_and_not_into_it() -> None:
    critic = Critic(SPEC, (8,))
    s, a = torch.randn(4, 3), torch.randn(4, 2, requires_grad=True)
    value = frozen(critic)(s, a)
    assert torch.equal(value, critic(s, a))
    value.sum().backward()
    assert a.grad is not None and (a.grad != 0).any()
    assert all(p.grad is None for p in critic.parameters())
    through = torch.autograd.grad(critic(s, a).sum(), a)[0]
    assert torch.equal(a.grad, through)


@pytest.mark.parametrize("name", algorithms.names())
def test_building_leaves_global_random_numbers_alone(name: str) -> None:
    algorithm, config = algorithms.find(name)
    spec = Spec(SPEC.observation, Discrete(3)) if algorithm.action_space == "discrete" else SPEC
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build(algorithm, config(), with_goal(spec) if isinstance(algorithm.batch, Goals) else spec, 0)
    assert torch.equal(torch.rand(3), expected)


def test_unknown_algorithms_are_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'td3_bc'"):
        algorithms.find("td3bc")


@pytest.mark.parametrize("space", [Discrete(3), Box((2,)), Box((2, 2), (-1.0,), (1.0, 2.0, math.inf, 4.0), "uint8")])
def test_specs_survive_json(space: Any) -> None:
    spec = Spec(space, Discrete(2))
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("value", [{"kind": "tuple"}, {"kind": "discrete", "n": 2.5}, {}, {"kind": "discrete", "n": 0}])
def test_strange_spaces_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Spec.from_json({"observation": value, "action": {"kind": "discrete", "n": 2}})


def test_bounds_are_one_number_or_one_for_each_dimension() -> None:
    with pytest.raises(ConfigError, match="Box.high has 3 numbers; expected 1 or 2"):
        Box((2,), (-1.0,), (1.0, 1.0, 1.0))
    assert Box((2,), (-1.0,), (1.0,)).bounded and not Box((2,)).bounded


@dataclass(frozen=True)
class Example:
    discount: Fraction = 0.99
    hidden: tuple[Count, ...] = (256,)
    gap: float | None = None


def test_settings_come_from_json_and_go_back() -> None:
    settings = read_settings(Example, {"discount": 1, "hidden": [8, 8]}, "example")
    assert settings == Example(1.0, (8, 8)) and read_settings(Example, to_json(settings), "example") == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"discuont": 0.9}, "unknown setting 'discuont'. Did you mean 'discount'"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"discount": -0.1}, "discount is -0.1"),
        ({"hidden": [0]}, "hidden.0 is 0"),
        ({"gap": "wide"}, "gap"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(Example, values, "example")


@pytest.mark.parametrize("discount", [math.nan, math.inf, 2.0])
def test_settings_made_in_python_are_checked_too(discount: float) -> None:
    with pytest.raises(ConfigError, match="discount"):
        check_settings(Example(discount), "example")


@pytest.mark.parametrize("name", algorithms.names())
def test_every_configs_defaults_are_valid_and_none_takes_nan(name: str) -> None:
    import dataclasses

    config = algorithms.find(name)[1]
    check_settings(config(), name)
    for field in dataclasses.fields(config):
        if isinstance(field.default, float):
            with pytest.raises(ConfigError):
                read_settings(config, {field.name: math.nan}, name)
