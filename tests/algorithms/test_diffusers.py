"""Diffuser and Decision Diffuser: losses worked out by hand, and what guidance, inpainting and warm starts do exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stitchrl.algorithms.decision_diffuser import DecisionDiffuser, DecisionDiffuserConfig, asked_of
from stitchrl.algorithms.diffuser import Diffuser, DiffuserConfig, gradient, guide_of
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.errors import ConfigError
from stitchrl.core.plans import Planner
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import WindowBatch
from stitchrl.nn.diffusion import guided
from stitchrl.nn.planning import held

SPEC = Spec(Box((1,)), Box((1,), (-1.0,), (1.0,)))
SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "diffusion_steps": 6}
ALL = frozenset(["denoiser", "value", "plans", "inverse"])


def silenced(algorithm: Algorithm, network: str) -> None:
    """Sets a network's last layer to 0, whatever it sees."""
    for parameter in algorithm.get_submodule(network).parameters():
        parameter.data.zero_()


def log(observations: list[list[float]], taken: list[float], terminals: list[float], returns: list[float]) -> WindowBatch:
    """One window of one-dimensional states, present where the observation is not 0; actions are half of them."""
    s = torch.tensor(observations).reshape(1, len(taken), -1)
    zeros, did = torch.zeros(1, len(taken)), torch.tensor([taken])
    a = 0.5 * s[..., :1] * did.unsqueeze(-1)
    present = (s[..., 0] != 0).float()
    return WindowBatch(s, a, zeros, torch.tensor([returns]), torch.tensor([terminals]), zeros.long(), did, present)


# the task ends at the third state; limits are those that networks are born with, -1 to 1
WINDOW = log([[0.5], [-1.0], [0.25], [0.0]], [1, 1, 0, 0], [0, 1, 0, 0], [3.0, 1.0, 0.0, 0.0])
CLOCK = WINDOW._replace(terminals=torch.zeros(1, 4))
NOISE = {"noise": torch.full((1, 4, 2), 2.0), "time": torch.tensor([0.5])}


@pytest.mark.parametrize(("window", "held"), [(WINDOW, 0.25**2), (CLOCK, 0.0)])
def test_diffusers_loss_is_of_what_was_seen_or_held_and_weighs_the_first_action(window: WindowBatch, held: float) -> None:
    algorithm = build(Diffuser, DiffuserConfig(horizon=4, **SMALL), SPEC, 0)
    silenced(algorithm, "denoiser.diffusion.network.out")
    found, metrics = algorithm.losses(window, NOISE, ALL)  # type: ignore[arg-type]
    # it says 0: the errors are the trajectory's squares; states -1, 0.25 (and held: 0.25), the first is given; actions 0.25 (weight 10), -0.5
    states, actions = 1.0 + 0.25**2 + held, 10 * 0.25**2 + 0.5**2
    count = 3 + (held > 0) + 2
    assert found["denoiser"].item() == pytest.approx((states + actions) / count)
    assert metrics["first_action_error"].item() == pytest.approx(0.25**2)


def test_diffuser_learns_with_the_goal_written_in_as_it_will_be_when_it_plans() -> None:
    spec = Spec(Box((3,)), SPEC.action)
    algorithm = build(Diffuser, DiffuserConfig(horizon=4, goal=((1, 2),), **SMALL), spec, 0)
    silenced(algorithm, "denoiser.diffusion.network.out")
    whole = [[0.5, 0.1, 0.3], [0.2, 0.4, 0.3], [0.1, 0.6, 0.3], [0.7, 0.8, 0.3]]
    full = log(whole, [1, 1, 1, 0], [0, 0, 0, 0], [1.0, 1.0, 1.0, 1.0])
    short = log([*whole[:2], [0, 0, 0], [0, 0, 0]], [1, 0, 0, 0], [0, 0, 0, 0], [1.0, 1.0, 0.0, 0.0])  # the clock ended it: no last state
    seen: list[Tensor] = []
    algorithm.get_submodule("denoiser.diffusion.network").register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    noise = {"noise": torch.full((1, 4, 4), 2.0), "time": torch.tensor([0.5])}
    found = [algorithm.losses(window, noise, frozenset(["denoiser"]))[0]["denoiser"].item() for window in (full, short)]  # type: ignore[arg-type]
    assert seen[0][0, 3, 1].item() == pytest.approx(0.8) and seen[0][0, 3, 0].item() != pytest.approx(0.7, abs=0.1)
    assert seen[1][0, 3, 1].item() != pytest.approx(0.4, abs=0.1)
    # it says 0: errors are squares; not of the first state and of the goal
    states = sum(x * x for row in whole[1:] for x in row) - 0.8**2
    assert found[0] == pytest.approx((states + 10 * 0.25**2 + 0.1**2 + 0.05**2) / (4 * 3 + 3))
    assert found[1] == pytest.approx((0.2**2 + 0.4**2 + 0.3**2 + 10 * 0.25**2) / (2 * 3 + 1))


