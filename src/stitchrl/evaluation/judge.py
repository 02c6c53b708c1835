"""What a policy is worth: rolled out in its environment, exactly where the task's model is known, and what its learner believes of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from stitchrl.agent import Agent
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import is_with_goal, with_goal
from stitchrl.core.settings import Count, Fraction, Natural
from stitchrl.core.spec import Box, Discrete, Space, Spec, bounds_of, words_of
from stitchrl.data.dataset import Dataset
from stitchrl.data.frame_stacks import rows_of_column
from stitchrl.data.transforms import apply, return_scale, rounding, undo, words_of_bounds
from stitchrl.evaluation.playing import check_epsilon, play
from stitchrl.evaluation.references import Reference, reference_for
from stitchrl.training import seeds
from stitchrl.training.learner import Learner


@final
@dataclass(frozen=True)
class Evaluation:
    """When and how policies are judged while they learn."""

    every: Natural = 0
    """steps between evaluations; 0: only at the end"""
    episodes: Count = 10
    """for each seed"""
    sampled: bool = False
    """draw actions from the policy instead of taking its mode or mean; plans, diffusion, flows and BCQ are always drawn anew, as in their papers"""
    epsilon: Fraction | None = None
    """share of integer actions that are taken uniformly at random instead (DQN: 0.05), so that none waits for ever where nothing moves"""
    parallel: Count = 10
    """environments at a time for each seed"""
    processes: Count | None = None
    """that step them; None: chosen by the cost of a step"""
    seed: Natural = 10_000
    """of the evaluation's episodes"""


