"""Every algorithm that exists, on a made-up log: what the contract tests and the golden losses run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from stitchrl import algorithms
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.batch import BatchKind, Transitions
from stitchrl.core.goals import GoalDrawing, Goals, with_goal, without_goal
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import Windows
from stitchrl.data.dataset import Dataset
from stitchrl.data.goal_rows import GoalRows
from stitchrl.data.sampling import DeviceRows, Rows
from stitchrl.data.window_rows import WindowRows, window_rows_of
from stitchrl.training.learner import Learner, Training, measure

SPECS = {
    "box": Spec(Box((5,)), Box((2,), (-1.0,), (1.0,))),
    "discrete": Spec(Box((5,)), Discrete(4)),
}
# Settings whose losses differ from the defaults'; an algorithm that is not named here is run with its defaults alone.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "awac/box": [{"weights": "clipped"}],
    "bc/box": [{"distribution": "gaussian"}, {"distribution": "clipped"}],
    "bcq/box": [{"target_every": 2, "minimum_weight": 1.0}],
    "bcq/discrete": [{"threshold": 0.0, "target_rate": 1.0, "target_every": 3}],
    "cal_ql/box": [{"lagrange_gap": 1.0, "max_target_backup": False, "entropy_backup": True}, {"calibrated": False}],
    "cql/box": [{"lagrange_gap": 1.0, "entropy_backup": True}, {"max_target_backup": True}],
    "cql/discrete": [{"lagrange_gap": 1.0}],
    "decision_diffuser/box": [
        {"constraints": ((0, -1.0, 1.0), (3, 0.0, 2.0)), "asked": (1, -1), "sampler": "dpm_solver++", "sampling_steps": 3},
        {"return_condition": False, "constraints": ((1, -0.5, 9.0),), "constrained": "finally", "condition_dropout": 0.5, "guidance": 0.0},
    ],
    "decision_transformer/box": [{"dropout": 0.0, "activation": "gelu", "target_return": 3.0}],
    "diffuser/box": [{"prediction": "epsilon", "schedule": "linear", "sampler": "ddim", "goal": ((0, 3),)}],
    "diffusion_policy/box": [
        {"prediction": "sample", "sampler": "dpm_solver++", "sampling_steps": 2, "observed": 1, "multipliers": (1, 2), "acted": 4},
        {"network": "dit", "multipliers": (1, 2, 4), "depth": 1, "heads": 2},
    ],
    "diffusion_ql/box": [{"max_target_backup": True, "backup_actions": 3, "sampler": "ddim"}, {"value_weight": 0.0, "clip_norm": 1.0}],
    "edac/box": [{"diversity": 0.0, "ensemble": 4}],
    "fql/box": [{"normalize_value": True, "target_value": "minimum"}, {"critic_layer_norm": False, "actor_layer_norm": True}],
    "idql/box": [{"value_loss": "exponential", "acting": "weighted", "dropout": 0.0}, {"value_loss": "quantile", "critic_every": 1}],
    "iql/box": [{"distribution": "deterministic"}, {"actor_loss": "ddpg_bc", "layer_norm": True}],
    "q_learning/discrete": [{"double": False, "ensemble": 2, "target_every": 3, "target_rate": 1.0}],
    "rebrac/box": [{"normalize_values": False, "layer_norm": False}],
    "sac/box": [{"entropy_backup": False}],
    "trajectory_transformer/box": [
        {"planning": "likelihood", "goal": ((0, 3), (1, 4)), "dropout": 0.0, "prefix_context": False, "discretization": "uniform"}
    ],
    "trajectory_transformer/discrete": [{"drawn": "likeliest", "replan_every": 2}],
}
# Settings of one algorithm that make it quick to train.
QUICK: dict[str, dict[str, Any]] = {
    "diffusion_policy": {"horizon": 6, "acted": 3, "diffusion_steps": 4, "width": 16, "multipliers": (1,), "warmup_steps": 5},
    "idql": {"width": 16, "blocks": 2},
    "decision_transformer": {
        "context": 5, "width": 16, "layers": 2, "heads": 2, "longest_episode": 25, "return_scale": 5.0, "warmup_steps": 10,
        "learning_rate": 1e-3,
    },  # fmt: skip
    "decision_diffuser": {"horizon": 6, "diffusion_steps": 4, "width": 16, "multipliers": (1,), "target_every": 2, "hidden": ()},
    "diffuser": {"horizon": 6, "diffusion_steps": 4, "width": 16, "multipliers": (1,), "candidates": 2, "target_every": 2},
    "trajectory_transformer": {
        "bins": 4, "sequence": 3, "context": 2, "width": 8, "layers": 1, "heads": 2, "beam_width": 3, "horizon": 2, "dropped_mass": 0.0,
        "warmup_steps": 5,
    },
}  # fmt: skip


@final
@dataclass(frozen=True)
class Case:
    """An algorithm with the kind of actions and the settings it is run with."""

    name: str
    actions: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, self.actions, *(f"{k}={v}" for k, v in self.settings.items())])

    @property
    def algorithm(self) -> type[Algorithm]:
        return algorithms.find(self.name)[0]  # type: ignore[no-any-return]

    @property
    def spec(self) -> Spec:
        return with_goal(SPECS[self.actions]) if isinstance(self.algorithm.batch, Goals) else SPECS[self.actions]

    @property
    def kind(self) -> BatchKind:
        """What it eats with these settings."""
        return self.algorithm.batch_of(self.config())

    @property
    def width(self) -> int:
        """The numbers that its policy sees at once."""
        return self.spec.observation.size  # type: ignore[union-attr]

    def config(self, **changes: Any) -> Any:
        """Returns the algorithm's config with networks that are quick to train."""
        kind = algorithms.find(self.name)[1]
        known = {f.name for f in dataclasses.fields(kind)}
        quick = (
            {"sampled_actions": 4, "acting_candidates": 8, "autoencoder_hidden": (16, 16), "flow_steps": 3} if self.actions == "box" else {}
        )
        quick |= {"latent": 16, "components": 4, "hidden": (16, 16)} | QUICK.get(self.name, {})
        small = {name: value for name, value in quick.items() if name in known}
        return kind(**{**small, **self.settings, **changes})

    def build(self, seed: int = 0) -> Algorithm:
        built = build(self.algorithm, self.config(), self.spec, seed)
        if isinstance(kind := self.kind, Windows):
            measure([built], window_rows(self.spec, kind))
        return built

    def learner(self, seeds: Sequence[int] = (0,), table: Tensor | None = None, **training: Any) -> Learner:
        settings = Training(**{"steps": 200, "batch_size": 16, "compile": "off", **training})
        rows: Rows
        if isinstance(self.algorithm.batch, Goals):
            rows = goal_rows(self.spec, self.algorithm.batch)
        elif isinstance(kind := self.kind, Windows):
            rows = window_rows(self.spec, kind)
        else:
            rows = DeviceRows(rows_of(self.spec, kind=kind) if table is None else table)
        return Learner(self.algorithm, self.config(), self.spec, rows, seeds, settings, torch.device("cpu"))

    def rows(self, size: int) -> Tensor:
        """Returns packed rows of one batch, `[size, width]` or, of states with goals or in windows, `[size, R, width]`."""
        if isinstance(kind := self.kind, Windows):
            windows = window_rows(self.spec, kind)
            table, index = windows.gather(windows.draw(0, (1, size), torch.Generator().manual_seed(1)))
            assert isinstance(table, Tensor)
            return table[index][0]
        if not isinstance(self.algorithm.batch, Goals):
            return rows_of(self.spec, size, kind=self.algorithm.batch)
        made = goal_rows(self.spec, self.algorithm.batch)
        table, index = made.gather(made.draw(0, (1, size), torch.Generator().manual_seed(1)))
        return table[index][0]