def test_diffusers_value_learns_the_return_in_deviations_from_the_logs_mean() -> None:
    algorithm = build(Diffuser, DiffuserConfig(horizon=4, discount=0.5, **SMALL), SPEC, 0)
    silenced(algorithm, "value.out")
    algorithm.value.returns.measure(torch.tensor([-3.0, 1.0]))  # mean -1, deviation 2
    found, metrics = algorithm.losses(WINDOW, NOISE, ALL)  # type: ignore[arg-type]
    # it says 0, where it should (3 - -1) / 2 = 2
    assert found["value"].item() == pytest.approx(4.0)
    assert metrics["predicted_return"].item() == pytest.approx(-1.0)


def test_returns_are_measured_where_something_was_done() -> None:
    states = log([[1.0], [2.0], [3.0]], [1, 1, 0], [0, 0, 0], [6.0, 2.0, 0.0])
    apart = WindowBatch(*(x[0].unsqueeze(1) for x in states if x is not None))  # windows of one state
    plain = build(Diffuser, DiffuserConfig(horizon=4, **SMALL), SPEC, 0)
    plain.measure(apart)
    assert (plain.value.returns.mean.item(), plain.value.returns.deviation.item()) == pytest.approx((4, 2))
    asked = build(DecisionDiffuser, DecisionDiffuserConfig(horizon=4, **SMALL), SPEC, 0)
    asked.measure(apart)
    assert asked.plans.returns.share(torch.tensor([2.0, 6.0])).tolist() == [0, 1]


def test_decision_diffusers_losses() -> None:
    algorithm = build(DecisionDiffuser, DecisionDiffuserConfig(horizon=4, hidden=(), **SMALL), SPEC, 0)
    silenced(algorithm, "plans.model.diffusion.network.plans.out")
    silenced(algorithm, "inverse")
    noise = {"noise": torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1), "time": NOISE["time"], "told": torch.zeros(1, 2)}
    found, _ = algorithm.losses(WINDOW, noise, ALL)  # type: ignore[arg-type]
    # it says 0: errors are the noise's squares after the first state, of four that are known; actions 0.25 and -0.5
    assert found["plans"].item() == pytest.approx((4 + 9 + 16) / 4)
    assert found["inverse"].item() == pytest.approx((0.25**2 + 0.5**2) / 2)
    found, _ = algorithm.losses(CLOCK, noise, ALL)  # type: ignore[arg-type]
    assert found["plans"].item() == pytest.approx((4 + 9) / 3)


def test_conditions_are_told_one_at_a_time_or_not_at_all() -> None:
    spec = Spec(Box((2,)), SPEC.action)
    limits = ((0, 0.0, 1.0), (1, -2.0, -0.5))
    config = DecisionDiffuserConfig(horizon=4, constraints=limits, **SMALL)
    algorithm = build(DecisionDiffuser, config, spec, 0)
    algorithm.plans.returns.measure(torch.tensor([1.0, 5.0]))
    seen = [[-9.0, -1.0], [0.5, -1.0], [0.75, -1.0], [0.25, -1.5]]
    window = log(seen, [1, 1, 1, 0], [0, 0, 0, 0], [3.0, 1.0, 0.0, 0.0])
    values, known = algorithm._conditions(window, window.observations, window.present)
    assert values.tolist() == [[0.5, 1, 1]], "the present state is not asked about"
    assert known.tolist() == [[1, 1, 1]]
    worse = window.observations.clone()
    worse[0, 2, 1] = 0.0
    assert algorithm._conditions(window, worse, window.present)[0].tolist() == [[0.5, 1, -1]]
    told = algorithm._told(torch.tensor([[0.24, 0.0], [0.25, 0.0], [0.9, 0.34], [0.9, 0.99]]))
    assert told.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    every = algorithm._told(torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0)))
    assert every.mean(0).tolist() == pytest.approx([0.25, 0.25, 0.25], abs=0.01)


