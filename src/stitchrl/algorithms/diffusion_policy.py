"""Diffusion policy (Chi et al., 2023, arXiv:2303.04137): cloning chunks of actions by diffusion, given what was seen last.

Several ways of doing a task stay several: where a squared error would average them, a chunk is drawn whole from one. The first actions of a
chunk are done, then the next chunk is drawn (receding horizon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import BatchKind
from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Memory, Policy
from stitchrl.core.randomness import Noise, Normal, Uniform, generator
from stitchrl.core.settings import Count, Levels, Natural, NonNegative, Positive, Rate, refuse_changed
from stitchrl.core.spec import Box, Discrete, Space, Spec, is_image
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.nn.denoisers import DiT, TemporalUnet
from stitchrl.nn.diffusion import Diffusion, draws
from stitchrl.nn.noise_schedules import Chain, Prediction, SamplerName, Schedule, ScheduleKind, chain
from stitchrl.nn.vision import Encoder


@final
@dataclass(frozen=True)
class DiffusionPolicyConfig:
    horizon: Count = 16
    """actions of a chunk, from the oldest observation that it is given (T_p)"""
    observed: Count = 2
    """last observations that a chunk is given (T_o)"""
    acted: Count = 8
    """actions done of a chunk, from the newest observation on, before the next is drawn (T_a)"""
    diffusion_steps: Count = 100
    """from noise to chunk"""
    schedule: ScheduleKind = "cosine"
    """of the noise"""
    prediction: Prediction = "epsilon"
    """what the network learns to say: the noise, the chunk or the velocity"""
    sampler: SamplerName = "ddpm"
    """how a chunk is drawn where it acts"""
    sampling_steps: Count | None = None
    """of the sampler; None: all"""
    network: Literal["unet", "dit"] = "unet"
    """temporal U-Net (the paper's first choice), or a transformer (CleanDiffuser's)"""
    width: Count = 256
    """channels of the U-Net's first level, or the transformer's"""
    multipliers: Levels = (1, 2, 4)
    """of `width`, one a level; each level but the last halves the chunk; U-Net only"""
    kernel: Count = 5
    """of the convolutions over time; odd; U-Net only"""
    depth: Count = 8
    """layers; transformer only, as the next"""
    heads: Count = 4
    target_rate: Rate = 0.005
    """step of the moving average of the network, with which it acts"""
    learning_rate: Positive = 1e-4
    learning_schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Natural = 500
    """in which the learning rate rises from 0"""
    weight_decay: NonNegative = 1e-6


@final
class ChunkDiffusion(nn.Module):
    """Chunks of actions `[B, T, A]`, conditioned on observations `[B, H, *O]` side by side; images go through convolutions."""

    def __init__(self, spec: Spec, config: DiffusionPolicyConfig) -> None:
        super().__init__()
        c = config
        assert isinstance(spec.action, Box)
        space = self.space = spec.observation
        self.encoder = Encoder(space) if isinstance(space, Box) and is_image(space) else None
        seen = self.encoder.size if self.encoder is not None else space.n if isinstance(space, Discrete) else space.size
        condition = c.observed * seen
        network: nn.Module = (
            TemporalUnet(spec.action.size, c.width, c.multipliers, condition=condition, kernel=c.kernel, scaled=True)
            if c.network == "unet"
            else DiT(spec.action.size, c.horizon, c.width, c.depth, c.heads, condition=condition)
        )
        self.diffusion = Diffusion(network, Schedule(c.schedule, c.diffusion_steps), c.prediction)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns the condition `[B, H F]` of observations `[B, H, *O]`."""
        if self.encoder is not None:
            features: Tensor = self.encoder(observations.flatten(0, 1))
            beside: Tensor = features.unflatten(0, observations.shape[:2]).flatten(1)
            return beside
        if isinstance(self.space, Discrete):
            one_hot = functional.one_hot(observations, self.space.n)
            return one_hot.flatten(1).to(self.diffusion.schedule.signal.dtype)
        return observations.flatten(1)


