"""The Trajectory Transformer: its loss counted by hand, what its policy remembers, and what it is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stitchrl.agent import Agent
from stitchrl.algorithms.trajectory_transformer import PlanningPolicy, TrajectoryTransformer, TrajectoryTransformerConfig
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.core.plans import Planner
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.evaluation.playing import Player
from stitchrl.nn.beam_search import decode_action, plan_by_value
from stitchrl.nn.decoding import PlainDecoder

STATES = Spec(Discrete(3), Discrete(2))
REAL = Spec(Box((4,)), Box((2,), (-1.0,), (1.0,)))
SMALL = {"bins": 2, "sequence": 3, "context": 2, "width": 8, "layers": 1, "heads": 2, "beam_width": 4, "horizon": 3, "dropout": 0.0}


def made(spec: Spec, **settings: Any) -> TrajectoryTransformer:
    found = build(TrajectoryTransformer, TrajectoryTransformerConfig(**{**SMALL, **settings}), spec, 0)
    assert isinstance(found, TrajectoryTransformer)
    return found.double()


def real(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_the_loss_by_hand() -> None:
    # the law of each place is a fixed one: the stream is a constant vector (1, 0, …), which the head's first row reads
    algorithm = made(STATES, action_weight=5.0, reward_weight=2.0, return_weight=3.0)
    law = algorithm.model.law
    p = {  # of the tokens, and of stop last
        "state": [0.5, 0.2, 0.2, 0.1],
        "action": [0.6, 0.3, 0.1],
        "reward": [0.7, 0.2, 0.1],
        "return": [0.25, 0.5, 0.25],
    }
    with torch.no_grad():
        law.transformer.norm.weight.zero_()
        law.transformer.norm.bias.copy_(torch.eye(8)[0])
        law.head.zero_()
        for place, probabilities in enumerate(p.values()):
            known = torch.tensor(probabilities).log()
            law.head[place, 0, : len(known) - 1], law.head[place, 0, -1] = known[:-1], known[-1]
        edges = algorithm.model.tokens.discretization.edges
        edges.copy_(torch.tensor([[0.5], [10.0]]))  # rewards below and above 0.5, returns below and above 10
    # first window: a step, a step that ends the task, the final state (all stop); second: the clock ends it after one step
    batch = WindowBatch(
        torch.tensor([[0, 1, 2], [2, 0, 0]]),
        torch.tensor([[1, 0, 0], [0, 0, 0]]),
        real([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
        real([[20.0, 1.0, 0.0], [3.0, 0.0, 0.0]]),
        real([[0, 1, 0], [0, 0, 0]]),
        torch.tensor([[0, 1, 2], [5, 6, 0]]),
        real([[1, 1, 0], [1, 0, 0]]),
        real([[1, 1, 1], [1, 1, 0]]),
    )
    losses, metrics = algorithm.losses(batch, {}, frozenset(["model"]))
    # each window's first token is predicted from nothing, and not counted
    states = [0.2, 0.1, 0.5]  # state 1, stop; the second window's final state 0
    actions = [0.3, 0.6, 0.1, 0.6]
    rewards = [0.7, 0.2, 0.1, 0.7]
    returns = [0.5, 0.25, 0.25, 0.25]
    nll = [-sum(math.log(q) for q in kind) for kind in (states, actions, rewards, returns)]
    assert losses["model"].item() == pytest.approx((nll[0] + 5 * nll[1] + 2 * nll[2] + 3 * nll[3]) / 15, rel=1e-6)
    found = [metrics[f"{kind}_nll"].item() for kind in ("observation", "action", "reward", "return")]
    assert found == pytest.approx([nll[0] / 3, nll[1] / 4, nll[2] / 4, nll[3] / 4], rel=1e-6)


def test_padding_changes_nothing() -> None:
    algorithm = made(REAL, sequence=5, context=2)
    g = torch.Generator().manual_seed(0)
    short = WindowBatch(
        torch.randn(2, 3, 4, generator=g, dtype=torch.float64), torch.rand(2, 3, 2, generator=g, dtype=torch.float64), *_told(2, 3, g)
    )
    padded = WindowBatch(*(torch.cat([x, torch.zeros_like(x[:, :2])], 1) for x in short if x is not None))
    one, two = (algorithm.losses(batch, {}, frozenset(["model"]))[0]["model"] for batch in (short, padded))
    assert one.item() == pytest.approx(two.item(), rel=1e-12)


def _told(windows: int, length: int, g: torch.Generator) -> tuple[Tensor, ...]:
    r, returns = torch.randn(2, windows, length, generator=g, dtype=torch.float64)
    ones = torch.ones_like(r)
    return r, returns, torch.zeros_like(r), torch.arange(length).expand(windows, -1), ones, ones


def test_bins_are_measured_where_something_was_done() -> None:
    algorithm = made(REAL)
    g = torch.Generator().manual_seed(0)
    s, a = torch.randn(50, 1, 4, generator=g), torch.rand(50, 1, 2, generator=g)
    taken = (torch.arange(50) % 5 > 0).float().unsqueeze(1)
    r = torch.where(taken > 0, 7.0, 0.0)
    log = WindowBatch(s, a, r, 2 * r, 0 * r, torch.zeros(50, 1, dtype=torch.int64), taken, torch.ones(50, 1))
    algorithm.measure(log)
    values = algorithm.model.tokens.discretization.values
    assert torch.equal(values[-2:], real([[7.0, 7.0], [14.0, 14.0]]))
    assert (a[taken > 0].min() < values[4:6]).all() and (values[4:6] < a[taken > 0].max()).all()


def test_what_it_eats_follows_its_settings() -> None:
    assert TrajectoryTransformer.batch_of(TrajectoryTransformerConfig(sequence=7, discount=0.5)) == Windows(7, 0.5)
    assert TrajectoryTransformer.batch_of(TrajectoryTransformerConfig(sequence=7, goal=((0, 2),))) == Windows(7, 0.99, goals=True)


def scrambled(spec: Spec, **settings: Any) -> PlanningPolicy:
    """The policy of a model whose laws are far from uniform."""
    algorithm = made(spec, sequence=4, **settings)
    with torch.no_grad():
        for parameter in algorithm.model.law.parameters():
            parameter.add_(
                0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()), dtype=torch.float64)
            )
    policy = algorithm.policy()
    assert isinstance(policy, PlanningPolicy)
    return policy


@pytest.mark.parametrize("prefix_context", [True, False])
@pytest.mark.parametrize("slide", [1, 2])
def test_a_step_plans_from_what_was_done_before(prefix_context: bool, slide: int) -> None:
    policy = scrambled(STATES, context=3, slide=slide, prefix_context=prefix_context, bins=4, beam_width=5)
    kept = 3 - slide if prefix_context else 0
    g = torch.Generator().manual_seed(0)
    memory = policy.memory(3)
    told: list[list[Tensor]] = [[], [], []]  # of each environment, the tokens of its transitions
    assert memory is not None
    tokens = policy.model.tokens
    rewards = torch.zeros(3)
    actions = torch.zeros(3, dtype=torch.int64)
    for step in range(7):
        s = torch.randint(3, (3,), generator=g)
        if step == 4:  # the second environment begins anew
            fresh = policy.memory(3)
            assert fresh is not None
            for name in memory:
                memory[name][1] = fresh[name][1]
            told[1] = []
        noise = torch.rand(3, *policy.shape, generator=g, dtype=torch.float64)  # type: ignore[misc]
        actions, memory = policy.step(s, rewards, memory, noise)
        for n in range(3):
            past = torch.cat(
                [*told[n][len(told[n]) - kept if kept and len(told[n]) > kept else 0 :], s[n : n + 1]] if kept else [s[n : n + 1]]
            )
            decoder = PlainDecoder(policy.model.law, past.unsqueeze(0), 3, slide)
            with torch.no_grad():
                plans = plan_by_value(
                    decoder, s[n].reshape(1, 1), policy.search, tokens.expected_reward, tokens.expected_return, noise[n : n + 1]
                )
            assert plans.tokens[0, 0, 0, 1] == actions[n]
        rewards = torch.randn(3, generator=g)
        for n in range(3):
            told[n].append(
                torch.cat([s[n : n + 1], actions[n : n + 1], tokens.of_rewards(rewards[n : n + 1]).flatten(), torch.zeros(1)]).long()
            )


def test_a_plan_is_followed_before_the_next_is_made() -> None:
    policy = scrambled(REAL, replan_every=2, bins=5)
    with torch.no_grad():  # nothing ends: the stream's first number is 1, and stop's logit -50
        policy.model.law.transformer.norm.weight[0], policy.model.law.transformer.norm.bias[0] = 0, 1
        policy.model.law.head[:, :, -1] = -50 * torch.eye(8)[0]
    memory = policy.memory(2)
    assert memory is not None
    s, zeros = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.zeros(2)
    o, done = 4, []
    for step in range(4):
        before = {name: value.clone() for name, value in memory.items()}
        actions, memory = policy.step(s[step], zeros, memory)
        done.append(actions)
        if step % 2:  # what the plan had for now, whatever is seen
            other, _ = policy.step(-s[step], zeros, before)
            assert torch.equal(other, actions)
            plan = policy._plans(policy.model.tokens.of_observations(s[0]), s[0], None).tokens[:, 0]
            if step == 1:
                assert torch.equal(policy.model.tokens.actions(plan[:, 1, o : o + 2]), actions)


def test_a_plan_that_ends_before_it_is_done_is_made_anew() -> None:
    policy = scrambled(REAL, replan_every=3, bins=5)
    with torch.no_grad():  # after one step all is thought to be over
        policy.model.law.transformer.norm.weight[0], policy.model.law.transformer.norm.bias[0] = 0, 1
        policy.model.law.head[:, :, -1] = 50 * torch.eye(8)[0]
    memory = policy.memory(2)
    assert memory is not None
    for s in torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        actions, memory = policy.step(s, torch.zeros(2), memory)
        assert (memory["age"] == 1).all() and (memory["plan"][:, 1:] == policy.model.tokens.stop).all()
        assert actions.abs().max() <= 1


def test_without_planning_the_likeliest_action_is_done() -> None:
    policy = scrambled(REAL, planning="none", bins=5)
    s = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    now = policy.model.tokens.of_observations(s)
    expected = decode_action(PlainDecoder(policy.model.law, now, 2), 2, None)
    assert torch.equal(policy(s), policy.model.tokens.actions(expected))
    kind = policy.noise(6)
    assert kind is not None and kind.shape == (6, 2)
    assert policy.planned(s).states.shape == (6, 1, 3, 4)


@pytest.mark.parametrize("planning", ["value", "likelihood", "none"])
def test_at_play_plans_by_value_are_drawn_and_the_likeliest_is_always_the_same(planning: str) -> None:
    algorithm = made(REAL, sequence=4, planning=planning, bins=50).float()
    algorithm.model.tokens.measure(torch.randn(500, 4), torch.rand(500, 2) * 2 - 1, torch.randn(500), torch.randn(500), "quantile")
    agent = Agent("trajectory_transformer", algorithm, dict(algorithm.named_parameters()), REAL, [], [0])
    actions = Player(agent, sampled=False)(np.zeros((1, 40, 4), np.float32), np.ones((1, 40), np.bool_))
    assert (len(np.unique(actions[0], axis=0)) == 1) == (planning != "value")


def test_a_goal_is_read_from_the_observation_and_learned_from_the_episodes_last_state() -> None:
    policy = scrambled(REAL, goal=((0, 2), (1, 3)), planning="likelihood", bins=5)
    s = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = policy.model.wanted(s)
    tokens = policy.model.tokens
    as_state = tokens.of_observations(torch.cat([s[:, 2:], s[:, 2:]], 1))
    assert wanted is not None and torch.equal(wanted, as_state[:, :2])
    goal = policy.model.goal_of(s)
    assert goal is not None and torch.equal(goal, tokens.of_observations(s)[:, :2])
    # a model that is told another goal expects another course
    algorithm = made(REAL, goal=((0, 2), (1, 3)))
    g = torch.Generator().manual_seed(1)
    windows = WindowBatch(
        torch.randn(2, 3, 4, generator=g, dtype=torch.float64), torch.rand(2, 3, 2, generator=g, dtype=torch.float64), *_told(2, 3, g)
    )
    batch = windows._replace(goals=3 * torch.randn(2, 1, 4, generator=g, dtype=torch.float64).expand(2, 3, 4))
    loss = algorithm.losses(batch, {}, frozenset(["model"]))[0]["model"]
    goals = algorithm.model.tokens.of_observations(batch.goals[:, 0])[:, :2]
    assert not torch.equal(goals, algorithm.model.tokens.of_observations(batch.observations[:, -1])[:, :2])
    gradient = torch.autograd.grad(loss, algorithm.model.law.goal_embedding)[0]  # type: ignore[arg-type]
    told = goals + torch.arange(2) * (algorithm.model.law.stop + 1)
    reached = gradient.abs().sum(1).nonzero().flatten()
    assert set(reached.tolist()) == set(told.flatten().tolist())


def test_its_plans_can_be_seen() -> None:
    policy = scrambled(REAL, bins=5)
    assert isinstance(policy, Planner) and policy.score == "predicted return"
    s = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    planned = policy.planned(s)
    assert planned.states.shape == (3, 4, 3, 4) and planned.scores.shape == (3, 4) and planned.stages.shape == (3, 0, 3, 4)
    tokens = policy.model.tokens
    assert torch.equal(planned.states[:, :, 0], tokens.observations(tokens.of_observations(s)).unsqueeze(1).expand(-1, 4, -1))
    assert (planned.scores[:, :-1] >= planned.scores[:, 1:]).all() and torch.isfinite(planned.scores).all()


def test_a_plan_that_ends_the_task_stays_where_it_ended_and_earns_nothing_more() -> None:
    policy = scrambled(STATES, bins=2, horizon=4, observation_choices=1)
    law, tokens = policy.model.law, policy.model.tokens
    with torch.no_grad():
        law.head.zero_()
        law.transformer.norm.weight.zero_()
        law.transformer.norm.bias.copy_(torch.eye(8)[0])
        law.head[0, 0, -1] = 100.0  # after the first action the task is over
        for place in (2, 3):
            law.head[place, 0, -1] = 100.0
        tokens.discretization.values.fill_(3.0)
    planned = policy.planned(torch.tensor([2, 1]))
    assert torch.equal(planned.states, torch.tensor([2, 1]).reshape(2, 1, 1).expand(2, 4, 4))
    torch.testing.assert_close(planned.scores, torch.zeros_like(planned.scores))


@pytest.mark.parametrize(
    ("spec", "settings", "match"),
    [
        (Spec(Box((84, 84), dtype="uint8"), Discrete(3)), {}, "images"),
        (REAL, {"context": 4}, "context is 4.*sequence"),
        (REAL, {"slide": 2}, "slide is 2"),
        (REAL, {"replan_every": 4}, "replan_every is 4.*horizon"),
        (REAL, {"replan_every": 2, "planning": "none"}, "replan_every is 2.*one action"),
        (REAL, {"goal": ((0, 4),)}, "dimension 4.*0 to 3"),
        (STATES, {"goal": ((0, 0),)}, "goals are told by dimensions"),
        (REAL, {"heads": 3}, "heads"),
    ],
)
def test_settings_that_do_not_fit_are_refused(spec: Spec, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        made(spec, **settings)


def test_the_defaults_are_the_authors() -> None:
    c = TrajectoryTransformerConfig()
    assert (c.bins, c.sequence, c.layers, c.heads, c.width, c.dropout, c.learning_rate) == (100, 10, 4, 4, 128, 0.1, 6e-4)
    assert (c.action_weight, c.reward_weight, c.return_weight, c.discount) == (5, 1, 1, 0.99)
    assert (c.beam_width, c.horizon, c.expansion, c.observation_choices, c.action_choices, c.dropped_mass) == (128, 15, 2, 1, None, 0.6)
    assert (c.context, c.slide, c.prefix_context, c.replan_every) == (5, 1, True, 1)
    algorithm = build(TrajectoryTransformer, c, Spec(Box((17,)), Box((6,), (-1.0,), (1.0,))), 0)
    learned = sum(p.numel() for p in algorithm.parameters() if p.requires_grad)
    block = 12 * 128**2 + 13 * 128
    assert learned == 4 * block + 2 * 128 + 25 * 101 * 128 * 2 + 250 * 128