@pytest.mark.parametrize(
    ("constrained", "terminal", "expected"),
    [("always", False, [0.0, 1.0]), ("always", True, [1.0, 1.0]), ("finally", False, [0.0, 0.0]), ("finally", True, [1.0, 1.0])],
)
def test_what_the_clock_hides_is_not_told(constrained: str, terminal: bool, expected: list[float]) -> None:
    spec = Spec(Box((2,)), SPEC.action)
    config = DecisionDiffuserConfig(
        horizon=4,
        constraints=((0, 0.0, 1.0), (1, -2.0, -0.5)),
        constrained=constrained,
        return_condition=False,
        condition_dropout=0.0,
        **SMALL,
    )
    algorithm = build(DecisionDiffuser, config, spec, 0)
    seen = [[0.5, -1.0], [0.5, 1.0], [0.5, -1.0], [0.0, 0.0]]  # the first is met as far as is seen, the second was broken on the way
    window = log(seen, [1, 1, 0, 0], [0, terminal, 0, 0], [0.0, 0.0, 0.0, 0.0])
    states, shown = held(window)
    assert algorithm._conditions(window, states, shown)[1].tolist() == [expected]
    told: list[Tensor] = []
    network = algorithm.get_submodule("plans.model.diffusion.network")
    network.register_forward_pre_hook(lambda _, given: told.append(given[3].detach()))
    noise = {"noise": torch.zeros(1, 4, 2), "time": NOISE["time"]}
    for condition in (0, 1):
        algorithm.losses(window, noise | {"told": torch.tensor([[0.5, condition / 2]])}, frozenset(["plans"]))
    assert [float(x[0, i]) for i, x in enumerate(told)] == expected


def test_skills_are_conditions_that_the_log_labels() -> None:
    config = DecisionDiffuserConfig(horizon=4, skills=3, return_condition=False, **SMALL)
    kind = DecisionDiffuser.batch_of(config)
    assert (kind.labels, kind.label_count) == ("infos/policy_id", 3)  # type: ignore[attr-defined]
    algorithm = build(DecisionDiffuser, config, SPEC, 0)
    window = WINDOW._replace(labels=torch.tensor([[2, 0, 0, 0]]))
    values, known = algorithm._conditions(window, window.observations, window.present)
    assert values.tolist() == [[-1, -1, 1]] and known.tolist() == [[1, 1, 1]]
    final = window._replace(taken=torch.zeros(1, 4))
    assert algorithm._conditions(final, window.observations, window.present)[1].tolist() == [[0, 0, 0]], "nothing is done at a final state"
    values, told = asked_of(DecisionDiffuserConfig(skills=3, asked_skills=(1, 0, -1)), torch.tensor([0.5]))
    assert told.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]] and values[0, 0].tolist() == [0.5, 1, 0, -1]


def planner(kind: type[Algorithm], spec: Spec = SPEC, **settings: Any) -> Any:
    config = {Diffuser: DiffuserConfig, DecisionDiffuser: DecisionDiffuserConfig}[kind]  # type: ignore[index]
    return build(kind, config(**{"horizon": 4, **SMALL, **settings}), spec, 0).policy()


OBSERVATIONS = torch.tensor([[0.3], [-0.7], [0.0]])


