"""The continuation of a run online: the learner it had, on batches of its log and of the steps that its own policies now take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from stitchrl.agent import Agent
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Count, Fraction, NonNegative, Share, refuse_changed
from stitchrl.core.spec import Discrete
from stitchrl.fine_tuning.gathering import Gathering
from stitchrl.nn.mlp import Scalar
from stitchrl.training.blocks import BLOCK_STEPS
from stitchrl.training.learner import Learner, Training


@final
@dataclass(frozen=True)
class OnlinePhase:
    """How a run learns from an environment. Steps are each seed's own."""

    mixing: Share | None = None
    """share of each batch from the log, the rest from the replay; 0: the replay alone; None: 0.5, symmetric sampling (Cal-QL, RLPD)"""
    pour: bool = False
    """instead of a share, draw from log and replay taken together, as though the log had been poured into the replay (IQL, AWAC)"""
    warm_start: Count = 5_000
    """steps that the policy takes before the first update (WSRL, arXiv:2412.07762)"""
    steps_per_round: Count = 1
    """environment steps between two rounds of updates"""
    updates_per_round: Count = 1
    """updates of a round; by steps_per_round: the update-to-data ratio"""
    capacity: Count = 1_000_000
    """steps that a seed's replay holds; then it overwrites its oldest. The log stays whole"""
    optimizer: Literal["keep", "reset"] = "keep"
    """moments of the optimizers: those of the offline phase, as IQL's and Cal-QL's code, or none"""
    schedule: Literal["constant", "restart"] = "constant"
    """learning rates that fall: constant at their first value, as IQL's code fine-tunes, or over the online updates anew (with optimizer reset)"""
    exploration_noise: NonNegative = 0.1
    """of deterministic policies: standard deviation of Gaussian noise on real-valued actions, in half action ranges (TD3's); others are sampled"""
    epsilon: Fraction = 0.05
    """of deterministic policies: share of uniformly random integer actions"""

    def rows_from_log(self, batch_size: int) -> int | None:
        """Returns the rows of each batch that are the log's; None where they are drawn from log and replay together."""
        return None if self.pour else round((0.5 if self.mixing is None else self.mixing) * batch_size)

    def updates(self, step: int) -> int:
        """Returns the updates that are done after this many environment steps."""
        return 0 if step < self.warm_start else self.updates_per_round * (1 + (step - self.warm_start) // self.steps_per_round)

    def check(self, training: Training) -> None:
        """Raises ConfigError for settings that contradict each other."""
        if self.pour and self.mixing is not None:
            raise ConfigError(f"mixing is {self.mixing:g} and pour is on: a poured log has no share of its own; give one of them")
        if self.schedule == "restart" and self.optimizer == "keep":
            raise ConfigError(
                "schedule is restart and optimizer keep: a schedule counts the optimizer's updates; give --optimizer reset too"
            )
        if training.steps < self.warm_start:
            raise ConfigError(
                f"steps is {training.steps:,} and warm_start {self.warm_start:,}: nothing would be learned; take more steps or a shorter warm start"
            )
        rows = self.rows_from_log(training.batch_size)
        if rows is not None and self.mixing != 0 and not 0 < rows < training.batch_size:
            raise ConfigError(
                f"mixing is {self.mixing or 0.5:g} of a batch of {training.batch_size}: {rows} of its rows are the log's; both parts need one"
            )


@final
class Continuation:
    """A learner that goes on: each step is one of every seed's environment, with the updates that are due after it."""

    def __init__(self, learner: Learner, gathering: Gathering, online: OnlinePhase, training: Training) -> None:
        self.learner, self.gathering, self.online, self.training = learner, gathering, online, training
        self.step = 0

    def advance(self) -> None:
        """Takes one environment step of every seed, then a round of updates if it is due."""
        self.gathering.step()
        self.step += 1
        while self.learner.step < self.online.updates(self.step):
            if not self.learner.step:
                self._refuse_empty()
            self.learner.advance()

    def _refuse_empty(self) -> None:
        if not all(replay.size for replay in self.gathering.replays):
            raise ConfigError(
                f"{self.gathering.name}: no episode ended in the warm start of {self.step:,} steps, and this algorithm learns from whole episodes; "
                "give a --warm-start longer than an episode, and --overwrite"
            )

    def check(self) -> None:
        """Raises DivergenceError if a loss or gradient was not finite."""
        self.learner.check()

    def read_metrics(self) -> dict[str, list[float]]:
        """Returns means since the last call: losses and metrics of the algorithm, if any updates were due, and of the episodes that ended."""
        return (
            self.learner.read_metrics() | self.gathering.read() | {"online/updates": [float(self.learner.step)] * len(self.learner.seeds)}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Returns everything that a step changes or reads, by name."""
        return self.learner.tensors() | self.gathering.tensors() | {"online/updates": torch.tensor(self.learner.step)}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Goes on from saved tensors; raises CheckpointError where as many updates would have been done by now as were not."""
        done, due = int(tensors["online/updates"]), self.online.updates(step)
        if done != due:
            raise CheckpointError(
                f"{self.gathering.name}: {done:,} updates were done by step {step:,}, and by these settings it is {due:,}; keep --warm-start, "
                "--updates-per-round and --steps-per-round as they were"
            )
        self.gathering.restore(tensors)  # first: the learner draws its present block again, of rows that must be there
        self.learner.restore(tensors, done)
        self.step = step


def block_steps(online: OnlinePhase) -> int:
    """Returns the updates drawn at a time: as many as divide a round, so that each round is drawn from all rows there are."""
    return max(n for n in range(1, BLOCK_STEPS + 1) if online.updates_per_round % n == 0)


def carry_over(learner: Learner, tensors: Mapping[str, Tensor], online: OnlinePhase, where: str) -> None:
    """Gives the learner a checkpoint's weights and, if they are kept, its optimizers' moments; raises ConfigError where they do not fit."""
    groups = ("parameters/", "first_moments/", "second_moments/", "counts/")[: None if online.optimizer == "keep" else 1]
    mine = learner.update.tensors()
    # a multiplier or a width of draws that is not used any more leaves the networks what they are
    if left := [
        name for name in tensors if name.startswith("parameters/") and name not in mine and not name.endswith((".value", ".log_std"))
    ]:
        raise ConfigError(
            f"{where}: its checkpoint has '{left[0]}', which the online phase's networks lack; settings that make the networks must stay as they were"
        )
    with torch.no_grad():
        for name, own in mine.items():
            if not name.startswith(groups):
                continue
            found = tensors.get(name)
            if found is None or found.shape != own.shape or found.dtype != own.dtype:
                there = "none" if found is None else f"{list(found.shape)} {found.dtype}"
                raise ConfigError(
                    f"{where}: the online phase needs '{name}' of {list(own.shape)} {own.dtype}, and the checkpoint has {there}; "
                    "settings that make the networks, and --precision, must stay as they were"
                )
            own.copy_(found)


def keep_rates(learner: Learner, online: OnlinePhase, name: str) -> None:
    """Has learning rates that fall stay at their first value, unless they are to fall anew: ConfigError where none of the algorithm's does."""
    optimizers = learner.template.optimizers
    if online.schedule == "restart" and all(adam.schedule == "constant" for adam in optimizers.values()):
        raise ConfigError(f"schedule is restart, and no learning rate of '{name}' falls, so that none begins anew; leave it out")
    if online.schedule == "constant":
        learner.template.optimizers = {name: dataclasses.replace(adam, schedule="constant") for name, adam in optimizers.items()}


def check_exploration(online: OnlinePhase, agent: Agent) -> None:
    """Raises ConfigError for noise of exploration that this policy would not take."""
    if agent.stochastic:
        refuse_changed(online, ("exploration_noise", "epsilon"), f"on '{agent.name}', whose actions are sampled")
    elif isinstance(agent.spec.action, Discrete):
        refuse_changed(online, ("exploration_noise",), "on integer actions, which epsilon is for")
    else:
        refuse_changed(online, ("epsilon",), "on real-valued actions, which exploration_noise is for")


def check_changes(template: Algorithm, settings: Any, online: OnlinePhase, where: str) -> None:
    """Raises ConfigError where the template's settings, other than the run's, would be without effect or read its weights otherwise."""
    changed = [name for name, value in vars(template.config).items() if value != getattr(settings, name)]
    if not changed:
        return
    told = f"{where}: {' and '.join(changed)} would"
    before, now = (build(type(template), config, template.spec, 0) for config in (settings, template.config))
    others = dict(before.named_modules())
    for name, module in now.named_modules():
        other = others.get(name)
        if name and other is not None and (difference := _otherwise(other, module)):
            raise ConfigError(
                f"{told} make another network of '{name}' ({difference}), and its weights are the run's; leave them as they were"
            )
        if isinstance(module, Scalar) and isinstance(other, Scalar) and not torch.equal(module(), other()):
            raise ConfigError(
                f"{told} have '{name}' begin elsewhere, and it goes on from what the run learned: without effect; "
                "give what acts on it instead (lagrange_gap, target_entropy, its learning rate)"
            )
    for name, adam in now.optimizers.items():
        if online.schedule == "constant" and name in before.optimizers and adam.schedule != before.optimizers[name].schedule:
            raise ConfigError(
                f"{told} have the learning rate of '{name}' fall, and online it is constant: without effect; leave them as they were, or give "
                "--schedule restart and --optimizer reset"
            )


def _otherwise(before: torch.nn.Module, now: torch.nn.Module) -> str:
    """Returns how one module computes otherwise than another of its place with the same weights, or nothing: sizes show in the weights."""
    if type(before) is not type(now):  # policies of one kind may act on the same network
        same = isinstance(before, Policy) and isinstance(now, Policy)
        return "" if same else f"{type(now).__name__}, and was {type(before).__name__}"
    ways = {
        name: value
        for name, value in vars(now).items()
        if isinstance(value, str | bool) and not name.startswith("_") and name != "training"
    }
    return ", ".join(f"{name} {value}, and was {vars(before)[name]}" for name, value in ways.items() if vars(before)[name] != value)


def agent_of(learner: Learner, source: Agent) -> Agent:
    """Returns the learner's policies, whose parameters go on changing with it, in the spaces and scales of the run's."""
    return Agent(source.name, learner.template, learner.update.parameters, source.spec, source.transforms, source.seeds, source.categories)


def settings_of(online: OnlinePhase, training: Training) -> dict[str, Any]:
    """Returns what config.json says of the online phase, with the rows that its share of a batch comes to."""
    return dataclasses.asdict(online) | {"rows_from_log": online.rows_from_log(training.batch_size)}
