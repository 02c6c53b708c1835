"""What every algorithm promises the engine: run over all that are found by file name, with each kind of actions they take."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stitchrl.agent import Agent
from stitchrl.core.goals import Goals
from stitchrl.core.spec import Discrete
from stitchrl.evaluation.playing import Player
from stitchrl.training import seeds
from tests.algorithms.synthetic_log import Case, cases

ALL = cases()
FIRST = cases(variants=False)
# each action is made of new noise
DRAWN = ("bcq", "decision_diffuser", "diffuser", "diffusion_policy", "diffusion_ql", "fql", "idql", "trajectory_transformer")


def one_step(case: Case, step: int = 0, size: int = 32) -> tuple[nn.Module, Tensor, dict[str, Tensor], frozenset[str]]:
    """Returns an algorithm and what it is called with at a step."""
    algorithm = case.build()
    generator = torch.Generator().manual_seed(step)
    noise = {name: kind.draw(1, generator)[0] for name, kind in algorithm.noise(size).items()}
    due = frozenset(n for n in (*algorithm.networks, *algorithm.targets) if (step + 1) % algorithm.update_every.get(n, 1) == 0)
    return algorithm, case.rows(size), noise, due


def places(case: Case) -> dict[str, slice]:
    """Returns where each column lies in the packed rows."""
    widths = case.kind.columns(case.spec)
    ends = list(itertools.accumulate(widths.values()))
    return {name: slice(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}


@pytest.mark.parametrize("case", ALL, ids=str)
def test_its_networks_have_an_optimizer_each_and_its_targets_none(case: Case) -> None:
    algorithm = case.build()
    assert set(algorithm.optimizers) == set(algorithm.networks)
    assert set(algorithm.update_every) <= {*algorithm.networks, *algorithm.targets}
    assert set(algorithm.targets.values()) <= set(algorithm.networks)
    # a compiled step (PyTorch 2.13, CPU) silently does not write to a float64 input without axes: it would never learn
    assert all(parameter.ndim > 0 for parameter in algorithm.parameters())
    for target, source in algorithm.targets.items():
        ours, theirs = (algorithm.get_submodule(name).state_dict() for name in (target, source))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("case", ALL, ids=str)
def test_losses_are_finite_scalars_named_after_the_networks_that_are_due(case: Case, step: int) -> None:
    algorithm, rows, noise, due = one_step(case, step)
    losses, metrics = algorithm(rows, noise, due)
    assert set(losses) == due & set(algorithm.networks)
    for name, value in (losses | metrics).items():
        assert value.shape == (), f"{name} has shape {list(value.shape)}"
        assert torch.isfinite(value), f"{name} is {value}"


@pytest.mark.parametrize("case", ALL, ids=str)
def test_each_loss_can_be_asked_for_alone(case: Case) -> None:
    algorithm, rows, noise, due = one_step(case, 5)
    together, _ = algorithm(rows, noise, due)
    for name in together:
        alone, _ = algorithm(rows, noise, frozenset([name]))
        assert set(alone) == {name}
        torch.testing.assert_close(alone[name], together[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_each_loss_reaches_its_own_network_and_no_other(case: Case) -> None:
    algorithm, rows, noise, due = one_step(case, 5)  # step 5: delayed networks of every 1, 2, 3 steps are due
    constants = {name for name, p in algorithm.named_parameters() if not p.requires_grad and name.split(".")[0] not in algorithm.targets}
    parameters = {name: parameter for name, parameter in algorithm.named_parameters() if name not in constants}
    for parameter in parameters.values():
        if not parameter.any():  # a layer that begins at zero lets no gradient through yet: as if it had learned
            torch.nn.init.normal_(parameter.data, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
        parameter.requires_grad_()  # target networks too: a gradient to them must not exist
    losses, _ = algorithm(rows, noise, due)
    assert set(losses) == set(algorithm.networks)
    for network, loss in losses.items():
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            reached = gradient is not None and bool((gradient != 0).any())
            if name.split(".")[0] != network:
                assert not reached, f"the loss of {network} moves {name}"
            else:
                assert reached, f"the loss of {network} does not move its own {name}"


@pytest.mark.parametrize("case", ALL, ids=str)
def test_losses_are_pure(case: Case) -> None:
    algorithm, rows, noise, due = one_step(case, 5)
    before = {name: p.clone() for name, p in algorithm.state_dict().items()}
    random_state = torch.get_rng_state()
    (first, metrics), (second, again) = algorithm(rows, noise, due), algorithm(rows, noise, due)
    assert torch.equal(random_state, torch.get_rng_state()), "global random numbers were used"
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(metrics[name], again[name]) for name in metrics)
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_terminal_step_does_not_look_at_what_follows(case: Case) -> None:
    algorithm, rows, noise, due = one_step(case, 5)
    columns = places(case)
    if "critic" not in algorithm.networks or "next_observations" not in columns or "terminals" not in columns:
        pytest.skip("has no critic that reads the log's terminals")
    terminal = columns["terminals"]
    ended, running, moved = rows.clone(), rows.clone(), rows.clone()
    ended[:, terminal], running[:, terminal] = 1, 0
    moved[:, terminal] = 1
    for after in {"next_observations", "next_actions"} & set(columns):
        moved[:, columns[after]] = 100 + 7 * torch.arange(32.0).unsqueeze(1)
    critic = frozenset(["critic"])
    loss = [algorithm(x, noise, critic)[0]["critic"] for x in (ended, running, moved)]
    assert loss[0] != loss[1], "a step that only ran out of time must be valued by what follows"
    if case.name not in ("cql", "cal_ql") or case.actions == "discrete":  # they propose actions at s' for its log-sum-exp, terminal or not
        torch.testing.assert_close(loss[0], loss[2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_first_weights_come_from_the_seed_alone(case: Case) -> None:
    before = torch.get_rng_state()
    torch.manual_seed(1)
    one = case.build(3).state_dict()
    torch.manual_seed(2)
    two, other = case.build(3).state_dict(), case.build(4).state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_its_policy_gives_legal_actions_and_treats_each_observation_by_itself(case: Case) -> None:
    policy = case.build().double().policy()  # a sampler's many steps enlarge what float32 rounds off
    observations = 3 * torch.randn(64, case.width, generator=torch.Generator().manual_seed(0)).double()
    kind = policy.noise(64)
    sample = None if kind is None else kind.draw(1, torch.Generator().manual_seed(1), torch.float64)[0]
    for noise in (None, sample):
        actions = policy(observations, noise)
        if isinstance(case.spec.action, Discrete):
            assert actions.dtype == torch.int64 and actions.shape == (64,)
            assert 0 <= actions.min() and actions.max() < case.spec.action.n
        else:
            assert actions.shape == (64, 2) and actions.abs().max() <= 1
        alone = torch.cat([policy(observations[i : i + 1], None if noise is None else noise[i : i + 1]) for i in range(0, 64, 4)])
        torch.testing.assert_close(alone, actions[::4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_sampled_actions_depend_on_the_noise_and_nothing_else(case: Case) -> None:
    policy = case.build().policy()
    kind = policy.noise(256)
    if kind is None:
        pytest.skip("deterministic")
    observations = torch.zeros(256, case.width)
    first, again, other = (policy(observations, kind.draw(1, torch.Generator().manual_seed(seed))[0]) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_an_evaluation_takes_its_mode_unless_its_paper_draws_each_action(case: Case) -> None:
    algorithm = case.build()
    policy = algorithm.policy()
    seen = np.zeros((1, 64, case.width), np.float32)

    def actions() -> np.ndarray:
        agent = Agent(case.name, algorithm, seeds.stack([algorithm], torch.device("cpu"), torch.float32), case.spec, [], (0,))
        player = Player(agent, sampled=False)
        return np.asarray([player(seen, np.ones((1, 64), bool)) for _ in range(2)])

    found = actions()
    assert np.array_equal(found, actions()), "an evaluation can be repeated"
    drawn = policy.drawn and policy.noise(1) is not None
    assert np.array_equal(found[0], found[1]) == (not drawn)
    always_the_same = (case.name == "bcq" and case.actions == "discrete") or case.settings.get("planning", "value") != "value"
    assert policy.drawn == (case.name in DRAWN and not always_the_same)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_its_policy_holds_only_what_it_needs_to_act_and_shares_it(case: Case) -> None:
    algorithm = case.build()
    policy = algorithm.policy()
    mine = {id(p) for p in algorithm.parameters()}
    assert all(id(p) in mine for p in policy.parameters())
    observations = torch.randn(16, case.width, generator=torch.Generator().manual_seed(0))
    before = policy(observations).double()
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(policy(observations).double(), before), "the policy must act with the weights as they are now"


@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_believed_value_is_one_finite_number_an_observation(case: Case) -> None:
    algorithm = case.build()
    observations = torch.randn(7, case.width, generator=torch.Generator().manual_seed(0))
    value = algorithm.believed_value(observations)
    if "critic" not in algorithm.networks or isinstance(algorithm.batch, Goals):
        assert value is None
        return
    assert value is not None and value.shape == (7,) and torch.isfinite(value).all()


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_a_discrete_policy_lists_probabilities(case: Case) -> None:
    policy = case.build().policy()
    observations = torch.randn(9, case.width, generator=torch.Generator().manual_seed(0))
    if not isinstance(case.spec.action, Discrete):
        with pytest.raises(TypeError):
            policy.action_probabilities(observations)
        return
    probabilities = policy.action_probabilities(observations)
    assert torch.equal(probabilities.sum(-1), torch.ones(9))
    assert torch.equal(probabilities.argmax(-1), policy(observations))