def test_without_guide_diffuser_samples_as_its_diffusion_does() -> None:
    policy = planner(Diffuser, guide_scale=0.0, candidates=2)
    z = policy.noise(3).draw(1, torch.Generator().manual_seed(1))[0]
    states = policy.planned(OBSERVATIONS, z).states
    s = torch.cat([OBSERVATIONS, torch.zeros(3, 1)], 1).repeat_interleave(2, 0).unsqueeze(1)
    first = torch.zeros(4, 2, dtype=torch.bool)
    first[0, 0] = True
    noise = z.transpose(0, 1).flatten(1, 2)
    plain = policy.denoiser.diffusion.sample(noise[0], policy.steps, noise=noise[1:], hold=lambda x: torch.where(first, s, x))
    assert torch.equal(states.flatten(0, 1), plain[..., :1])
    climbing = planner(Diffuser, guide_scale=50.0, candidates=2).planned(OBSERVATIONS, z).states
    assert not torch.allclose(climbing, states, atol=1e-4)


def test_each_step_of_the_guide_climbs_the_value_and_the_last_are_not_guided() -> None:
    config = DiffuserConfig(horizon=4, **SMALL, guide_scale=1e-3)
    policy = planner(Diffuser)
    value, guide = policy.value.double(), guide_of(policy.value, policy.steps, config, lambda x: x)
    x = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert [step.time for step in policy.steps] == [5, 4, 3, 2, 1, 0]
    for step in policy.steps[:4]:
        time = torch.tensor(step.time)
        assert (value(guide(x, step), time) > value(x, time)).all()
    assert all(torch.equal(guide(x, step), x) for step in policy.steps[4:])


def test_gradients_are_found_where_they_are_switched_off() -> None:
    policy = planner(Diffuser)
    x = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    step = 1e-2 * torch.eye(2)[0]
    up, down = (policy.value(x + sign * step, torch.tensor(3)).sum() for sign in (1, -1))
    with torch.inference_mode():
        found = gradient(policy.value, x * 1, 3)
    assert found[..., 0].sum().item() == pytest.approx(((up - down) / 2e-2).item(), rel=1e-2)


@pytest.mark.parametrize("kind", [Diffuser, DecisionDiffuser])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver++"])
def test_the_present_state_begins_every_plan(kind: type[Algorithm], sampler: str) -> None:
    policy = planner(kind, sampler=sampler)
    assert isinstance(policy, Planner)
    planned = policy.planned(OBSERVATIONS)
    assert torch.allclose(planned.states[:, :, 0], OBSERVATIONS.unsqueeze(1).expand(-1, planned.states.shape[1], -1), atol=1e-6)
    assert planned.stages.shape == (3, 7, 4, 1) and planned.scores.shape == planned.states.shape[:2]
    best = planned.scores.argmax(1)
    assert torch.equal(planned.stages[:, -1], planned.states[torch.arange(3), best])


def test_a_goal_that_the_observation_tells_ends_every_plan() -> None:
    spec = Spec(Box((3,)), SPEC.action)
    observations = torch.tensor([[0.1, 0.2, 0.9], [-0.5, 0.3, -0.6]])
    states = planner(Diffuser, spec, goal=((0, 2),)).planned(observations).states
    assert torch.allclose(states[:, :, -1, 0], observations[:, 2:].expand(-1, states.shape[1]), atol=1e-6)
    with pytest.raises(ConfigError, match="dimension 3"):
        planner(Diffuser, spec, goal=((0, 3),))
    with pytest.raises(ConfigError, match="observation vectors"):
        planner(Diffuser, Spec(Discrete(4), SPEC.action), goal=((0, 3),))


def test_guidance_zero_is_unconditional_and_one_conditional() -> None:
    policy = planner(DecisionDiffuser)
    diffusion = policy.plans.model.diffusion
    x, times = torch.randn(3, 4, 1, generator=torch.Generator().manual_seed(2)), torch.tensor(4)
    values, told = asked_of(policy.config, torch.full((3,), 0.9))
    untold = diffusion(x, times, torch.zeros(3, 1), torch.zeros(3, 1))
    conditional = diffusion(x, times, torch.full((3, 1), 0.9), torch.ones(3, 1))
    assert not torch.allclose(untold, conditional, atol=1e-5)
    assert torch.equal(guided(diffusion, x, times, values, told, 0.0), untold)
    assert torch.allclose(guided(diffusion, x, times, values, told, 1.0), conditional, atol=1e-6)
    unguided = planner(DecisionDiffuser, guidance=0.0)
    other = planner(DecisionDiffuser, guidance=0.0, target=0.1)
    assert torch.equal(unguided(OBSERVATIONS), other(OBSERVATIONS)), "nothing is asked for"


