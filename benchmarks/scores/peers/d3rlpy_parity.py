"""Are our updates d3rlpy's? Same weights, batches and random numbers, in float64: how far apart are the networks after some steps?

`PYTHONPATH=src:benchmarks/scores OMP_NUM_THREADS=1 /tmp/peers/bin/python benchmarks/scores/peers/d3rlpy_parity.py
../shared/data/logs/halfcheetah-medium-replay.npz ../shared/data/logs/cartpole-replay.npz`

Prints one line an algorithm: the largest difference of any parameter over the largest movement of any parameter. d3rlpy's order (critic,
actor, targets; of BCQ the autoencoder before them) is used on both sides. What the two write differently is in `alike`, each with its reason:
undone on one side or held still, so that all the rest can be compared to rounding. benchmarks/scores/CONTROL.md tells what it found.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from control_record import FlatLog, read_flat_log
from d3rlpy_scores import build_learner
from torch import Tensor, nn

from stitchrl import algorithms
from stitchrl.core.algorithm import build
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.autoencoder import ActionAutoencoder
from stitchrl.training.update import Update

BATCH = 256
# a comparison -> our settings; the part before "/" is the algorithm, d3rlpy's settings are those of the score runs
SETTINGS: dict[str, dict[str, Any]] = {
    "td3_bc": {"hidden": (256, 256)},
    "iql": {"hidden": (256, 256), "actor_schedule": "constant"},
    "cql": {"hidden": (256, 256), "mean_backup": True},
    "bcq": {"hidden": (256, 256), "autoencoder_hidden": (256, 256)},
    "bcq/clamped": {"hidden": (256, 256), "autoencoder_hidden": (256, 256)},  # bounds of log std so near that they bind
    "bcq/discrete": {"threshold": 0.8, "target_rate": 1.0, "target_every": 10},  # a threshold that rules out actions from the start
    "awac": {"hidden": (256, 256)},
}
# our networks and theirs
NETWORKS = {
    "td3_bc": {"actor": "policy", "target_actor": "targ_policy", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    "iql": {"actor": "policy", "value": "value_func", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    "cql": {"actor": "policy", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    "bcq": {
        "autoencoder.encoder": "vae_encoder",
        "autoencoder.decoder.mlp": "vae_decoder",
        "critic": "q_funcs",
        "target_critic": "targ_q_funcs",
        "perturbation": "policy",
        "target_perturbation": "targ_policy",
    },
    "bcq/discrete": {"imitation": "imitator", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    "awac": {"actor": "policy", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
}
NETWORKS["bcq/clamped"] = NETWORKS["bcq"]
# which of ours move together in one of d3rlpy's steps, in its order
ORDER: dict[str, tuple[tuple[str, ...], ...]] = {
    "td3_bc": (("critic",), ("actor",), ("target_critic", "target_actor")),
    "iql": (("value", "critic"), ("actor",), ("target_critic",)),
    "cql": (("critic",), ("actor",), ("target_critic",)),
    "bcq": (("autoencoder",), ("critic",), ("perturbation",), ("target_critic", "target_perturbation")),
    "bcq/discrete": (("imitation", "critic"), ("target_critic",)),
    "awac": (("critic",), ("actor",), ("target_critic",)),
}
ORDER["bcq/clamped"] = ORDER["bcq"]
EVERY = {("td3_bc", 1): 2, ("td3_bc", 2): 2, ("bcq/discrete", 1): 10}  # (comparison, turn) -> steps from one to the next
# our random numbers in the order in which d3rlpy draws them
DRAWS = {
    "td3_bc": ["policy"],
    "iql": [],
    "cql": ["at_s", "at_s_next", "action"],
    "bcq": ["encoding", "next_latent", "latent"],
    "bcq/clamped": ["encoding", "next_latent", "latent"],
    "bcq/discrete": [],
    "awac": ["next_action", "action"],
}
CLAMPED = (-0.02, 0.02)
LOG_STD = {"iql": 0.0, "awac": -1.0}  # at which the deviation is held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("discrete_data", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--raw", type=Path, default=Path(__file__).resolve().parents[1] / "raw" / "parity.json")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--as-shipped", action="store_true", help="undo nothing: how far the definitions are apart; writes no file")
    a = parser.parse_args()
    torch.set_num_threads(1)
    for name in a.only:
        path = a.discrete_data if name == "bcq/discrete" else a.data
        difference, movement, told = compare(name, read_flat_log(path), a.steps, a.as_shipped)
        print(f"{name}: after {a.steps} steps the networks differ by {difference:.1e} and have moved by {movement:.1e} {told}", flush=True)
        row: dict[str, Any] = {"difference": difference, "movement": movement, "settings": SETTINGS[name], "metrics": told}
        row |= {"data": path.stem, "steps": a.steps, "torch": torch.__version__, "d3rlpy": version("d3rlpy"), "command": " ".join(sys.argv)}
        row |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        if not a.as_shipped:
            record(a.raw, name, row)


def record(raw: Path, name: str, row: dict[str, Any]) -> None:
    """Puts one comparison in the file, in the place of an earlier one of that name."""
    rows = json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else {}
    raw.write_text(json.dumps(rows | {name: row}, indent=1) + "\n", encoding="utf-8")


def compare(name: str, log: FlatLog, steps: int, as_shipped: bool = False) -> tuple[float, float, dict[str, float]]:
    """Returns the largest difference of any parameter, the largest movement of any, and some metrics' mean, after `steps` common updates."""
    algorithm, config = algorithms.find(name.split("/")[0])
    ours = build(algorithm, config(**SETTINGS[name]), our_spec(log), 0)
    update = Update([ours], steps=steps, order="joint", device=torch.device("cpu"), dtype=torch.float64)
    theirs = build_learner("discrete_bcq" if name == "bcq/discrete" else name.split("/")[0], log)
    discrete = name == "bcq/discrete"
    theirs.create_impl(log.observations.shape[1:], int(log.actions.max()) + 1 if discrete else log.actions.shape[1])
    modules = {key: getattr(theirs.impl._modules, attribute) for key, attribute in NETWORKS[name].items()}
    for key, module in modules.items():
        module.double()
        for mine, layers in zip(our_layers(update, key), their_layers(module), strict=True):
            write(mine, layers)

    rows = columns(name, log)
    rng = np.random.default_rng(0)
    totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    with nullcontext() if as_shipped else alike(name, theirs, update):
        start = {key: value.detach().clone() for key, value in update.parameters.items()}
        for step in range(1, steps + 1):
            index = torch.from_numpy(rng.integers(0, len(rows), BATCH))
            generator = torch.Generator().manual_seed(step)
            noise = {key: z.draw(1, generator, torch.float64)[0] for key, z in ours.noise(BATCH).items()}
            with numbers(name, noise):
                theirs.impl.inner_update(their_batch(rows[index], log), step)
            for turn, networks in enumerate(ORDER[name]):
                if step % EVERY.get((name, turn), 1) == 0:
                    our_step(update, networks, rows, index, noise, totals)
            if name in LOG_STD and not as_shipped:
                with torch.no_grad():
                    update.parameters["actor.log_std"].fill_(LOG_STD[name])
    difference = max(
        float((mine - other).abs().max())
        for key, module in modules.items()
        for pair, layers in zip(our_layers(update, key), their_layers(module), strict=True)
        for mine, other in zip(pair, read(layers), strict=True)
    )
    told = {key: float(value) / steps for key, value in totals.items() if key in ("metric/allowed_actions", "metric/effective_share")}
    return difference, max(float((value - start[key]).detach().abs().max()) for key, value in update.parameters.items()), told


