"""What planners by diffusion share: states and actions as vectors in [-1, 1], where a window's episode ended, and plans that are kept and renewed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Memory
from stitchrl.core.spec import Box, Discrete, Space, Spec, is_image
from stitchrl.core.windows import WindowBatch
from stitchrl.nn.diffusion import Diffusion, draws
from stitchrl.nn.noise_schedules import Chain

Goal = Sequence[tuple[int, int]]  # pairs (d, e): dimension d of a state is to be what dimension e of the observation tells


@final
class Limits(nn.Module):
    """Elements of a space as vectors: each dimension's measured range becomes [-1, 1], an integer a vector of -1 with one 1.

    A dimension that never changes becomes 0.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        if is_image(space):
            raise ConfigError(
                "plans are made of vectors, and the observations are images; choose an algorithm that reads images, such as bc"
            )
        self.discrete = isinstance(space, Discrete)
        self.shape = () if isinstance(space, Discrete) else space.shape
        self.size = space.n if isinstance(space, Discrete) else space.size
        if not self.discrete:
            self.low, self.high = (nn.Parameter(torch.full((self.size,), side), requires_grad=False) for side in (-1.0, 1.0))

    def measure(self, values: Tensor) -> None:
        """Sets the limits to the range of values `[M, *O]`; a space of integers has nothing to measure."""
        if not self.discrete:
            flat = values.reshape(len(values), self.size).to(self.low.dtype)
            self.low.copy_(flat.amin(0))
            self.high.copy_(flat.amax(0))

    def encode(self, values: Tensor, like: Tensor) -> Tensor:
        """Returns `[*batch, D]` of values `[*batch, *O]`, of the type of `like`; those outside the measured range leave [-1, 1]."""
        if self.discrete:
            return 2 * functional.one_hot(values, self.size).to(like.dtype) - 1
        flat = values.flatten(-len(self.shape)) if len(self.shape) > 1 else values
        middle, half = self._scale()
        return (flat.to(like.dtype) - middle) / half

    def decode(self, vectors: Tensor) -> Tensor:
        """Returns values `[*batch, *O]` of vectors `[*batch, D]`; the largest entry's number where discrete."""
        if self.discrete:
            return vectors.argmax(-1)
        middle, half = self._scale()
        values: Tensor = (vectors * half + middle).unflatten(-1, self.shape)
        return values

    def _scale(self) -> tuple[Tensor, Tensor]:
        half = (self.high - self.low) / 2
        return (self.high + self.low) / 2, torch.where(half > 0, half, 1.0)


@final
class Measured(nn.Module):
    """One measured number per window, such as its return: its range and its spread."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.mean = (nn.Parameter(torch.zeros(1), requires_grad=False) for _ in range(2))
        self.high, self.deviation = (nn.Parameter(torch.ones(1), requires_grad=False) for _ in range(2))

    def measure(self, values: Tensor) -> None:
        """Sets the range, mean and standard deviation to those of values `[M]`; a spread of 0 becomes 1."""
        spread = values.std(unbiased=False)
        low, high = values.amin(), values.amax()
        self.low.copy_(low)
        self.high.copy_(torch.where(high > low, high, low + 1))
        self.mean.copy_(values.mean())
        self.deviation.copy_(torch.where(spread > 0, spread, 1.0))

    def standardized(self, values: Tensor) -> Tensor:
        """Returns values of mean 0 and deviation 1 over the log."""
        return (values - self.mean) / self.deviation

    def restored(self, standardized: Tensor) -> Tensor:
        """Returns the values that `standardized` was given."""
        return standardized * self.deviation + self.mean

    def share(self, values: Tensor) -> Tensor:
        """Returns values as shares of the log's range: its lowest 0, its highest 1."""
        return (values - self.low) / (self.high - self.low)


@final
class TrajectoryModel(nn.Module):
    """A diffusion of trajectories with the limits by which its states, and its actions where it has them, become vectors."""

    def __init__(self, diffusion: Diffusion, observation: Space, action: Space | None = None) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.observations = Limits(observation)
        # actions come as vectors, whatever their shape in the task
        self.actions = None if action is None else Limits(Box((action.size,)) if isinstance(action, Box) else action)

    def measure(self, log: WindowBatch) -> None:
        """Sets the limits to the range of the log's states `[M, 1, …]` and of the actions done there."""
        self.observations.measure(log.observations[:, 0])
        if self.actions is not None:
            self.actions.measure(log.actions[:, 0][log.taken[:, 0] > 0])


def held(batch: WindowBatch) -> tuple[Tensor, Tensor]:
    """Returns a window's observations with the last one held past the episode's end, and `[B, T]` which of its states can be learned from.

    Those are the states that were seen and, where the task ended, those held after it: nothing more happens there. Past an end that only the
    clock made nobody knows what follows.
    """
    last = batch.present.sum(1).long() - 1  # [B]
    positions = torch.arange(batch.present.shape[1], device=last.device)
    index = torch.minimum(positions, last.unsqueeze(1))  # [B, T]
    extra = batch.observations.ndim - 2
    index = index.reshape(*index.shape, *(1,) * extra).expand(batch.observations.shape)
    ended = batch.terminals.amax(1, keepdim=True)  # [B, 1]
    return batch.observations.gather(1, index), torch.maximum(batch.present, ended)