@final
class Judge:
    """Judges the policies of one run, always on the same episodes."""

    def __init__(
        self,
        settings: Evaluation,
        dataset: Dataset,
        environment: str | None,
        options: Mapping[str, Any],
        algorithm_settings: Any,
        seed_numbers: Sequence[int],
        *,
        to_goals: bool = False,
        own_rewards: bool = True,
    ) -> None:
        check_epsilon(settings.epsilon, dataset.spec)
        self.settings, self.environment, self.options = settings, environment, dict(options)
        self.has_discount = hasattr(algorithm_settings, "discount")
        self.discount = float(getattr(algorithm_settings, "discount", 1.0))
        self.starts = rows_of_column(dataset.observations, dataset.offsets[:-1][:2_000])  # stacked frames are read when they are asked for
        self.to_goals, self.in_tasks_units = to_goals, own_rewards and not to_goals
        self.reference: Reference | None = None
        self.mdp: Any = None
        self.task: Spec | None = None
        self.seeds = list(seed_numbers)
        if environment is not None:
            from stitchrl.environments.make import make, mdp_of, spec_of

            with closing(make(environment, **self.options)) as opened:  # fails now, not after training, if it cannot be had
                self.task, self.mdp = spec_of(opened), mdp_of(opened)
            apart = () if to_goals else _goals_apart(dataset, self.task.observation)
            check_fits(with_goal(dataset.spec) if to_goals else dataset.spec, self.task, environment, to_goals=to_goals, apart=apart)
            self.reference = reference_for(environment, dataset.metadata, self.options)

    def judge(
        self, agent: Agent, learner: Learner | None, step: int, seconds: float, should_stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Returns the line for evaluations.jsonl, or None without an environment or when stopped before an episode ended."""
        if self.environment is None:
            return None
        s = self.settings
        result = play(
            agent,
            self.environment,
            sampled=s.sampled,
            epsilon=s.epsilon,
            episodes=s.episodes,
            seed=s.seed,
            discount=self.discount,
            parallel=s.parallel,
            processes=s.processes,
            environment_options=self.options,
            should_stop=should_stop,
        )
        if not result.complete:
            return None
        # what is believed of goals drawn by hindsight, -1 a step, or of changed rewards is not in the task's units, nor of who acts at random
        comparable = self.in_tasks_units and not s.epsilon
        believed = self.believed(learner, agent) if learner is not None and comparable else None
        exact = self.exact(agent)
        return result.record(
            step=step, seconds=seconds, environment=self.environment, reference=self.reference, exact_value=exact, believed_value=believed
        )

    def exact(self, agent: Agent) -> list[float] | None:
        """Returns the exact value of each seed's policy from the task's starts, where the task's model is known; it acts as it is rolled out.

        None elsewhere, and for a policy with a memory.
        """
        if self.mdp is None or agent.remembers:  # what a policy with a memory does is no function of the state
            return None
        from stitchrl.environments.tasks.tabular import policy_value

        table = agent.action_probabilities(np.arange(self.mdp.states), sampled=self.settings.sampled).astype(np.float64)
        epsilon = self.settings.epsilon or 0.0
        table = (1 - epsilon) * table + epsilon / table.shape[-1]
        # by the discount of the algorithm, so that belief and truth are of the same thing; by the task's for one that has none
        discount = self.discount if self.has_discount else self.mdp.discount
        return [policy_value(self.mdp, p / p.sum(-1, keepdims=True), discount=discount) for p in table]

    def believed(self, learner: Learner, agent: Agent) -> list[float] | None:
        """Returns the mean value that each seed's learner believes its policy has where episodes start, in the log's units of reward.

        None where the algorithm has no value of its policy, or where rewards were shifted, which leaves no way back.
        """
        if (scale := return_scale(agent.transforms)) is None:
            return None
        starts = torch.as_tensor(apply(agent.transforms, "observations", np.asarray(self.starts)), device=learner.device)
        if starts.is_floating_point():
            starts = starts.to(next(iter(learner.update.parameters.values())).dtype)
        found = []
        for i in range(len(learner.seeds)):
            value = seeds.believed_value(learner.template, learner.parameters_of(i), starts)
            if value is None:
                return None
            found.append(value / scale)
        return found


def _goals_apart(dataset: Dataset, seen: Space) -> tuple[str, ...]:
    """Returns the entries of a Minari log's observations that side by side are what a task shows, where the log keeps the goals apart.

    AntMaze shows where the ant is before that: `achieved_goal`, as large as a goal.
    """
    own, goals = dataset.spec.observation, dataset.columns.get("goals")
    if goals is None or isinstance(own, Discrete) or isinstance(seen, Discrete):
        return ()
    entries = (*dataset.metadata.get("observation_keys", ()), *dataset.metadata.get("goal_keys", ()))
    wider: dict[tuple[int, ...], tuple[str, ...]] = {
        (own.size + goals[0].size,): entries,
        (own.size + 2 * goals[0].size,): ("achieved_goal", *entries),
    }
    return wider.get(seen.shape, ())


def check_fits(policy: Spec, task: Spec, environment: str, *, to_goals: bool = False, apart: Sequence[str] = ()) -> None:
    """Raises ConfigError where policies of one spec cannot act in an environment of another.

    apart: the entries of the log's observations that together are the task's.
    """
    for name, own, there in (("observations", policy.observation, task.observation), ("actions", policy.action, task.action)):
        same_kind = isinstance(own, Discrete) == isinstance(there, Discrete)
        if isinstance(own, Discrete) and isinstance(there, Discrete):
            # a log may not hold every action, but a policy must know every state
            fits = own.n <= there.n if name == "actions" else own.n >= there.n
        else:
            fits = same_kind and own.shape == there.shape  # type: ignore[union-attr]
        if not fits:
            goal = ", which reads a goal beside what it sees" if name == "observations" and (to_goals or is_with_goal(own, there)) else ""
            todo = "name the task of the data (--env), or train offline (--env none)"
            if name == "observations" and apart:
                todo = (
                    "the log's goals stand apart from what is seen; put them beside it, as the environment does: "
                    f"stitchrl data convert LOG --observation-keys {' '.join(apart)} --to WIDE, and learn from that"
                )
            elif name == "observations" and is_with_goal(there, own):
                todo = f"where a goal is told beside what is seen, learn to reach it (--goals.hindsight; recipes gcbc, gciql); else {todo}"
            raise ConfigError(f"{environment} has {name} {words_of(there)} and the policy {words_of(own)}{goal}; {todo}")


def check_task(agent: Agent, environment: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError where policies cannot act in an environment or may leave its bounds, or it cannot be had; warns as `check_policy` does."""
    from stitchrl.environments.make import make, spec_of

    with closing(make(environment, **options)) as opened:
        task = spec_of(opened)
    check_policy(agent, task, environment)


def check_policy(agent: Agent, task: Spec, environment: str) -> None:
    """Raises ConfigError where policies cannot act in an environment of these spaces or may leave its bounds.

    Warns where the policies never use some of the actions within its bounds.
    """
    check_fits(agent.spec, task, environment)
    space = task.action
    if isinstance(space, Discrete) or not space.bounded:
        return
    low, high = bounds_of(space)
    least, most = (undo(agent.transforms, "actions", np.full((1, *space.shape), end, np.float32))[0] for end in (-1, 1))
    slack = rounding(low, high)
    own = Box(space.shape, tuple(least.reshape(-1).tolist()), tuple(most.reshape(-1).tolist()))
    differ = f"{environment} takes actions from {words_of_bounds(space)}, and the policy's go from {words_of_bounds(own)}, those of its log"
    if np.any(least < low - slack) or np.any(most > high + slack):
        todo = f"train it with the environment (--env {environment}), whose bounds then hold"
        raise ConfigError(f"{differ}: it could act as the task does not allow; {todo}")
    if np.any(least > low + slack) or np.any(most < high - slack):
        todo = f"where the log's file stated no bounds, train it with the environment (--env {environment})"
        warnings.warn(f"{differ}: it never uses the rest; {todo}", stacklevel=4)