@contextmanager
def alike(name: str, theirs: Any, update: Update) -> Iterator[None]:
    """Undoes, or holds still on both sides, what the two write differently."""
    from d3rlpy.algos.qlearning.torch import sac_impl
    from d3rlpy.models.torch.imitators import VAEDecoder
    from d3rlpy.models.torch.policies import CategoricalPolicy, build_gaussian_distribution

    parts = theirs.impl._modules
    with ExitStack() as stack:
        if name in LOG_STD:  # a sigmoid between bounds in d3rlpy (and AWAC's authors' code), clamped to them in ours: held
            low, high = parts.policy._min_logstd, parts.policy._max_logstd
            share = (LOG_STD[name] - low) / (high - low)
            parts.policy._logstd.data.fill_(math.log(share / (1 - share)))
            parts.policy._logstd.requires_grad_(False)
            update.parameters["actor.log_std"].data.fill_(LOG_STD[name])
        if name == "cql":  # d3rlpy's loss of the temperature has exp(log T) where the authors' has log T: held
            parts.temp_optim.optim.param_groups[0]["lr"] = 0.0
        if "autoencoder" in update.networks:  # d3rlpy's decoder ends without the authors' tanh: `with_squash`, its default, leaves it out
            plain = VAEDecoder.forward
            stack.enter_context(mock.patch.object(VAEDecoder, "forward", lambda self, x, z, with_squash: plain(self, x, z, False)))
        if name == "bcq/clamped":
            parts.vae_encoder._min_logstd, parts.vae_encoder._max_logstd = CLAMPED
            stack.enter_context(mock.patch.object(ActionAutoencoder, "LOG_STD", CLAMPED))
        if name == "bcq/discrete":  # torch's Categorical hands d3rlpy log-probabilities; the authors' penalty is on the logits before
            raw = mock.patch.object(CategoricalPolicy, "forward", lambda self, x: SimpleNamespace(logits=self._fc(self._encoder(x))))
            stack.enter_context(raw)
        if name == "awac":  # d3rlpy's target is SAC's, of a tanh-squashed action and less its log-density (temperature 1): the policy's own
            stack.enter_context(mock.patch.object(sac_impl, "build_squashed_gaussian_distribution", build_gaussian_distribution))
            next(parts.log_temp.parameters()).data.fill_(-math.inf)
            for group in parts.actor_optim.optim.param_groups:  # d3rlpy's loss is a batch's sum: Adam's other terms in its measure
                group["eps"] *= BATCH
                group["weight_decay"] *= BATCH
        yield