def check_ends(log: WindowBatch, horizon: int, what: str) -> None:
    """Raises ConfigError where no window of the log `[M, 1, …]` has a known last state: all episodes are shorter, and cut by the clock."""
    longest = int(log.timesteps.max()) + 1
    if longest < horizon and not bool(log.terminals.any()):
        raise ConfigError(
            f"horizon is {horizon}, the longest episode has {longest} states, and all are cut by the clock: where a plan ends is never known, and "
            f"{what} cannot be learned; use a horizon of at most {longest}"
        )


def remaining(chain: Chain, steps: int) -> Chain:
    """Returns the last `steps` of a chain as a chain of its own, which has no data from a step before."""
    first, *others = chain[-steps:]
    return (first._replace(data=first.data + first.before, before=0.0), *others)


def begun(chain: Chain, noise: Tensor, before: Tensor | None, warm_start_steps: int) -> tuple[Chain, Tensor, Tensor]:
    """Returns the steps to take, where they start, and their noise, of `noise [draws, …]` for the start and each step of a chain.

    before: plans to begin from, with as much noise as the last `warm_start_steps` then take away; None: from noise alone.
    """
    start, later = noise[0], noise[1:]
    if before is None:
        return chain, start, later
    steps = remaining(chain, warm_start_steps)
    return steps, steps[0].signal * before + steps[0].deviation * start, later[len(later) - draws(steps) :]


def wanted(goal: Goal, observations: Tensor) -> Tensor:
    """Returns states `[N, O]` with what observations `[N, O]` tell of their goals: dimension d is the observation's dimension e, for each (d, e)."""
    state = observations.clone()
    for d, e in goal:
        state[:, d] = observations[:, e]
    return state


def check_goal(goal: Goal, spec: Spec) -> None:
    """Raises ConfigError where the goal names dimensions that an observation does not have."""
    if not goal:
        return
    seen = spec.observation
    if isinstance(seen, Discrete) or len(seen.shape) != 1:
        raise ConfigError(f"goal is {goal}; goals are told by dimensions of observation vectors, and these data have {seen}. Leave it out")
    if len({d for d, _ in goal}) < len(goal):
        raise ConfigError(f"goal is {goal}: a dimension of the plan's last state is named twice; give each one place in the observation")
    most = max(max(pair) for pair in goal)
    if most >= seen.size:
        raise ConfigError(f"goal names dimension {most}; the observations have dimensions 0 to {seen.size - 1}")


def no_plans(count: int, length: int, channels: int, like: Tensor) -> Memory:
    """Returns the memory of environments that have no plan yet; `like`: of its type and device."""
    return {"plans": like.new_zeros(count, length, channels), "ages": torch.full((count,), -1, device=like.device)}


def renewed(memory: Memory, every: int, warm: bool, make: Callable[[Tensor, Tensor | None], Tensor]) -> tuple[Tensor, Tensor, Memory]:
    """Returns plans `[N, T, C]`, how many of their steps have been done `[N]`, and the memory after one more.

    Where there is no plan, or `every` of its steps are done, `make(rows, before)` plans anew for the environments at `rows`; before: where
    `warm`, what was planned for the steps ahead, going on as it last moved within the limits, and None where nothing was. One number is read
    from the device.
    """
    plans, ages = memory["plans"].clone(), memory["ages"]
    groups = ((ages < 0, False), (ages >= every, True)) if warm else (((ages < 0) | (ages >= every), False),)
    for chosen, known in groups:
        rows = chosen.nonzero().squeeze(-1)
        if len(rows):
            plans[rows] = make(rows, _ahead(plans[rows], every) if known else None)
    ages = torch.where((ages < 0) | (ages >= every), 0, ages)
    return plans, ages, {"plans": plans, "ages": ages + 1}


def _ahead(plans: Tensor, every: int) -> Tensor:
    """Plans `[N, T, C]` from step `every` on. A plan that stood still at its end would, with little noise, be kept standing there."""
    last, moved = plans[:, -1:], plans[:, -1:] - plans[:, -2:-1]
    steps = torch.arange(1, every + 1, dtype=plans.dtype, device=plans.device).unsqueeze(-1)  # [every, 1]
    return torch.cat([plans[:, every:], (last + steps * moved).clamp(-1, 1)], 1)


def check_horizon(horizon: int, replan_every: int, warm_start_steps: int, chain: Chain) -> None:
    """Raises ConfigError for settings of planning that do not fit together."""
    if horizon < 2:
        raise ConfigError(f"horizon is {horizon}; a plan needs at least 2 states")
    if replan_every >= horizon:
        raise ConfigError(f"replan_every is {replan_every} and a plan has {horizon} states; expected at most {horizon - 1}")
    if warm_start_steps >= len(chain):
        raise ConfigError(
            f"warm_start_steps is {warm_start_steps} and sampling has {len(chain)} steps; expected fewer, or 0 to begin each plan from noise"
        )
