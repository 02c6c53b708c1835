"""Losses of the algorithms that reach goals, on one or two steps with linear networks, worked out by hand; the quasimetric's axioms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stitchrl.algorithms.bc import BC, BCConfig
from stitchrl.algorithms.crl import CRL, CRLConfig
from stitchrl.algorithms.gcivl import GCIVL, GCIVLConfig
from stitchrl.algorithms.hiql import HIQL, HIQLConfig
from stitchrl.algorithms.iql import IQL, IQLConfig
from stitchrl.algorithms.qrl import QRL, QRLConfig
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.batch import TransitionBatch
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import GoalBatch, HindsightTransitions, SubgoalBatch, pair, with_goal
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.goal_networks import IntervalQuasimetric, to_length, union_lengths
from tests.algorithms.test_losses import linear, losses

ONE = with_goal(Spec(Box((1,)), Box((1,), (-1.0,), (1.0,))))


def made(algorithm: type[Algorithm], config: Any, spec: Spec = ONE) -> Any:
    return build(algorithm, config, spec, 0).double()


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def steps(terminal: tuple[float, float] = (0, 1)) -> GoalBatch:
    """Returns two steps: 0 → 1 with the goal 3, and 2 → 4 where 2 is the goal; the actor's goals are 5 and 1."""
    ends = torch.tensor(terminal, dtype=torch.float64)
    return GoalBatch(column(0, 2), column(0.5, -0.5), ends - 1, column(1, 4), ends, column(3, 2), column(5, 1))


def test_gcivl_regresses_each_value_on_its_own_target() -> None:
    algorithm = made(GCIVL, GCIVLConfig(hidden=(), discount=0.5, expectile=0.9, inverse_temperature=2.0, max_weight=3.0))
    linear(algorithm.value, [[-1.0, 0.0], [1.0, -1.0]], [0.0, 0.0])  # V1 = -s, V2 = s - g
    linear(algorithm.target_value, [[1.0, 0.0], [0.0, 1.0]], [0.0, -1.0])  # s and g - 1
    linear(algorithm.actor, [0.0, 0.0], [0.5])
    found, metrics = losses(algorithm, steps())
    # at s' = 1, g = 3 the targets say 1 and 2; at s = 0 they say 0 and 2. Advantage -1 + 0.5 · 1 - 1 = -1.5: weight 0.1
    # second step: the goal is reached, so r = 0 and nothing follows; advantage 0 - (2 + 1) / 2: weight 0.1
    first = 0.1 * ((-1 + 0.5 * 1 - 0) ** 2 + (-1 + 0.5 * 2 + 3) ** 2)
    second = 0.1 * ((0 + 2) ** 2 + (0 - 0) ** 2)
    assert found["value"].item() == pytest.approx((first + second) / 2)
    # V = ((-s) + (s - g)) / 2 = -g / 2: no step changes it, so both weights are 1
    assert found["actor"].item() == pytest.approx((0 + 0.5 * 1.0) / 2)
    assert metrics["advantage"] == pytest.approx(0)
    linear(algorithm.value, [[1.0, 0.0], [1.0, 0.0]], [0.0, 0.0])  # V = s: the steps gain 1 and 2
    found, metrics = losses(algorithm, steps())
    assert found["actor"].item() == pytest.approx((3.0 * 0 + 3.0 * 0.5) / 2)  # e^2 and e^4, both cut at 3
    assert metrics["clipped_weights"] == 1


def test_gcbc_regresses_a_mean_that_is_clipped_where_it_acts() -> None:
    algorithm = made(BC, BCConfig(hidden=(), distribution="clipped"), Spec(Box((2,)), Box((1,), (-1.0,), (1.0,))))
    linear(algorithm.actor, [0.5, 0.0], [1.0])  # 1 + s / 2: 1 and 2
    s = pair(column(0, 2), column(3, 2))
    found, _ = losses(algorithm, TransitionBatch(s, column(0.5, -0.5), column(0, 0)[:, 0], s, column(0, 0)[:, 0]))
    assert found["actor"].item() == pytest.approx(0.5 * (0.5**2 + 2.5**2) / 2)
    assert algorithm.policy()(s).flatten().tolist() == [1.0, 1.0]
    for space in (Discrete(3), Box((4, 84, 84), dtype="uint8")):
        with pytest.raises(ConfigError, match="distribution clipped reads observation vectors.*take deterministic"):
            build(BC, BCConfig(distribution="clipped"), Spec(space, Box((1,), (-1.0,), (1.0,))), 0)