def our_spec(log: FlatLog) -> Spec:
    """Returns the log's spaces: whole numbers of one dimension are discrete actions."""
    actions = Discrete(int(log.actions.max()) + 1) if log.actions.ndim == 1 else Box(log.actions.shape[1:], (-1.0,), (1.0,))
    return Spec(Box(log.observations.shape[1:]), actions)


def our_step(
    update: Update, networks: Sequence[str], rows: Tensor, index: Tensor, noise: dict[str, Tensor], totals: dict[str, Tensor]
) -> None:
    """Moves these of our networks, or averages, by one step."""
    due = frozenset(networks)
    losses = [name for name in update.networks if name in due]
    update.order = "joint" if losses else "sequential"  # a joint step of no loss at all is none
    update(due, rows, index, noise, totals)


def columns(name: str, log: FlatLog) -> Tensor:
    """Returns the packed rows `[N, width]` as both learners see them."""
    s, s_next, r = log.observations.astype(np.float64), log.next_observations().astype(np.float64), log.rewards.astype(np.float64)
    if name == "td3_bc":
        mean, std = log.observations.mean(0, dtype=np.float64), log.observations.std(0, dtype=np.float64) + 1e-3
        s, s_next = (s - mean) / std, (s_next - mean) / std
    if name == "iql":
        r = r * 1000 / np.ptp(log.returns())
    actions = log.actions.reshape(len(s), -1)
    return torch.from_numpy(np.concatenate([s, actions, r[:, None], log.terminals[:, None], s_next], 1))


def their_batch(rows: Tensor, log: FlatLog) -> Any:
    """Returns the rows as d3rlpy's batch."""
    from d3rlpy.torch_utility import TorchMiniBatch

    o, a = log.observations.shape[1], log.actions[:1].size
    s, action, r, terminal, s_next = rows.split([o, a, 1, 1, o], -1)
    zero = torch.zeros_like(r)
    return TorchMiniBatch(s, action, r, s_next, action, zero, terminal, zero + 1, "cpu:0")


@contextmanager
def numbers(name: str, noise: dict[str, Tensor]) -> Iterator[None]:
    """Lets d3rlpy draw these random numbers instead of its own, in float64."""
    arrays = [noise[key] for key in DRAWS[name]]
    # BCQ's candidates: ours [K, B, Z], theirs [B * K, Z]
    queue = iter([z.transpose(0, 1).reshape(-1, z.shape[-1]) if name.startswith("bcq") and z.ndim == 3 else z for z in arrays])

    def rsample(self: torch.distributions.Normal, shape: Sequence[int] = ()) -> Tensor:
        drawn = self.loc + self.scale * next(queue)
        return drawn.expand(*shape, *self.loc.shape)

    def uniform(self: Tensor, low: float, high: float) -> Tensor:
        return self.copy_((low + (high - low) * noise["random"]).transpose(0, 1).reshape(self.shape))

    with (
        mock.patch.object(torch.distributions.Normal, "rsample", rsample),
        mock.patch.object(Tensor, "uniform_", uniform),
        mock.patch.object(torch, "randn", side_effect=queue),
    ):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def our_layers(update: Update, network: str) -> list[tuple[Tensor, Tensor]]:
    """Returns (weight, bias) layer by layer, an ensemble's members one after another, as `[inputs, outputs]` and `[outputs]`."""
    network = network if "." in network else f"{network}.mlp"
    count = sum(name.startswith(f"{network}.layers.") for name in update.parameters) // 2
    layers = [[update.parameters[f"{network}.layers.{i}.{part}"].detach() for part in ("weight", "bias")] for i in range(count)]
    if layers[0][0].ndim == 2:
        return [(weight, bias) for weight, bias in layers]
    return [(weight[e], bias[e, 0]) for e in range(len(layers[0][0])) for weight, bias in layers]


def their_layers(module: nn.Module) -> list[list[nn.Linear]]:
    """Returns the linear layers in the same order; a policy's two heads, of mean and deviation, are one layer of ours."""
    members = list(module) if isinstance(module, nn.ModuleList) else [module]
    found: list[list[nn.Linear]] = []
    for member in members:
        hidden = [[layer] for layer in member._encoder.modules() if isinstance(layer, nn.Linear)]
        heads = [getattr(member, name) for name in ("_mu", "_logstd", "_fc") if isinstance(getattr(member, name, None), nn.Linear)]
        found += [*hidden, heads]
    return found


def read(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Returns their heads side by side as our weight and bias."""
    return torch.cat([layer.weight.detach().T for layer in layers], 1), torch.cat([layer.bias.detach() for layer in layers])


def write(ours: tuple[Tensor, Tensor], layers: Sequence[nn.Linear]) -> None:
    """Copies our weight and bias into their layers."""
    sizes = [layer.out_features for layer in layers]
    for layer, weight, bias in zip(layers, ours[0].split(sizes, 1), ours[1].split(sizes), strict=True):
        layer.weight.data.copy_(weight.T)
        layer.bias.data.copy_(bias)


if __name__ == "__main__":
    main()
