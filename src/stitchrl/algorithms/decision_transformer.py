"""Decision Transformer (Chen et al., 2021, arXiv:2106.01345): actions as what comes next after the return that is asked for and the states so far.

No value is learned and nothing is maximised: a causal transformer reads returns to go, states and actions as one sequence and predicts the logged
action from all before it. At play the return to go begins with a target and is reduced by what was earned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, is_discrete
from stitchrl.core.batch import BatchKind
from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Memory, Policy
from stitchrl.core.randomness import Noise, Uniform
from stitchrl.core.settings import Count, Fraction, Natural, NonNegative, Positive, Share
from stitchrl.core.spec import Discrete, Space, Spec, is_image
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.nn.mlp import LayerNorm
from stitchrl.nn.transformer import Transformer
from stitchrl.nn.vision import Encoder

TOKENS = 3  # of a step: return to go, state, action
STATES = slice(1, None, TOKENS)  # where the states' tokens stand: what is found there is read as the action


@final
@dataclass(frozen=True)
class DecisionTransformerConfig:
    context: Count = 20
    """steps that are looked at (K)"""
    width: Count = 128
    layers: Count = 3
    heads: Count = 1
    activation: Literal["relu", "gelu"] = "relu"
    dropout: Share = 0.1
    """of tokens, attention and both additions to the stream"""
    return_scale: Positive = 1000.0
    """returns to go are divided by it before the network reads them: about the size of a good return"""
    target_return: float | None = None
    """asked for at play, in the units of the rewards that are learned from (the task's, unless preprocessing scales them); None: the log's best"""
    longest_episode: Count = 1000
    """steps; timesteps are told apart up to here, and a log with a longer episode is refused"""
    learning_rate: Positive = 1e-4
    weight_decay: NonNegative = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """of Adam's moments"""
    warmup_steps: Natural = 10_000
    """over which the learning rate rises from 0"""
    schedule: Literal["constant", "cosine"] = "constant"
    """of the learning rate after that"""
    clip_norm: Positive = 0.25
    """of the whole gradient"""


@final
class StateToken(nn.Module):
    """The token of a state: numbers by one linear layer, images by convolutions before it, discrete states by a table."""

    def __init__(self, space: Space, width: int) -> None:
        super().__init__()
        self.space = space
        self.encoder = Encoder(space) if not isinstance(space, Discrete) and is_image(space) else None
        size = 0 if isinstance(space, Discrete) else space.size if self.encoder is None else self.encoder.size
        self.layer = nn.Embedding(space.n, width) if isinstance(space, Discrete) else nn.Linear(size, width)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns `[B, T, D]` from `[B, T, *O]`."""
        if isinstance(self.space, Discrete):
            found: Tensor = self.layer(observations)
            return found
        leading = observations.shape[:2]
        flat = observations.flatten(0, 1)
        x: Tensor = self.layer(flat.flatten(1) if self.encoder is None else self.encoder(flat))
        return x.view(*leading, -1)


@final
class SequenceModel(nn.Module):
    """R_1, s_1, a_1, R_2, s_2, a_2 … as tokens, and the action that is predicted where each state stands."""

    def __init__(self, config: DecisionTransformerConfig, spec: Spec) -> None:
        super().__init__()
        c = config
        self.return_scale, self.longest, self.discrete = c.return_scale, c.longest_episode, is_discrete(spec)
        outputs = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
        self.return_token = nn.Linear(1, c.width)
        self.state_token = StateToken(spec.observation, c.width)
        self.action_token = nn.Embedding(outputs, c.width) if self.discrete else nn.Linear(outputs, c.width)
        self.timestep = nn.Embedding(c.longest_episode, c.width)
        self.norm = LayerNorm(c.width)
        self.transformer = Transformer(c.width, c.layers, c.heads, activation=c.activation, dropout=c.dropout)
        self.head = nn.Linear(c.width, outputs)
        # constants: what is asked for at play, and the lowest and highest return of the log's episodes
        self.target_return = nn.Parameter(torch.full((1,), c.target_return or 0.0), requires_grad=False)
        self.logged_returns = nn.Parameter(torch.zeros(2), requires_grad=False)

    def before_action(self, returns: Tensor, observations: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the tokens of returns to go and states, `[B, T, 2, D]`."""
        tokens = torch.stack([self.return_token(returns.unsqueeze(-1) / self.return_scale), self.state_token(observations)], 2)
        return self._at(tokens, timesteps)

    def of_action(self, actions: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the tokens of actions, `[B, T, 1, D]`."""
        return self._at(self.action_token(actions).unsqueeze(2), timesteps)

    def _at(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        when = self.timestep(timesteps.clamp_max(self.longest - 1))  # one embedding for the tokens of a step
        result: Tensor = self.norm(tokens + when.unsqueeze(2))
        return result

    def predicted(self, tokens: Tensor, key: Tensor | None = None) -> Tensor:
        """Returns what is predicted at each state, `[B, T, A]` in [-1, 1] or logits `[B, T, n]`, from tokens `[B, T, 3, D]`."""
        found: Tensor = self.head(self.transformer(tokens.flatten(1, 2)[:, :-1], key, STATES))  # the last action comes after all
        return found if self.discrete else torch.tanh(found)


@final
class ReturnConditionedPolicy(Policy):
    """The action predicted after the last K steps, what is left of the target return, and the present state.

    Discrete: the likeliest action, or with noise a draw. Its memory holds tokens, so that no state is read twice.
    """

    reads_rewards = True

    def __init__(self, model: SequenceModel, context: int, spec: Spec) -> None:
        super().__init__()
        self.model, self.context, self.spec = model, context, spec
        self.asked: Tensor | None = None

    def noise(self, size: int) -> Noise | None:
        return Uniform((size, self.spec.action.n)) if isinstance(self.spec.action, Discrete) else None

    def ask(self, returns: Tensor | None) -> None:
        self.asked = returns

    def memory(self, count: int) -> Memory:
        target = self.model.target_return
        if self.asked is not None and len(self.asked) != count:
            raise ConfigError(f"returns were asked for in {len(self.asked)} environments and {count} begin an episode; ask for one in each")
        wanted = target.expand(count) if self.asked is None else self.asked
        counters = target.new_zeros(count, dtype=torch.int64)
        return {
            "tokens": target.new_zeros(count, self.context, TOKENS, self.model.head.in_features),
            "held": counters,  # steps in the tokens, the first ones
            "timestep": counters.clone(),
            "wanted": wanted.to(target).clone(),  # the return to go
        }

    def step(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None = None) -> tuple[Tensor, Memory]:
        tokens, held, timestep, wanted = memory["tokens"], memory["held"], memory["timestep"], memory["wanted"] - rewards
        full = (held == self.context).long()
        order = (torch.arange(self.context, device=held.device) + full.unsqueeze(1)).clamp_max(self.context - 1)  # [N, K]
        tokens = tokens.gather(1, order[:, :, None, None].expand_as(tokens))  # where the window is full its first step goes
        place = held - full
        rows = torch.arange(len(held), device=held.device)
        when = timestep.unsqueeze(1)
        tokens[rows, place, :2] = self.model.before_action(wanted.unsqueeze(1), observations.unsqueeze(1), when)[:, 0]
        found = self.model.predicted(tokens)[rows, place]  # what stands after the present step is not seen: padding needs no mask
        action = self._chosen(found, noise)
        tokens[rows, place, 2:] = self.model.of_action(action.unsqueeze(1), when)[:, 0]
        return action, {"tokens": tokens, "held": place + 1, "timestep": timestep + 1, "wanted": wanted}

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        count = len(observations)
        rewards = self.model.target_return.new_zeros(count)
        return self.step(observations, rewards, self.memory(count), noise)[0]

    def action_probabilities(self, observations: Tensor) -> Tensor:
        if not isinstance(self.spec.action, Discrete):
            return super().action_probabilities(observations)
        return functional.one_hot(self(observations), self.spec.action.n)

    def _chosen(self, found: Tensor, noise: Tensor | None) -> Tensor:
        if not self.model.discrete:
            return found
        if noise is not None:  # Gumbel's trick: the largest of logit + Gumbel noise is a draw from the softmax
            found = found - torch.log(-torch.log(noise.clamp_min(torch.finfo(noise.dtype).tiny)))
        return found.argmax(-1)


@final
class DecisionTransformer(Algorithm):
    batch = Windows(final_states=False)
    asked = True
    acting_settings = frozenset(["context"])

    def __init__(self, config: DecisionTransformerConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        self.model = SequenceModel(c, spec)
        adam = Adam(
            c.learning_rate, c.betas, weight_decay=c.weight_decay, warmup_steps=c.warmup_steps, schedule=c.schedule, clip_norm=c.clip_norm
        )
        self.optimizers = {"model": adam}

    @classmethod
    def batch_of(cls, config: DecisionTransformerConfig) -> BatchKind:
        return Windows(length=config.context, longest=config.longest_episode, final_states=False)

    def measure(self, log: WindowBatch) -> None:
        returns = log.returns_to_go[(log.timesteps == 0) & (log.taken == 1)]  # of whole episodes: what is to come at their first state
        self.model.logged_returns.copy_(torch.stack([returns.min(), returns.max()]))
        if self.config.target_return is None:
            self.model.target_return.copy_(returns.max().reshape(1))

    def noise(self, size: int) -> dict[str, Noise]:
        return {"dropout": Uniform((1,))} if self.config.dropout else {}

    def losses(self, batch: WindowBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, _, returns_to_go, _, t, taken, *_ = batch
        tokens = torch.cat([self.model.before_action(returns_to_go, s, t), self.model.of_action(a, t)], 2)  # [B, T, 3, D]
        predicted = self.model.predicted(tokens, noise.get("dropout"))  # [B, T, A] or [B, T, n]

        if self.model.discrete:  # log p(a_t | R_1, s_1, a_1 … R_t, s_t)
            error = functional.cross_entropy(predicted.flatten(0, 1), a.flatten(), reduction="none").view_as(taken)
            right = (predicted.argmax(-1) == a).to(taken.dtype)
            metrics = {"accuracy": (right * taken).sum() / taken.sum()}
        else:
            error = (predicted - a).square().mean(-1)
            metrics = {}
        return {"model": (error * taken).sum() / taken.sum()}, metrics

    def policy(self) -> Policy:
        return ReturnConditionedPolicy(self.model, self.config.context, self.spec)
