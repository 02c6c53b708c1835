"""Action distributions against torch.distributions, scipy and counts."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.actors import CategoricalActor, DeterministicActor, GaussianActor, GreedyPolicy, SquashedGaussianActor
from stitchrl.nn.mlp import Critic

BOX = Spec(Box((5,)), Box((2,), (-1.0,), (1.0,)))
CHOICE = Spec(Box((5,)), Discrete(4))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squashed() -> tuple[SquashedGaussianActor, Tensor, TransformedDistribution]:
    actor = SquashedGaussianActor(BOX, (8,)).double()
    s = random(6, 5)
    mean, log_std = actor.gaussian(s)
    return actor, s, TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)])


def test_squashed_gaussian_density_is_the_transformed_distributions() -> None:
    actor, s, oracle = squashed()
    noise = random(3, 6, 2, seed=1)
    mean, log_std = actor.gaussian(s)
    actions, log_density = actor.sample(s, noise)
    assert actions.shape == (3, 6, 2) and log_density.shape == (3, 6)
    torch.testing.assert_close(actions, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(log_density, oracle.log_prob(actions))
    torch.testing.assert_close(actor.log_probabilities(s, actions[0]), log_density[0], rtol=1e-7, atol=1e-7)
    assert torch.equal(actor(s), torch.tanh(mean))
    assert torch.equal(actor(s, noise[0]), actions[0])


def test_squashed_gaussian_density_integrates_to_its_mass() -> None:
    torch.manual_seed(0)
    actor = SquashedGaussianActor(Spec(Box((5,)), Box((1,), (-1.0,), (1.0,))), ()).double()
    s, edge = random(1, 5), 0.999
    actor.requires_grad_(False)
    total, _ = quad(lambda a: actor.log_probabilities(s, torch.tensor([[a]], dtype=torch.float64)).exp().item(), -edge, edge, limit=400)
    mean, log_std = actor.gaussian(s)
    # what lies beyond the edge, where a wide Gaussian piles up, is left out on both sides
    inside = torch.distributions.Normal(mean, log_std.exp()).cdf(torch.atanh(torch.tensor([-edge, edge], dtype=torch.float64)))
    assert total == pytest.approx(float(inside[0, 1] - inside[0, 0]), abs=1e-6)


def test_squashed_gaussian_far_out_stays_finite() -> None:
    actor, s, _ = squashed()
    actor, s = actor.float(), s.float()
    for noise in (torch.full((6, 2), 40.0), torch.full((6, 2), -40.0)):
        noise.requires_grad_()
        actions, log_density = actor.sample(s, noise)
        (log_density.sum() + actions.sum()).backward()
        assert torch.isfinite(log_density).all() and actions.abs().max() <= 1
        assert noise.grad is not None and torch.isfinite(noise.grad).all()
    assert torch.isfinite(actor.log_probabilities(s, torch.ones(6, 2))).all(), "a logged action on the bound has a finite density"


def test_the_gradient_of_the_log_density_is_the_transformed_distributions() -> None:
    actor, s, _ = squashed()
    noise = random(6, 2, seed=1)
    ours = torch.autograd.grad(actor.sample(s, noise)[1].sum(), list(actor.parameters()))
    mean, log_std = actor.gaussian(s)
    oracle = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)])
    theirs = torch.autograd.grad(oracle.log_prob(torch.tanh(mean + log_std.exp() * noise)).sum(), list(actor.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_gaussian_actor() -> None:
    actor = GaussianActor(BOX, (8,)).double()
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-0.5, 0.7]))
    s, a = random(6, 5), torch.tanh(random(6, 2, seed=2))
    mean = torch.tanh(actor.mlp(s))
    torch.testing.assert_close(actor.log_probabilities(s, a), Normal(mean, actor.log_std.exp()).log_prob(a).sum(-1))
    assert torch.equal(actor(s), mean)
    noise = random(6, 2, seed=3)
    torch.testing.assert_close(actor(s, noise), (mean + actor.log_std.exp() * noise).clamp(-1, 1))
    with torch.no_grad():
        actor.log_std.fill_(-100.0)  # held at -5: a density cannot become a spike
    torch.testing.assert_close(
        actor.log_probabilities(s, mean), torch.full((6,), 2 * (5 - 0.5 * math.log(2 * math.pi)), dtype=torch.float64)
    )


def test_categorical_actor() -> None:
    actor = CategoricalActor(CHOICE, ()).double()
    s, a = random(6, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    oracle = Categorical(logits=actor.mlp(s))
    torch.testing.assert_close(actor.log_probabilities(s, a), oracle.log_prob(a))
    torch.testing.assert_close(actor.all_log_probabilities(s).exp(), oracle.probs)
    assert torch.equal(actor(s), oracle.probs.argmax(-1))


def test_categorical_samples_have_the_softmaxs_frequencies() -> None:
    actor = CategoricalActor(CHOICE, ())
    s = random(1, 5).float()
    count = 40_000
    kind = actor.noise(count)
    assert kind is not None
    drawn = actor(s.expand(count, 5), kind.draw(1, torch.Generator().manual_seed(0))[0])
    share = torch.bincount(drawn, minlength=4) / count
    expected = actor.all_log_probabilities(s).exp()[0]
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt()).all()
    assert actor(s, torch.zeros(1, 4)).shape == (1,), "noise of exactly 0 is drawn once in 16 million"


def test_greedy_policy_averages_its_ensemble() -> None:
    critic = Critic(CHOICE, (), ensemble=2)
    with torch.no_grad():
        critic.mlp.layers[0].weight.zero_()  # type: ignore[union-attr, operator]
        critic.mlp.layers[0].bias.copy_(torch.tensor([[[5.0, 0, 3, 0]], [[-5.0, 0, 3, 0]]]))  # type: ignore[union-attr, operator]
    policy = GreedyPolicy(critic)
    assert policy(torch.zeros(3, 5)).tolist() == [2, 2, 2]
    assert policy.action_probabilities(torch.zeros(1, 5)).tolist() == [[0, 0, 1, 0]]


def test_a_deterministic_actor_has_no_probabilities() -> None:
    actor = DeterministicActor(BOX, ())
    assert actor.noise(3) is None
    torch.testing.assert_close(actor(random(3, 5).float()), torch.tanh(actor.mlp(random(3, 5).float())))
    with pytest.raises(TypeError, match="deterministic"):
        actor.log_probabilities(torch.zeros(1, 5), torch.zeros(1, 2))