def test_conditions_combine_as_a_sum_of_what_each_alone_changes() -> None:
    spec = Spec(Box((2,)), SPEC.action)
    policy = planner(DecisionDiffuser, spec, constraints=((0, 0.0, 1.0), (1, 0.0, 1.0), (0, 5.0, 6.0)), asked=(1, -1, 0))
    diffusion = policy.plans.model.diffusion
    x, times = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(2)), torch.tensor(4)
    values, told = asked_of(policy.config, torch.tensor([0.9, 0.4]))
    assert told.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]

    def alone(number: int, value: Tensor) -> Tensor:
        which = torch.zeros(2, 4)
        which[:, number] = 1
        said: Tensor = diffusion(x, times, value.unsqueeze(1) * which, which)
        return said

    nothing = diffusion(x, times, torch.zeros(2, 4), torch.zeros(2, 4))
    parts = [alone(0, torch.tensor([0.9, 0.4])), alone(1, torch.ones(2)), alone(2, -torch.ones(2))]
    expected = nothing + 1.5 * sum(part - nothing for part in parts)
    assert torch.allclose(guided(diffusion, x, times, values, told, 1.5), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [Diffuser, DecisionDiffuser])
def test_a_warm_start_takes_the_last_steps_alone_and_a_plan_is_followed_until_it_is_renewed(kind: type[Algorithm]) -> None:
    policy = planner(kind, warm_start_steps=2, replan_every=3)
    network = policy.denoiser.diffusion if kind is Diffuser else policy.plans.model.diffusion
    passes: list[int] = []
    network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    memory, counts, kept = policy.memory(3), [], []
    for step in range(5):
        if step == 4:  # one environment begins an episode
            memory["ages"][0] = -1
        passes.clear()
        _, memory = policy.step(OBSERVATIONS, torch.zeros(3), memory)
        counts.append(len(passes))
        kept.append(memory["plans"].clone())
    assert counts == [6, 0, 0, 2, 6]
    assert torch.equal(kept[0], kept[2]) and not torch.equal(kept[2], kept[3])
    assert torch.equal(kept[3][1:], kept[4][1:]) and torch.allclose(kept[4][0], kept[0][0], atol=1e-3)


def test_diffuser_does_the_plans_actions_and_decision_diffuser_what_leads_on() -> None:
    policy = planner(Diffuser, replan_every=2, candidates=2)
    actions, memory = policy.step(OBSERVATIONS, torch.zeros(3), policy.memory(3))
    assert torch.equal(actions, memory["plans"][:, 0, 1:].clamp(-1, 1))
    actions, memory = policy.step(OBSERVATIONS, torch.zeros(3), memory)
    assert torch.equal(actions, memory["plans"][:, 1, 1:].clamp(-1, 1))
    policy = planner(DecisionDiffuser, replan_every=2)
    _, memory = policy.step(OBSERVATIONS, torch.zeros(3), policy.memory(3))
    moved = OBSERVATIONS + 0.1
    actions, memory = policy.step(moved, torch.zeros(3), memory)
    assert torch.equal(actions, policy.inverse(moved, memory["plans"][:, 2]).clamp(-1, 1)), "from where it is, to the plan's next state"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"return_condition": False}, "guidance 0"),
        ({"constraints": ((0, 1.0, 0.0),)}, "low <= high"),
        ({"constraints": ((1, 0.0, 1.0),)}, "from 0 to 0"),
        ({"constraints": ((0, 0.0, 1.0),), "asked": ()}, "each needs one"),
        ({"constrained": "finally"}, "without constraints"),
        ({"asked_skills": (1,)}, "there are 0 skills"),
        ({"skill_column": "infos/gait"}, "without skills"),
        ({"heads": 4}, "no effect"),
        ({"network": "dit"}, "no effect"),
    ],
)
def test_conditions_that_cannot_be_told_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        planner(DecisionDiffuser, **settings)


