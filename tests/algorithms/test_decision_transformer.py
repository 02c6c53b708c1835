"""Decision Transformer: its loss by hand, what its policy remembers, and what it is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stitchrl.agent import Agent
from stitchrl.algorithms.decision_transformer import DecisionTransformer, DecisionTransformerConfig, ReturnConditionedPolicy
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import WindowBatch
from stitchrl.data.transforms import affine_rewards

BOX = Spec(Box((2,)), Box((1,), (-1.0,), (1.0,)))
CHOICES = Spec(Box((2,)), Discrete(3))
STATES = Spec(Discrete(5), Discrete(3))
FRAMES = Spec(Box((2, 40, 40), (0.0,), (255.0,), "uint8"), Discrete(3))
SMALL = {"context": 4, "width": 8, "layers": 2, "heads": 2, "longest_episode": 12, "return_scale": 10.0}


def made(spec: Spec, **settings: object) -> DecisionTransformer:
    """Weights large enough that everything matters."""
    algorithm = build(DecisionTransformer, DecisionTransformerConfig(**(SMALL | settings)), spec, 0)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for parameter in algorithm.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    return algorithm  # type: ignore[return-value]


def window(spec: Spec, steps: int = 4, length: int = 4, size: int = 2) -> WindowBatch:
    """Windows of which the first `steps` are an episode's steps and the others padding."""
    generator = torch.Generator().manual_seed(2)
    taken = (torch.arange(length) < steps).float().expand(size, length)
    if spec is FRAMES:
        s = torch.randint(256, (size, length, 2, 40, 40), generator=generator, dtype=torch.uint8)
    elif spec is STATES:
        s = torch.randint(5, (size, length), generator=generator)
    else:
        s = torch.randn(size, length, 2, generator=generator) * taken.unsqueeze(-1)
    a = torch.rand(size, length, 1, generator=generator) * 2 - 1 if spec is BOX else torch.randint(3, (size, length), generator=generator)
    r = torch.randn(size, length, generator=generator) * taken
    returns_to_go = r.flip(1).cumsum(1).flip(1)
    return WindowBatch(s, a, r, returns_to_go, torch.zeros(size, length), torch.arange(length).expand(size, length), taken, taken)


def loss_of(algorithm: DecisionTransformer, batch: WindowBatch, key: float = 0.5) -> tuple[float, dict[str, torch.Tensor]]:
    losses, metrics = algorithm.losses(batch, {"dropout": torch.tensor([key])}, frozenset(["model"]))
    return losses["model"].item(), metrics


def constant_head(algorithm: DecisionTransformer, *bias: float) -> None:
    algorithm.model.head.weight.data.zero_()
    algorithm.model.head.bias.data = torch.tensor(bias)


def test_the_loss_is_the_squared_error_of_steps_taken() -> None:
    algorithm = made(BOX)
    constant_head(algorithm, 0.5)
    batch = window(BOX, steps=2, size=1)._replace(actions=torch.tensor([[[0.25], [-1.0], [9.0], [9.0]]]))
    p = math.tanh(0.5)
    assert loss_of(algorithm, batch)[0] == pytest.approx(((p - 0.25) ** 2 + (p + 1) ** 2) / 2)