def test_hiql_learns_subgoals_and_actions_from_one_value() -> None:
    config = HIQLConfig(hidden=(), discount=0.5, expectile=0.7, high_inverse_temperature=0.5, low_inverse_temperature=1.0, representation=1)
    algorithm = made(HIQL, config)
    for value in (algorithm.value, algorithm.target_value):
        representation = value.representation.layers[0]
        with torch.no_grad():
            representation.weight.copy_(torch.tensor([[-1.0], [1.0]]))  # the sign of g - s: a length of 1 is all a number can say
            representation.bias.zero_()
        linear(value.value, [[1.0, 0.0], [1.0, 2.0]], [0.0, 0.0])  # V1 = s, V2 = s + 2 phi
    linear(algorithm.high_actor, [0.0, 0.0], [0.25])
    linear(algorithm.low_actor, [0.0, 0.0], [0.0])
    batch = SubgoalBatch(*steps(), subgoals=column(3, 1), actor_subgoals=column(2, 3))
    found, _ = losses(algorithm, batch)
    # first: phi(1, 3) = phi(0, 3) = 1; next values 1 and 3, present ones 0 and 2: advantage -1 + 0.5 · 1 - 1 < 0
    # second: at the goal phi is 0 / 0, kept 0: present values 2 and 2, targets 0
    first, second = 0.3 * ((-1 + 0.5 * 1 - 0) ** 2 + (-1 + 0.5 * 3 - 2) ** 2), 0.3 * (2**2 + 2**2)
    assert found["value"].item() == pytest.approx((first + second) / 2)
    # high, s = 0 → 2 towards 5: V goes from (0 + 2) / 2 to (2 + 4) / 2; s = 2 → 3 towards 1: from (2 + 0) / 2 to (3 + 1) / 2
    high = math.exp(0.5 * 2) * 0.5 * (0.25 - 1) ** 2 + math.exp(0.5 * 1) * 0.5 * (0.25 - 1) ** 2
    assert found["high_actor"].item() == pytest.approx(high / 2)
    # low, s = 0 → 1 towards 3: gains 1; s = 2 → 4 towards 1: gains 2; both actions are half a unit from 0
    assert found["low_actor"].item() == pytest.approx((math.e + math.exp(2)) / 2 * 0.5 * 0.25)


def test_hiql_acts_for_the_subgoal_that_it_names() -> None:
    algorithm = made(HIQL, HIQLConfig(hidden=(), representation=2))
    linear(algorithm.high_actor, [[0.0, 0.0], [3.0, 0.0]], [0.0, 4.0])  # names (3 g, 4), of length 5 where g = 1
    linear(algorithm.low_actor, [[0.25], [0.5], [0.0]], [0.0])  # a = s / 4 + z1 / 2
    action = algorithm.policy()(pair(column(-1.0), column(1.0)))
    assert action.item() == pytest.approx(-0.25 + 0.5 * 0.6 * math.sqrt(2))