def cases(variants: bool = True) -> list[Case]:
    """Returns each algorithm with each kind of actions that it takes."""
    found = []
    for name in algorithms.names():
        takes = algorithms.find(name)[0].action_space
        for actions in SPECS:
            if takes in ("any", actions):
                found += [Case(name, actions), *(Case(name, actions, v) for v in VARIANTS.get(f"{name}/{actions}", []) if variants)]
    return found


def rows_of(spec: Spec, size: int = 300, seed: int = 1, kind: BatchKind | None = None) -> Tensor:
    """Returns packed rows `[N, width]` of a made-up log of transitions: numpy's generator, so that all machines have the same.

    What the kind has beyond single steps is drawn after them: their numbers are the same for all kinds.
    """
    rng = np.random.default_rng(seed)

    def column(space: Box | Discrete, actions: bool) -> np.ndarray:
        if isinstance(space, Discrete):
            return rng.integers(space.n, size=(size, 1))
        return np.tanh(rng.standard_normal((size, space.size))) if actions else rng.standard_normal((size, space.size))

    s, a, s_next = column(spec.observation, False), column(spec.action, True), column(spec.observation, False)
    r, terminal = rng.standard_normal((size, 1)), rng.random((size, 1)) < 0.1
    found = {"observations": s, "actions": a, "rewards": r, "terminals": terminal, "next_observations": s_next}
    names = found if kind is None else kind.columns(spec)
    if "next_actions" in names:
        found["next_actions"] = column(spec.action, True)
    if "returns_to_go" in names:
        found["returns_to_go"] = rng.standard_normal((size, 1))
    return torch.from_numpy(np.concatenate([found[name] for name in names], axis=1).astype(np.float32))


def goal_rows(spec: Spec, kind: BatchKind) -> GoalRows:
    """Returns the made-up log of 300 states as ten episodes of 29 steps, with goals; `spec` is of observation and goal."""
    states = rows_of(without_goal(spec), kind=Goals())
    return GoalRows(DeviceRows(states), np.arange(0, 291, 29), kind, GoalDrawing(hindsight=True, subgoal_steps=5), 0.9, torch.device("cpu"))


def window_rows(spec: Spec, kind: Windows) -> WindowRows:
    """Returns the made-up log of 300 steps as twelve episodes of 25, in windows; every other one ends the task."""
    parts = dict(zip(Transitions.columns(spec), rows_of(spec).split(list(Transitions.columns(spec).values()), -1), strict=True))
    ends = np.arange(300) % 25 == 24
    terminals = ends & (np.arange(300) % 50 == 49)
    columns = {name: parts[name].numpy() for name in ("observations", "actions", "rewards")}
    columns["rewards"] = columns["rewards"][:, 0]
    if isinstance(spec.action, Discrete):
        columns["actions"] = columns["actions"][:, 0].astype(np.int64)
    columns |= {"terminals": terminals, "timeouts": ends & ~terminals}
    final = parts["next_observations"].numpy()[ends]
    dataset = Dataset(spec, columns, np.arange(0, 301, 25), final, {"name": "made-up"})
    return window_rows_of(dataset, kind, [], torch.device("cpu"), 1 << 30)


def advance(learner: Learner, steps: int) -> Learner:
    """Returns the learner after `steps` more steps, none of which diverged."""
    for _ in range(steps):
        learner.advance()
    learner.check()
    return learner


def weights(learner: Learner) -> dict[str, Tensor]:
    """Returns a copy of all that learning changes."""
    return {name: tensor.detach().clone() for name, tensor in learner.update.tensors().items()}