def test_the_loss_of_integers_is_the_cross_entropy_of_steps_taken() -> None:
    algorithm = made(CHOICES)
    constant_head(algorithm, 0.0, 1.0, 2.0)
    batch = window(CHOICES, steps=3, size=1)._replace(actions=torch.tensor([[2, 0, 2, 1]]))
    total = 1 + math.e + math.e**2
    loss, metrics = loss_of(algorithm, batch)
    assert loss == pytest.approx((2 * math.log(total / math.e**2) + math.log(total)) / 3)
    assert metrics["accuracy"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("spec", [BOX, CHOICES])
def test_padding_and_what_comes_later_do_not_matter(spec: Spec) -> None:
    algorithm = made(spec, dropout=0.0)
    batch = window(spec, steps=3)
    changed = [x.clone() for x in batch if x is not None]
    for x in changed[:3]:  # observations, actions, rewards
        x[:, 3] = 1
    changed[3][:, 3], changed[5] = 77.0, torch.tensor([0, 1, 2, 11]).expand(2, 4)
    assert loss_of(algorithm, WindowBatch(*changed))[0] == pytest.approx(loss_of(algorithm, batch)[0], rel=1e-6)
    # and an action is not predicted from itself: what stands where the last was done changes its own error alone
    model = algorithm.model

    def predicted(b: WindowBatch) -> torch.Tensor:
        return model.predicted(
            torch.cat([model.before_action(b.returns_to_go, b.observations, b.timesteps), model.of_action(b.actions, b.timesteps)], 2)
        )

    other = batch._replace(actions=batch.actions.clone())
    other.actions[:, 1] = 0 if spec is CHOICES else 1.0
    moved = (predicted(other) - predicted(batch)).abs().amax((0, 2))
    assert moved[:2].tolist() == [0, 0] and bool((moved[2:] > 1e-4).all())


def test_every_part_of_the_past_is_read() -> None:
    algorithm = made(BOX, dropout=0.0)
    batch = window(BOX)
    base = loss_of(algorithm, batch)[0]
    for name in ("observations", "returns_to_go", "timesteps", "actions"):
        value = getattr(batch, name).clone()
        value[:, 0] += 1
        assert abs(loss_of(algorithm, batch._replace(**{name: value}))[0] - base) > 1e-5, name
    tenfold = made(BOX, dropout=0.0, return_scale=100.0)  # returns are read divided by it
    assert loss_of(tenfold, batch._replace(returns_to_go=batch.returns_to_go * 10))[0] == pytest.approx(base, rel=1e-5)


def test_dropout_is_the_keys() -> None:
    algorithm, batch = made(BOX, dropout=0.2), window(BOX)
    assert loss_of(algorithm, batch, 0.1)[0] == loss_of(algorithm, batch, 0.1)[0] != loss_of(algorithm, batch, 0.2)[0]
    assert made(BOX, dropout=0.0).noise(4) == {}


@pytest.mark.parametrize("spec", [BOX, CHOICES, STATES, FRAMES], ids=["box", "choices", "states", "frames"])
@torch.no_grad()
def test_its_policy_acts_on_the_last_steps_as_the_model_reads_them(spec: Spec) -> None:
    """Seven steps with a context of four: each action is the model's at the end of the window of what truly happened."""
    algorithm = made(spec, target_return=5.0)
    policy, model, count = algorithm.policy(), algorithm.model, 3
    s, rewards = window(spec, 7, 7, count).observations, torch.randn(count, 7, generator=torch.Generator().manual_seed(3))
    memory = policy.memory(count)
    assert memory is not None
    actions: list[torch.Tensor] = []
    for t in range(7):
        before = rewards[:, t - 1] if t else torch.zeros(count)
        action, memory = policy.step(s[:, t], before, memory)
        actions.append(action)
        start = max(0, t - 3)
        togo = torch.stack([5.0 - rewards[:, :k].sum(1) for k in range(start, t + 1)], 1)
        when = torch.arange(start, t + 1).expand(count, -1)
        done = torch.stack(actions[start:], 1)
        tokens = torch.cat([model.before_action(togo, s[:, start : t + 1], when), model.of_action(done, when)], 2)
        expected = model.predicted(tokens)[:, -1]
        if spec is not BOX:
            assert torch.equal(action, expected.argmax(-1))
        else:
            assert (action - expected).abs().max() < 1e-5
    assert torch.equal(policy(s[:, 0]), actions[0])


@torch.no_grad()
def test_environments_are_apart_also_where_episodes_begin_at_other_times() -> None:
    algorithm = made(BOX, target_return=5.0)
    agent = Agent("decision_transformer", algorithm, dict(algorithm.named_parameters()), BOX, [], (0,))
    rng = np.random.default_rng(0)
    s, r = rng.standard_normal((9, 1, 2, 2)).astype(np.float32), rng.standard_normal((9, 1, 2))

    def acted(environment: int, start: int, stop: int) -> np.ndarray:
        agent.reset()
        return np.stack([agent.act(s[t, :, [environment]].reshape(1, 1, 2), r[t - 1, :, [environment]]) for t in range(start, stop)])

    alone = [acted(0, 0, 9), acted(1, 0, 6), acted(1, 6, 9)]
    agent.reset()
    together = []
    for t in range(9):
        if t == 6:
            agent.reset(np.array([[False, True]]))
        together.append(agent.act(s[t], r[t - 1]))
    found = np.stack(together)[:, 0]
    assert np.abs(found[:, 0] - alone[0][:, 0, 0]).max() < 1e-6
    assert np.abs(found[:, 1] - np.concatenate(alone[1:])[:, 0, 0]).max() < 1e-6


def log_of(returns: list[float], rest: int = 4) -> WindowBatch:
    """Single states: each episode's first and others, whose returns to go are no episode's."""
    g = torch.tensor([*returns, *([99.0] * rest)]).unsqueeze(1)
    t = torch.tensor([*([0] * len(returns)), *range(1, rest + 1)]).unsqueeze(1)
    zero, one = torch.zeros_like(g), torch.ones_like(g)
    return WindowBatch(torch.zeros(*g.shape, 2), g.unsqueeze(-1), zero, g, zero, t, one, one)


def test_unasked_it_is_asked_for_the_logs_best_return() -> None:
    algorithm = made(BOX)
    algorithm.measure(log_of([-3.0, 2.5, 1.0]))
    assert algorithm.model.target_return.tolist() == [2.5] and algorithm.model.logged_returns.tolist() == [-3.0, 2.5]
    told = made(BOX, target_return=7.0)
    told.measure(log_of([-3.0, 2.5, 1.0]))
    assert told.model.target_return.tolist() == [7.0] and told.model.logged_returns.tolist() == [-3.0, 2.5]


@torch.no_grad()
def test_several_returns_are_asked_for_at_once() -> None:
    algorithm = made(BOX, target_return=5.0)
    policy = algorithm.policy()
    s = torch.ones(3, 2)
    unasked = policy(s)
    policy.ask(torch.tensor([5.0, -20.0, 40.0]))
    asked = policy(s)
    assert torch.equal(asked[:1], unasked[:1]) and len(asked.unique()) == 3
    with pytest.raises(ConfigError, match="3 environments and 2 begin"):
        policy(s[:2])
    policy.ask(None)
    assert torch.equal(policy(s), unasked)


@torch.no_grad()
def test_drawn_integers_follow_the_softmax() -> None:
    algorithm = made(CHOICES)
    constant_head(algorithm, *[math.log(p) for p in (0.2, 0.3, 0.5)])
    policy = algorithm.policy()
    kind = policy.noise(4000)
    assert isinstance(policy, ReturnConditionedPolicy) and kind is not None
    drawn = policy(torch.zeros(4000, 2), kind.draw(1, torch.Generator().manual_seed(0))[0])
    share = torch.bincount(drawn, minlength=3) / 4000
    assert (share - torch.tensor([0.2, 0.3, 0.5])).abs().max() < 4 * (0.25 / 4000) ** 0.5
    assert policy(torch.zeros(1, 2)).item() == 2 and policy.action_probabilities(torch.zeros(1, 2)).tolist() == [[0, 0, 1]]


@torch.no_grad()
def test_rewards_reach_it_in_the_units_it_learned_in() -> None:
    algorithm = made(BOX, target_return=5.0)
    scaled = Agent("decision_transformer", algorithm, dict(algorithm.named_parameters()), BOX, [affine_rewards(0.1, 0.0)], (0,))
    s = np.ones((1, 1, 2), np.float32)
    scaled.act(s)
    scaled.act(s, np.array([[20.0]]))
    assert scaled._memories is not None and scaled._memories[0]["wanted"].tolist() == [3.0]


def test_frames_reach_the_convolutions_with_their_gradient() -> None:
    algorithm = made(FRAMES)
    losses, _ = algorithm.losses(window(FRAMES), {"dropout": torch.tensor([0.5])}, frozenset(["model"]))
    first = algorithm.model.state_token.encoder.layers[0].weight  # type: ignore[union-attr]
    assert bool((torch.autograd.grad(losses["model"], first)[0] != 0).any())


def test_the_networks_are_the_authors() -> None:
    algorithm = build(DecisionTransformer, DecisionTransformerConfig(), Spec(Box((17,)), Box((6,), (-1.0,), (1.0,))), 0)
    learned = sum(p.numel() for p in algorithm.parameters() if p.requires_grad)
    # three blocks of 12 D^2 + 13 D, last norm and token norm, returns, 17 numbers, 6 actions, 1,000 timesteps, head
    assert learned == 3 * (12 * 128**2 + 13 * 128) + 4 * 128 + 2 * 128 + 18 * 128 + 7 * 128 + 1000 * 128 + 129 * 6