def test_a_guide_that_no_step_follows_is_refused() -> None:
    with pytest.raises(ConfigError, match="unguided_steps is 3 and sampling begins 3 steps before its end.*at most 2, or guide_scale 0"):
        planner(Diffuser, diffusion_steps=3, unguided_steps=3)
    planner(Diffuser, diffusion_steps=3, unguided_steps=2)
    planner(Diffuser, diffusion_steps=3, unguided_steps=3, guide_scale=0.0)


def test_a_goal_that_names_a_dimension_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        planner(Diffuser, Spec(Box((2,)), SPEC.action), goal=((0, 1), (0, 0)))


def steps_of(horizon: int, terminal: float) -> WindowBatch:
    """What is measured of a log: its states one by one, of an episode with so many."""
    alone = [log([[0.5]], [1.0], [terminal], [0.0])._replace(timesteps=torch.tensor([[t]])) for t in range(horizon)]
    return WindowBatch(*(None if part[0] is None else torch.cat(part) for part in zip(*alone, strict=True)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(Diffuser, {"goal": ((0, 0),)}), (DecisionDiffuser, {"constraints": ((0, 0.0, 1.0),), "constrained": "finally"})],
)
def test_where_no_plans_end_is_known_nothing_is_asked_of_it(kind: type[Algorithm], settings: dict[str, Any]) -> None:
    config = {Diffuser: DiffuserConfig, DecisionDiffuser: DecisionDiffuserConfig}[kind](horizon=4, **SMALL, **settings)  # type: ignore[index]
    algorithm = build(kind, config, SPEC, 0)
    with pytest.raises(ConfigError, match="horizon is 4, the longest episode has 3 states.*at most 3"):
        algorithm.measure(steps_of(3, 0.0))
    algorithm.measure(steps_of(3, 1.0))  # nothing more happens where a task has ended
    algorithm.measure(steps_of(4, 0.0))


def test_a_constraint_that_no_state_meets_is_refused() -> None:
    algorithm = build(DecisionDiffuser, DecisionDiffuserConfig(horizon=4, constraints=((0, 5.0, 6.0),), **SMALL), SPEC, 0)
    with pytest.raises(ConfigError, match=r"\(0, 5.0, 6.0\) is met by no state of the log, where dimension 0 is 0.5 to 0.5"):
        algorithm.measure(steps_of(4, 0.0))


def test_the_share_of_constraints_met_is_of_those_that_are_known() -> None:
    config = DecisionDiffuserConfig(horizon=4, constraints=((0, 0.0, 1.0),), constrained="finally", **SMALL)
    algorithm = build(DecisionDiffuser, config, SPEC, 0)
    met = log([[0.5], [0.5], [0.5], [0.5]], [1, 1, 1, 0], [0, 0, 0, 0], [0.0] * 4)  # the other window is cut by the clock
    both = WindowBatch(*(None if a is None else torch.cat([a, b]) for a, b in zip(met, CLOCK, strict=True)))  # type: ignore[arg-type]
    noise = {"noise": torch.zeros(2, 4, 1), "time": torch.full((2,), 0.5), "told": torch.zeros(2, 2)}
    _, metrics = algorithm.losses(both, noise, frozenset(["plans"]))
    assert metrics["constraints_met"].item() == 1.0


@pytest.mark.parametrize("target", [0.8, -0.5, 0.0])
def test_the_plan_that_is_followed_is_the_best_of_those_shown(target: float) -> None:
    shown = planner(DecisionDiffuser, target=target).planned(OBSERVATIONS)
    assert shown.scores.argmax(1).tolist() == [7 if target else 0] * 3 and shown.scores[:, -1].tolist() == pytest.approx([target] * 3)
    assert torch.equal(shown.states[:, -1], shown.stages[:, -1])
    unasked = planner(DecisionDiffuser, return_condition=False, constraints=((0, 0.0, 1.0),))
    assert unasked.score.startswith("nothing") and unasked.planned(OBSERVATIONS).scores.tolist() == [[0.0]] * 3


def test_the_transformer_plans_too() -> None:
    config = DecisionDiffuserConfig(horizon=5, network="dit", width=8, depth=1, heads=2, diffusion_steps=4)
    policy = build(DecisionDiffuser, config, SPEC, 0).policy()
    assert policy(OBSERVATIONS).shape == (3, 1)