@final
class ChunkPolicy(Policy):
    """The next action of the chunk drawn last, or the first of a new one. Without noise chunks are drawn from fixed numbers."""

    vmapped = False
    drawn = True

    def __init__(self, denoiser: ChunkDiffusion, steps: Chain, spec: Spec, config: DiffusionPolicyConfig) -> None:
        super().__init__()
        assert isinstance(spec.action, Box)
        self.denoiser, self.steps, self.space, self.config = denoiser, steps, spec.observation, config
        self.shape = (1 + draws(steps), config.horizon, spec.action.size)  # of a chunk's noise
        self.fixed = Normal(self.shape).draw(1, generator(0, "acting"))

    def noise(self, size: int) -> Noise | None:
        return Normal((size, *self.shape))

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        memory = self.memory(len(observations))
        return self.step(observations, observations.new_zeros(len(observations)), memory, noise)[0]

    def memory(self, count: int) -> Memory:
        """Returns the last observations `[N, H, *O]`, the actions `[N, acted, A]` of the last chunk, and how many steps were taken `[N]`."""
        weight = self.denoiser.diffusion.schedule.signal
        shape = () if isinstance(self.space, Discrete) else self.space.shape
        seen = torch.zeros(count, self.config.observed, *shape, dtype=_kind(self.space, weight.dtype), device=weight.device)
        chunk = weight.new_zeros(count, self.config.acted, self.shape[-1])
        return {"observations": seen, "chunk": chunk, "taken": torch.zeros(count, dtype=torch.int64, device=weight.device)}

    def step(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None = None) -> tuple[Tensor, Memory]:
        seen, chunk, taken = memory["observations"], memory["chunk"], memory["taken"]
        newest = observations.unsqueeze(1)
        begins = (taken == 0).reshape(-1, *(1,) * (seen.ndim - 1))
        # where an episode begins, as if it had waited there
        seen = torch.where(begins, newest, torch.cat([seen[:, 1:], newest], 1))
        place = taken % self.config.acted
        # which environments need a chunk, asked of the device: the passes of the others are worth much more than the wait
        empty = (place == 0).nonzero().squeeze(1)
        if len(empty):
            z = self.fixed.to(chunk).expand(len(empty), *self.shape) if noise is None else noise[empty]
            chunk = chunk.index_copy(0, empty, self._drawn(seen[empty], z))
        action = chunk.gather(1, place.reshape(-1, 1, 1).expand(-1, 1, chunk.shape[-1])).squeeze(1)
        return action, {"observations": seen, "chunk": chunk, "taken": taken + 1}

    def _drawn(self, seen: Tensor, noise: Tensor) -> Tensor:
        """`[N, acted, A]`: of a whole chunk, which begins at the oldest observation, those from the newest on."""
        z = noise.transpose(0, 1)  # [steps, N, T, A]
        whole = self.denoiser.diffusion.sample(z[0], self.steps, self.denoiser(seen), noise=z[1:])
        now = self.config.observed - 1
        return whole[:, now : now + self.config.acted]

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError("a diffusion policy draws chunks of actions by many steps: the density of an action is not known")


@final
class DiffusionPolicy(Algorithm):
    batch = Windows(length=16, history=1, final_states=False)
    targets = {"average": "denoiser"}
    action_space = "box"
    acting_settings = frozenset(["acted", "sampler", "sampling_steps"])

    average: ChunkDiffusion

    def __init__(self, config: DiffusionPolicyConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        if c.acted + c.observed - 1 > c.horizon:
            raise ConfigError(
                f"acted is {c.acted} and observed {c.observed}; a chunk begins at the oldest observation, so that acted + observed - 1 "
                f"must be at most its horizon, {c.horizon}"
            )
        refuse_changed(c, ("depth", "heads") if c.network == "unet" else ("multipliers", "kernel"), f"with network {c.network!r}")
        if c.kernel % 2 == 0:
            raise ConfigError(f"kernel is {c.kernel}; expected an odd number, so that a sequence keeps its length")
        assert isinstance(spec.action, Box)
        self.shape = (c.horizon, spec.action.size)
        self.denoiser = ChunkDiffusion(spec, c)
        self.chain = chain(self.denoiser.diffusion.schedule, c.sampler, c.sampling_steps)
        adam = Adam(c.learning_rate, (0.95, 0.999), weight_decay=c.weight_decay, schedule=c.learning_schedule, warmup_steps=c.warmup_steps)
        self.optimizers = {"denoiser": adam}
        self.target_rate = c.target_rate

    @classmethod
    def learns_from_rewards(cls, config: DiffusionPolicyConfig) -> bool:
        return False

    @classmethod
    def batch_of(cls, config: DiffusionPolicyConfig) -> BatchKind:
        return Windows(length=config.horizon, history=config.observed - 1, final_states=False)

    def noise(self, size: int) -> dict[str, Noise]:
        return {"noise": Normal((size, *self.shape)), "time": Uniform((size,))}

    def losses(self, batch: WindowBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        condition = self.denoiser(batch.observations[:, : self.config.observed])
        # what the network sees past an episode's end: the last action, over and over; it is not asked to say it
        last = batch.taken.sum(1, keepdim=True).long() - 1
        index = torch.minimum(torch.arange(self.shape[0], device=last.device), last).unsqueeze(-1)  # [B, T, 1]
        a = batch.actions.gather(1, index.expand(batch.actions.shape))
        errors = self.denoiser.diffusion.errors(a, noise["noise"], noise["time"], condition).mean(-1)  # [B, T], eq. 5
        loss = (errors * batch.taken).sum() / batch.taken.sum()
        return {"denoiser": loss}, {"beyond_the_end": 1 - batch.taken.mean()}

    def policy(self) -> Policy:
        return ChunkPolicy(self.average, self.chain, self.spec, self.config)


def _kind(space: Space, real: torch.dtype) -> torch.dtype:
    """The dtype of observations as the policy gets them."""
    if isinstance(space, Discrete):
        return torch.int64
    return torch.uint8 if is_image(space) else real