def test_crl_tells_a_steps_own_future_from_the_others() -> None:
    algorithm = made(CRL, CRLConfig(hidden=(), latent=4, bc_weight=0.5))
    with torch.no_grad():
        for network, weight in ((algorithm.critic.phi, [[1.0] * 4, [0.0] * 4]), (algorithm.critic.psi, [[0.5] * 4])):
            network.layers[0].weight.copy_(torch.tensor([weight, weight]))
            network.layers[0].bias.zero_()
    linear(algorithm.actor, [0.0, 0.0], [1.5])
    found, metrics = losses(algorithm, steps())
    # logits s · g / 2 · 4 / sqrt(4) = s g: rows s = 0, 2, columns g = 3, 2
    logits = np.array([[0.0, 0.0], [6.0, 4.0]])
    own = np.eye(2)
    expected = (own * np.log1p(np.exp(-logits)) + (1 - own) * np.log1p(np.exp(logits))).mean()
    assert found["critic"].item() == pytest.approx(expected)
    # log Q of the actor's goals: 0 · 5 and 2 · 1; the actor's unclipped mean 1.5 is 1 and 2 from the logged actions
    assert metrics["log_q"] == pytest.approx(1.0)
    assert found["actor"].item() == pytest.approx(-1.0 / (1.0 + 1e-6) + 0.5 * 0.5 * (1 + 4) / 2)


def line_qrl(**settings: Any) -> Any:
    """Returns QRL whose latent is (s, -s): its distance is the ordinary one between numbers, once the mixture takes the maximum."""
    algorithm = made(QRL, QRLConfig(hidden=(), latent=2, components=2, push_offset=5.0, push_softness=2.0, layer_norm=False, **settings))
    with torch.no_grad():
        algorithm.quasimetric.encoder.layers[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        algorithm.quasimetric.encoder.layers[0].bias.zero_()
        algorithm.quasimetric.distance.mix.fill_(-50.0)
        algorithm.quasimetric.change.layers[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, -2.0]]))  # moves by 2 a
        algorithm.quasimetric.change.layers[0].bias.zero_()
    linear(algorithm.actor, [0.0, 0.0], [0.25])
    return algorithm


def test_qrl_pushes_apart_what_steps_hold_together() -> None:
    algorithm = line_qrl(bc_weight=0.1, slack=0.05)
    with torch.no_grad():
        algorithm.multiplier.value.fill_(math.log(3.0))
    found, metrics = losses(algorithm, steps())
    # distances to the goals 3 and 0; steps of length 1 and 2, of which the second is 1 too long
    push = 2.0 * (np.log1p(np.exp((5 - 3) / 2)) + np.log1p(np.exp(5 / 2))) / 2
    excess = (0 + 1) / 2
    # dynamics: from 0 by 2 · 0.5 to 1, where it went; from 2 by -1 to 1, where it went to 4: 3 off, both ways
    assert metrics["dynamics_error"] == pytest.approx((0 + 3) / 2)
    assert found["quasimetric"].item() == pytest.approx(push + 3 * excess + 1.5)
    assert found["multiplier"].item() == pytest.approx(3 * (0.05 - excess))
    slope = torch.autograd.grad(found["multiplier"], algorithm.multiplier.value, retain_graph=True)[0]
    assert slope.item() < 0, "steps are too long: the multiplier must rise"
    # the actor moves by 0.5: from 0 to 0.5, 4.5 before the goal 5; from 2 to 2.5, 1.5 past the goal 1
    q = -(4.5 + 1.5) / 2
    assert found["actor"].item() == pytest.approx(-q / (3 + 1e-6) + 0.1 * 0.5 * (0.25**2 + 0.75**2) / 2)


def test_qrl_refuses_groups_that_do_not_share_out_its_latent() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        made(QRL, QRLConfig(latent=10, components=4))
    with pytest.raises(ConfigError, match="components are not told.* a multiple of 8"):
        made(QRL, QRLConfig(latent=12))


def test_qrls_components_are_of_eight_dimensions_unless_told() -> None:
    assert {latent: made(QRL, QRLConfig(latent=latent)).quasimetric.distance.components for latent in (512, 64)} == {512: 64, 64: 8}


