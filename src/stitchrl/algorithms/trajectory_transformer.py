"""Trajectory Transformer (Janner et al., 2021, arXiv:2106.02039): a sequence model of all that happens, and beam search for a plan in it.

Every dimension of every observation and action is a token, and so are the reward and the return to go; one transformer predicts each from
those before it. To act, the search keeps the continuations that promise most, and the best plan's first action is done.
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
from stitchrl.core.plans import Planned
from stitchrl.core.policy import Memory, Policy
from stitchrl.core.randomness import Noise, Uniform, generator
from stitchrl.core.settings import Count, Fraction, Natural, NonNegative, Positive, Several, Share
from stitchrl.core.spec import Discrete, Spec, is_image
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.nn.beam_search import Plans, Search, decode_action, plan_by_likelihood, plan_by_value
from stitchrl.nn.decoding import CachedDecoder, rows_of
from stitchrl.nn.discretization import Kind
from stitchrl.nn.planning import check_goal, wanted
from stitchrl.nn.token_transformer import TokenTransformer
from stitchrl.nn.transition_tokens import TransitionTokens

ROWS_AT_ONCE = 1024  # continuations decoded together: each keeps up to 0.5 MB of keys and values


@final
@dataclass(frozen=True)
class TrajectoryTransformerConfig:
    bins: Several = 100
    """tokens of each real dimension (N)"""
    discretization: Kind = "quantile"
    """equal shares of the log in each bin, or bins of equal width"""
    discount: Fraction = 0.99
    """of the returns to go, and of the rewards of a plan"""
    sequence: Count = 10
    """transitions of the windows that are learned from"""
    action_weight: NonNegative = 5.0
    """of the action's tokens in the loss; the observation's have 1"""
    reward_weight: NonNegative = 1.0
    return_weight: NonNegative = 1.0
    planning: Literal["value", "likelihood", "none"] = "value"
    """the plan that earns most, the likeliest one (imitation, or the way to a goal), or no plan: the likeliest action, token by token"""
    beam_width: Count = 128
    horizon: Count = 15
    """transitions of a plan (the authors: 5 on HalfCheetah and Ant)"""
    expansion: Count = 2
    """continuations of each beam (n_expand)"""
    drawn: Literal["sampled", "likeliest"] = "sampled"
    """how a beam's actions are found: drawn, as in the paper, or the likeliest ones, all different"""
    action_choices: Count | None = None
    """of an action's tokens only the k likeliest may be drawn (k_act); None: all"""
    observation_choices: Count = 1
    """of an observation's tokens only the k likeliest may be drawn (k_obs); 1: the likeliest"""
    dropped_mass: Share = 0.6
    """the least likely tokens of an action that together have less than this probability are not drawn (cdf_act)"""
    context: Count = 5
    """transitions that the model reads at most when planning, the one it predicts included (max_context_transitions)"""
    slide: Count = 1
    """transitions that leave a full context at once: the authors' 1 reads the others anew at each planned step"""
    prefix_context: bool = True
    """whether a plan begins with what was done before; without, all that matters must be in the observation"""
    replan_every: Count = 1
    """steps of a plan that are done before the next is made (plan_freq)"""
    goal: tuple[tuple[Natural, Natural], ...] = ()
    """(d, e): the episode's last state is told first, by its dimensions d; when acting, dimension e of the observation tells d"""
    width: Count = 128
    layers: Count = 4
    heads: Count = 4
    dropout: Share = 0.1
    learning_rate: Positive = 6e-4
    warmup_steps: Natural = 4_000
    """the authors' one pass through a million steps"""
    weight_decay: NonNegative = 0.1


