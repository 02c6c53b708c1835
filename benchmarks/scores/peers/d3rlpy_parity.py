"""Are our updates d3rlpy's? Same weights, batches and random numbers, in float64: how far apart are the networks after some steps?

`PYTHONPATH=src:benchmarks/scores OMP_NUM_THREADS=1 /tmp/peers/bin/python benchmarks/scores/peers/d3rlpy_parity.py
../shared/data/logs/halfcheetah-medium-replay.npz`

Prints one line an algorithm: the largest difference of any parameter over the largest movement of any parameter. d3rlpy's order (critic,
actor, targets) and its mean action in CQL's backup are used on both sides. Two things are written differently and held still, so that
all the rest can be compared to rounding: the temperature (d3rlpy's loss has exp(log T) where the authors' has log T) and IQL's
deviation (a sigmoid between its bounds in d3rlpy, clamped to them in the authors' code and ours).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from control_record import FlatLog, read_flat_log
from d3rlpy_scores import build_learner
from torch import Tensor, nn

from stitchrl import algorithms
from stitchrl.core.algorithm import build
from stitchrl.core.spec import Box, Spec
from stitchrl.training.update import Update

BATCH = 256
SETTINGS: dict[str, dict[str, Any]] = {
    "td3_bc": {"hidden": (256, 256)},
    "iql": {"hidden": (256, 256), "actor_schedule": "constant"},
    "cql": {"hidden": (256, 256), "mean_backup": True},
}
# our networks and theirs
NETWORKS = {
    "td3_bc": {"actor": "policy", "target_actor": "targ_policy", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    "iql": {"actor": "policy", "value": "value_func", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    "cql": {"actor": "policy", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
}
# which of ours move together in one of d3rlpy's steps, in its order; TD3+BC's last two every second step
ORDER = {
    "td3_bc": (("critic",), ("actor",), ("target_critic", "target_actor")),
    "iql": (("value", "critic"), ("actor",), ("target_critic",)),
    "cql": (("critic",), ("actor",), ("target_critic",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--raw", type=Path, default=Path(__file__).resolve().parents[1] / "raw" / "parity.json")
    a = parser.parse_args()
    torch.set_num_threads(1)
    log = read_flat_log(a.data)
    found: dict[str, Any] = {"data": a.data.stem, "steps": a.steps, "torch": torch.__version__, "d3rlpy": version("d3rlpy")}
    found |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv), "algorithms": {}}
    for name in SETTINGS:
        difference, movement = compare(name, log, a.steps)
        found["algorithms"][name] = {"difference": difference, "movement": movement, "settings": SETTINGS[name]}
        print(f"{name}: after {a.steps} steps the networks differ by {difference:.1e} and have moved by {movement:.1e}", flush=True)
    a.raw.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def compare(name: str, log: FlatLog, steps: int) -> tuple[float, float]:
    """Returns the largest difference of any parameter, and the largest movement of any, after `steps` common updates."""
    spec = Spec(Box(log.observations.shape[1:]), Box(log.actions.shape[1:], (-1.0,), (1.0,)))
    algorithm, config = algorithms.find(name)
    ours = build(algorithm, config(**SETTINGS[name]), spec, 0)
    update = Update([ours], steps=steps, order="joint", device=torch.device("cpu"), dtype=torch.float64)
    theirs = build_learner(name, log)
    theirs.create_impl(log.observations.shape[1:], log.actions.shape[1])
    modules = {key: getattr(theirs.impl._modules, attribute) for key, attribute in NETWORKS[name].items()}
    for key, module in modules.items():
        module.double()
        for mine, layers in zip(our_layers(update, key), their_layers(module), strict=True):
            write(mine, layers)
    if name == "iql":
        policy = theirs.impl._modules.policy
        policy._logstd.data.fill_(math.log(5 / 2))  # a deviation of 1
        policy._logstd.requires_grad_(False)
    if name == "cql":
        theirs.impl._modules.temp_optim.optim.param_groups[0]["lr"] = 0.0
    start = {key: value.detach().clone() for key, value in update.parameters.items()}

    rows = columns(name, log)
    rng = np.random.default_rng(0)
    for step in range(1, steps + 1):
        index = torch.from_numpy(rng.integers(0, len(rows), BATCH))
        generator = torch.Generator().manual_seed(step)
        noise = {key: z.draw(1, generator, torch.float64)[0] for key, z in ours.noise(BATCH).items()}
        with numbers(name, noise):
            theirs.impl.inner_update(their_batch(rows[index], log), step)
        for turn, networks in enumerate(ORDER[name]):
            if name != "td3_bc" or turn == 0 or step % 2 == 0:
                our_step(update, networks, rows, index, noise)
        if name == "iql":
            with torch.no_grad():
                update.parameters["actor.log_std"].zero_()
    difference = max(
        float((mine - other).abs().max())
        for key, module in modules.items()
        for pair, layers in zip(our_layers(update, key), their_layers(module), strict=True)
        for mine, other in zip(pair, read(layers), strict=True)
    )
    return difference, max(float((value - start[key]).abs().max()) for key, value in update.parameters.items())


def our_step(update: Update, networks: Sequence[str], rows: Tensor, index: Tensor, noise: dict[str, Tensor]) -> None:
    """Moves these of our networks, or averages, by one step."""
    due = frozenset(networks)
    losses = [name for name in update.networks if name in due]
    update.order = "joint" if losses else "sequential"  # a joint step of no loss at all is none
    update(due, rows, index, noise, defaultdict(lambda: torch.zeros(())))


def columns(name: str, log: FlatLog) -> Tensor:
    """Returns the packed rows `[N, width]` as both learners see them."""
    s, s_next, r = log.observations.astype(np.float64), log.next_observations().astype(np.float64), log.rewards.astype(np.float64)
    if name == "td3_bc":
        mean, std = log.observations.mean(0, dtype=np.float64), log.observations.std(0, dtype=np.float64) + 1e-3
        s, s_next = (s - mean) / std, (s_next - mean) / std
    if name == "iql":
        r = r * 1000 / np.ptp(log.returns())
    return torch.from_numpy(np.concatenate([s, log.actions, r[:, None], log.terminals[:, None], s_next], 1))


def their_batch(rows: Tensor, log: FlatLog) -> Any:
    """Returns the rows as d3rlpy's batch."""
    from d3rlpy.torch_utility import TorchMiniBatch

    o, a = log.observations.shape[1], log.actions.shape[1]
    s, action, r, terminal, s_next = rows.split([o, a, 1, 1, o], -1)
    zero = torch.zeros_like(r)
    return TorchMiniBatch(s, action, r, s_next, action, zero, terminal, zero + 1, "cpu:0")


@contextmanager
def numbers(name: str, noise: dict[str, Tensor]) -> Iterator[None]:
    """Lets d3rlpy draw these random numbers instead of its own, in float64."""
    draws = {"td3_bc": ["policy"], "cql": ["at_s", "at_s_next", "action"], "iql": []}[name]
    queue = iter(noise[key] for key in draws)

    def rsample(self: torch.distributions.Normal, shape: Sequence[int] = ()) -> Tensor:
        return self.loc + self.scale * next(queue)

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
    count = sum(name.startswith(f"{network}.mlp.layers.") for name in update.parameters) // 2
    layers = [[update.parameters[f"{network}.mlp.layers.{i}.{part}"].detach() for part in ("weight", "bias")] for i in range(count)]
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
