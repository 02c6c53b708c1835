"""The interface of an algorithm: a module that returns one named loss per network.

The algorithm owns what varies (networks, batch kind, cadence, targets, settings, policy); the engine owns what repeats
(optimizers, target averages, clipping, schedules, seeds, devices, compilation, checkpoints, logging).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stitchrl.core.batch import BatchKind, TransitionBatch
from stitchrl.core.goals import Goals, HindsightBatches
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, stream_seed
from stitchrl.core.spec import Discrete, Spec
from stitchrl.core.windows import WindowBatch

Losses = dict[str, Tensor]
Metrics = dict[str, Tensor]
Due = frozenset[str]


@final
@dataclass(frozen=True)
class Adam:
    """Settings of one network's optimizer (Kingma & Ba, 2014, arXiv:1412.6980; decoupled weight decay: arXiv:1711.05101)."""

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    # gradient: decay times the weight is added to the gradient before the moments, as torch.optim.Adam does; decoupled: as AdamW
    decay: Literal["decoupled", "gradient"] = "decoupled"
    warmup_steps: int = 0  # linear, from 0
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: to 0 at the run's last step
    clip_norm: float | None = None  # of the network's whole gradient, each seed by itself


class Algorithm(nn.Module, ABC):
    """Networks and their losses. A subclass is final: no algorithm inherits from another.

    Its children are its networks, in the order in which `sequential` updates them; each has a loss of the same name. A parameter that asks
    for no gradient is a constant, of the method or measured from the log: never learned, but saved with the others.
    """

    batch: BatchKind  # what it eats; the engine replaces it where an algorithm that knows of no goals is to reach them
    action_space: ClassVar[Literal["any", "box", "discrete"]] = "any"
    online: ClassVar[bool] = False  # may it also learn from an environment, acting with its policy plus noise?
    asked: ClassVar[bool] = False  # its policy is asked for a return, in the task's own rewards
    acting: ClassVar[frozenset[str]] = frozenset(["actor", "temperature"])  # learn from actors' goals, where hindsight draws goals
    acting_settings: ClassVar[frozenset[str]] = frozenset()  # which its policy reads where it acts: others are in what was learned
    fine_tunes: ClassVar[bool] = False  # may a run go on in an environment? True for actor-critics and value learners, not for cloning

    config: Any
    spec: Spec
    optimizers: Mapping[str, Adam]  # one for each network
    targets: Mapping[str, str] = {}  # moving averages kept by the engine: name -> network it follows
    update_every: Mapping[str, int] = {}  # cadence of delayed networks and targets, in steps; others are due at each
    target_rate: float = 0.005  # of the moving averages: target += rate * (network - target); 1 copies

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.batch = self.batch_of(config)

    @classmethod
    def batch_of(cls, config: Any) -> BatchKind:
        """Returns what it eats with these settings, for the data layer: `batch`, unless a setting decides what is in a row."""
        return cls.batch

    @classmethod
    def learns_from_rewards(cls, config: Any) -> bool:
        """Returns whether the log's rewards decide what it does with these settings; goals that are drawn have rewards of their own."""
        return not isinstance(cls.batch, Goals)

    def noise(self, size: int) -> dict[str, Noise]:
        """Returns the random numbers that one step on a batch of `size` needs, by name."""
        return {}

    @abstractmethod
    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        """Returns one scalar loss for each network that is due, and scalar metrics. Pure: no state, no host reads, no global randomness."""

    def measure(self, log: WindowBatch) -> None:
        """Fills constants (parameters that ask for no gradient) from states of the log, `[M, 1, …]`: each episode's first and many others.

        Called once before the first step, where the algorithm learns from windows; without gradients. The same log gives the same constants.
        """

    @abstractmethod
    def policy(self) -> Policy:
        """Returns the policy to act with; it shares the algorithm's parameters."""

    def believed_value(self, observations: Tensor) -> Tensor | None:
        """Returns `[B]`, what the algorithm believes its policy is worth from each observation; None where it has no value."""
        return None

    def forward(self, rows: Tensor, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        """Returns `losses` of packed rows `[B, width]`; what the engine calls, with parameters of its own."""
        batch = self.batch.unpack(rows, self.spec)
        if not isinstance(batch, HindsightBatches):
            return self.losses(batch, noise, due)
        losses: Losses = {}
        metrics: Metrics = {}
        for steps, part in ((batch.values, due - self.acting), (batch.actors, due & self.acting)):
            if any(network in part for network in self.networks):
                found, told = self.losses(steps, noise, part)
                losses, metrics = losses | found, metrics | told
        return losses, metrics

    @final
    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks that learn, in the order of definition."""
        return tuple(name for name, _ in self.named_children() if name not in self.targets)


def build(algorithm: type[Algorithm], config: Any, spec: Spec, seed: int) -> Algorithm:
    """Returns a new algorithm whose first weights come from the seed alone, with its target networks as copies."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "initial_weights"))
        built = algorithm(config, spec)
    for target, source in built.targets.items():
        built.add_module(target, copy.deepcopy(built.get_submodule(source)))
    return built


def frozen(network: nn.Module) -> Callable[..., Any]:
    """Returns the network as a constant: gradients reach its inputs and not its weights.

    Lets an actor's loss pass through a critic without touching it, so that all losses can share one backward pass.
    """
    constants = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return lambda *inputs: functional_call(network, constants, inputs)


def is_discrete(spec: Spec) -> bool:
    """Returns whether actions are integers."""
    return isinstance(spec.action, Discrete)