@final
class TransitionModel(nn.Module):
    """The law of transitions as tokens."""

    def __init__(self, config: TrajectoryTransformerConfig, spec: Spec) -> None:
        super().__init__()
        c = config
        self.tokens = TransitionTokens(spec, c.bins)
        self.goal = c.goal
        self.law = TokenTransformer(self.tokens.sizes, c.sequence, c.width, c.layers, c.heads, dropout=c.dropout, goal=len(c.goal))

    def goal_of(self, observations: Tensor) -> Tensor | None:
        """Returns the tokens `[B, G]` of what states `[B, O]` are as goals; None where there are no goals."""
        return self.tokens.of_observations(observations)[:, [d for d, _ in self.goal]] if self.goal else None

    def wanted(self, observations: Tensor) -> Tensor | None:
        """Returns the tokens `[B, G]` of the goals that observations `[B, O]` tell."""
        return self.goal_of(wanted(self.goal, observations))


@final
class PlanningPolicy(Policy):
    """Does the first actions of the best plan. Without noise plans are drawn with fixed numbers, the same at every observation."""

    vmapped = False
    reads_rewards = True

    def __init__(self, model: TransitionModel, config: TrajectoryTransformerConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        c, tokens = config, model.tokens
        self.observations, self.actions = tokens.observation_places, tokens.action_places
        beams = 1 if c.planning == "none" else c.beam_width
        self.search = Search(
            self.observations, self.actions, beams, c.horizon, c.expansion, c.drawn, c.action_choices, c.observation_choices,
            c.dropped_mass, c.discount,
        )  # fmt: skip
        self.kept = c.context - c.slide if c.prefix_context else 0  # transitions of the past that a plan begins with
        self.score = "predicted return" if c.planning == "value" else "log-likelihood"
        self.drawn = c.planning == "value"  # the likeliest plan and the likeliest action are what they are
        numbers = self.search.noise_shape() if c.planning == "value" else (self.actions,) if c.planning == "none" else (0,)
        self.shape = numbers if 0 not in numbers else None
        self.fixed = Uniform(numbers).draw(1, generator(0, "acting"))[0]

    def noise(self, size: int) -> Noise | None:
        return None if self.shape is None else Uniform((size, *self.shape))

    def memory(self, count: int) -> Memory | None:
        device = self.model.law.head.device
        places = self.search.places
        return {
            "past": torch.zeros(count, self.kept, places, dtype=torch.int64, device=device),  # the latest transitions, at the end
            "length": torch.zeros(count, dtype=torch.int64, device=device),  # how many of them there are
            "plan": torch.zeros(count, self.config.replan_every, self.actions, dtype=torch.int64, device=device),
            "age": torch.full((count,), -1, device=device),  # steps of the plan that are done; -1: none is made yet
            "last": torch.zeros(count, self.observations, dtype=torch.int64, device=device),
        }

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        memory = self.memory(len(observations))
        assert memory is not None
        rewards = torch.zeros(len(observations), device=observations.device)
        return self.step(observations, rewards, memory, noise)[0]

    @torch.no_grad()
    def step(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None = None) -> tuple[Tensor, Memory]:
        now = self.model.tokens.of_observations(observations)  # [N, O]
        past, length = self._remembered(memory, rewards)
        age, plan, number = memory["age"], memory["plan"].clone(), torch.arange(len(now), device=now.device)
        planned = plan[number, age.clamp(0, self.config.replan_every - 1)]
        # a plan that thought the task would be over by now knows no action
        old = (age < 0) | (age >= self.config.replan_every) | (planned == self.model.tokens.stop).any(-1)
        for known in range(self.kept + 1):  # with as much of the past positions are the same
            for rows in (old & (length == known)).nonzero().squeeze(-1).split(max(1, ROWS_AT_ONCE // self._rows())):
                if len(rows):
                    before = past[rows, self.kept - known :].flatten(1)
                    plan[rows] = self._actions(
                        torch.cat([before, now[rows]], 1), observations[rows], None if noise is None else noise[rows]
                    )
        age = age.masked_fill(old, 0)
        chosen = plan[number, age]  # [N, A]
        remembered = {"past": past, "length": length, "plan": plan, "age": age + 1, "last": now}
        return self.model.tokens.actions(chosen), remembered

    @torch.no_grad()
    def planned(self, observations: Tensor, noise: Tensor | None = None) -> Planned:
        """Returns the plans made where episodes begin, with what they are ranked by; where there are fewer than beams the best is repeated."""
        tokens = self.model.tokens
        now = tokens.of_observations(observations)
        plans, scores = self._plans(now, observations, noise)
        repeated = torch.arange(scores.shape[1], device=scores.device).masked_fill(scores.isinf(), 0)
        plans, scores = rows_of(plans, repeated), rows_of(scores, repeated)
        seen = plans[..., : self.observations]
        going = (seen != tokens.stop).all(-1).long().cummin(-1).values  # [N, K, T]
        last = going.sum(-1, keepdim=True) - 1  # a plan that ends stays where it ended
        index = torch.minimum(torch.arange(seen.shape[2], device=seen.device), last)
        states = tokens.observations(seen.gather(2, index.unsqueeze(-1).expand(seen.shape)))
        return Planned(states, scores, states[:, :0])

    def action_probabilities(self, observations: Tensor) -> Tensor:
        if not isinstance(self.model.tokens.action, Discrete):
            return super().action_probabilities(observations)
        return functional.one_hot(self(observations), self.model.tokens.action.n)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError(
            "the Trajectory Transformer does the first action of the best plan it finds: the probability of its actions is not known"
        )

    def _remembered(self, memory: Memory, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """The past and its length, with the transition that has just ended."""
        past, length, age = memory["past"], memory["length"], memory["age"]
        if not self.kept:
            return past, length
        done = memory["plan"][torch.arange(len(past), device=past.device), (age - 1).clamp_min(0)]
        r = self.model.tokens.of_rewards(rewards.to(self.model.law.head.dtype))
        ended = torch.cat([memory["last"], done, r, torch.zeros_like(r)], 1)  # the return to go is never read
        begun = age >= 0
        past = torch.where(begun[:, None, None], torch.cat([past[:, 1:], ended.unsqueeze(1)], 1), past)
        return past, (length + begun).clamp_max(self.kept)

    def _rows(self) -> int:
        """Continuations of one environment that are decoded together."""
        return self.search.beam_width * (self.search.expansion if self.config.planning == "value" else 1)

    def _decoder(self, before: Tensor, observations: Tensor) -> CachedDecoder:
        c = self.config
        return CachedDecoder(self.model.law, before, c.context, c.slide, self.model.wanted(observations) if c.goal else None)

    def _actions(self, before: Tensor, observations: Tensor, noise: Tensor | None) -> Tensor:
        """The tokens of the next actions, `[N, replan_every, A]`."""
        if self.config.planning == "none":
            return decode_action(self._decoder(before, observations), self.actions, noise).unsqueeze(1)
        plan = self._plans(before, observations, noise).tokens[:, 0, : self.config.replan_every]
        return plan[..., self.observations : self.observations + self.actions]

    def _plans(self, before: Tensor, observations: Tensor, noise: Tensor | None) -> Plans:
        decoder, now = self._decoder(before, observations), before[:, before.shape[1] - self.observations :]
        if self.config.planning != "value":
            return plan_by_likelihood(decoder, now, self.search)
        if noise is None:
            noise = self.fixed.to(before.device).expand(len(before), *self.fixed.shape)
        tokens = self.model.tokens
        return plan_by_value(decoder, now, self.search, tokens.expected_reward, tokens.expected_return, noise)


@final
class TrajectoryTransformer(Algorithm):
    batch = Windows(10, discount=0.99)
    acting_settings = frozenset([
        "planning", "beam_width", "horizon", "expansion", "drawn", "action_choices", "observation_choices", "dropped_mass",
        "context", "slide", "prefix_context", "replan_every",
    ])  # fmt: skip

    def __init__(self, config: TrajectoryTransformerConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        check(config, spec)
        c = config
        self.model = TransitionModel(c, spec)
        adam = Adam(
            c.learning_rate, betas=(0.9, 0.95), weight_decay=c.weight_decay, warmup_steps=c.warmup_steps, schedule="cosine", clip_norm=1.0
        )
        self.optimizers = {"model": adam}

    @classmethod
    def batch_of(cls, config: TrajectoryTransformerConfig) -> BatchKind:
        return Windows(config.sequence, config.discount, goals=bool(config.goal))

    @classmethod
    def learns_from_rewards(cls, config: TrajectoryTransformerConfig) -> bool:
        return config.planning == "value"

    def noise(self, size: int) -> dict[str, Noise]:
        return {"dropout": Uniform((1,))} if self.config.dropout else {}

    def measure(self, log: WindowBatch) -> None:
        done = log.taken[:, 0] > 0
        s, a, r, g = (x[done, 0] for x in (log.observations, log.actions, log.rewards, log.returns_to_go))
        self.model.tokens.measure(s, a, r, g, self.config.discretization)

    def losses(self, batch: WindowBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, r, g, terminal, _, taken, present, *_ = batch
        c, tokens = self.config, self.model.tokens
        x = torch.cat([tokens.of_observations(s), tokens.of_actions(a), tokens.of_rewards(r), tokens.of_returns(g)], -1)  # [B, T, D]
        ended = (terminal.cumsum(1) - terminal > 0).to(r.dtype)  # [B, T]: after the task's end, and not after the clock's
        x = torch.where(ended.unsqueeze(-1) > 0, tokens.stop, x)
        places = (tokens.observation_places, tokens.action_places, 1, 1)
        shown = [torch.maximum(y, ended).unsqueeze(-1) for y in (present, taken, taken, taken)]
        mask = torch.cat([y.expand(-1, -1, n) for y, n in zip(shown, places, strict=True)], -1)  # [B, T, D]; padding is never counted

        goal = None if batch.goals is None else self.model.goal_of(batch.goals[:, 0])
        if goal is None:  # nothing stands before a window's first token
            mask = mask * (torch.arange(mask[0].numel(), device=mask.device) > 0).view(mask.shape[1:])
        logits = self.model.law(x, goal, noise.get("dropout"))  # [B, T, D, V + 1]
        nll = -mask * logits.log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)  # -log p(x_d | x_<d, earlier transitions), eq. 2
        sums, counts = (torch.stack([part.sum() for part in y.split(places, -1)]) for y in (nll, mask))  # [4]: of each kind
        weights = torch.tensor((1.0, c.action_weight, c.reward_weight, c.return_weight), dtype=r.dtype, device=r.device)
        names = ("observation_nll", "action_nll", "reward_nll", "return_nll")
        metrics = dict(zip(names, (sums.detach() / counts.clamp_min(1)).unbind(), strict=True))
        # a token hides a number that is not finite: let it be seen
        real = sum((y.sum() for y in (s, a, r, g) if y.is_floating_point()), start=torch.zeros_like(counts[0]))
        return {"model": (weights * sums).sum() / counts.sum() + 0 * real}, metrics

    def policy(self) -> Policy:
        return PlanningPolicy(self.model, self.config)


def check(c: TrajectoryTransformerConfig, spec: Spec) -> None:
    """Raises ConfigError for settings that do not fit together or the data."""
    if is_image(spec.observation):
        raise ConfigError(
            "each dimension of an observation is a token, and these are images; choose an algorithm that reads images, such as bc"
        )
    if c.context > c.sequence:
        raise ConfigError(
            f"context is {c.context} and the model learns from {c.sequence} transitions (sequence); it knows no positions beyond"
        )
    if c.slide >= c.context:
        raise ConfigError(f"slide is {c.slide} and the context has {c.context} transitions; at least one must stay: expected less")
    if c.replan_every > (1 if c.planning == "none" else c.horizon):
        most = "without planning one action is decoded at a time" if c.planning == "none" else f"a plan has {c.horizon} (horizon)"
        raise ConfigError(f"replan_every is {c.replan_every}, and {most}")
    check_goal(c.goal, spec)