def test_lengths_of_unions() -> None:
    starts = torch.tensor([[0.0, 1.0, 5.0], [0.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    ends = torch.tensor([[2.0, 4.0, 6.0], [9.0, 3.0, 4.0], [0.0, 0.0, 0.0], [1.0, 5.0, 2.0]])
    # [0, 4] and [5, 6]; all within [0, 9]; nothing goes backwards; nested from one point
    assert union_lengths(starts, ends).tolist() == [5.0, 9.0, 0.0, 5.0]


def test_the_interval_quasimetric_is_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, z = (torch.randn(2_000, 24, generator=generator, dtype=torch.float64) for _ in range(3))
    distance = IntervalQuasimetric(6).double()
    for mix in (-3.0, 0.0, 3.0):
        with torch.no_grad():
            distance.mix.fill_(mix)
            assert torch.equal(distance(x, x), torch.zeros(2_000, dtype=torch.float64))
            assert (distance(x, y) > 0).all()
            assert (distance(x, z) <= distance(x, y) + distance(y, z) + 1e-12).all()
            assert ((distance(x, y) - distance(y, x)).abs() > 1e-3).float().mean() > 0.95, "it is not symmetric"


def test_representations_have_the_length_of_their_dimensions() -> None:
    x = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_length(x).norm(dim=-1), torch.full((5,), math.sqrt(10)))
    assert torch.equal(to_length(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_iql_follows_the_critics_gradient_beside_cloning() -> None:
    spec = Spec(Box((1,)), Box((1,), (-1.0,), (1.0,)))
    config = IQLConfig(hidden=(), actor_loss="ddpg_bc", bc_weight=0.5)
    algorithm = made(IQL, config, spec)
    linear(algorithm.critic, [[1.0, 2.0], [1.0, 1.0]], [0.0, 1.0])  # s + 2 a, s + a + 1
    linear(algorithm.actor, [0.0], [0.5])
    from tests.algorithms.test_losses import batch

    found, metrics = losses(algorithm, batch([1.0, -4.0], [[0.5], [-0.5]], [0, 0], [0, 0], [0, 0]))
    # the smaller critic: min(2, 2.5) and min(-3, -2.5), of mean size 2.5
    assert found["actor"].item() == pytest.approx(0.5 * (0 + 0.5) / 2 - (2 - 3) / 2 / (2.5 + 1e-6))
    assert metrics["cloning_error"] == pytest.approx(0.25)
    assert "clipped_weights" not in metrics
    for settings in (
        {"bc_weight": 0.5},
        {"actor_loss": "ddpg_bc", "inverse_temperature": 1.0},
        {"actor_loss": "ddpg_bc", "distribution": "deterministic"},
    ):
        with pytest.raises(ConfigError, match="has no effect with actor_loss"):
            made(IQL, IQLConfig(**settings), spec)
    with pytest.raises(ConfigError, match="with discrete actions"):
        made(IQL, IQLConfig(actor_loss="ddpg_bc"), Spec(Box((1,)), Discrete(2)))
    with pytest.raises(ConfigError, match="take awr"):
        made(IQL, IQLConfig(actor_loss="ddpg_bc"), Spec(Discrete(3), Box((1,))))


def test_a_plain_algorithm_learns_to_act_from_the_actors_goals_and_to_value_from_the_others() -> None:
    algorithm = made(IQL, IQLConfig(hidden=()), ONE)
    algorithm.batch = HindsightTransitions()
    table = torch.tensor([[0.0, 0.5], [1.0, -0.5], [3.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    rows = table[torch.tensor([[0, 1, 2, 3]])]
    due = frozenset(["value", "critic", "actor", "target_critic"])
    found, metrics = algorithm(rows, {}, due)
    values, actors = algorithm.batch.unpack(rows, ONE)
    assert values.observations.tolist() == [[0, 3]] and actors.observations.tolist() == [[0, 5]]
    by_value, by_actor = (algorithm.losses(part, {}, due)[0] for part in (values, actors))
    assert found.keys() == {"value", "critic", "actor"}
    assert found["actor"] == by_actor["actor"] != by_value["actor"]
    assert found["value"] == by_value["value"] != by_actor["value"]
    assert found["critic"] == by_value["critic"] != by_actor["critic"]
    assert {"advantage", "clipped_weights", "q"} <= metrics.keys()
    for name in ("value", "actor"):
        alone, _ = algorithm(rows, {}, frozenset([name]))
        assert alone.keys() == {name} and alone[name] == found[name]
