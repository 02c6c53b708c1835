"""Are our updates OGBench's? Same weights and batches, in float64: how far apart are the networks after some steps?

`PYTHONPATH=src OMP_NUM_THREADS=1 /tmp/peers-jax/bin/python benchmarks/scores/peers/ogbench_parity.py /tmp/ogbench/impls pointmaze/stitch`

Prints one line a method: the largest difference of any parameter over the largest movement of any parameter. OGBench's sampler draws the
batches of both. What the two write differently is undone on one side, as told at `alike`, so that all the rest can be compared to rounding.
benchmarks/scores/GOALS.md tells what it found.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from ogbench_goals import METHODS, columns, settings
from torch import Tensor

from stitchrl import load
from stitchrl.algorithms import find
from stitchrl.core.algorithm import build
from stitchrl.core.goals import Goals, HindsightTransitions, with_goal
from stitchrl.recipes import published
from stitchrl.training.update import Update

RAW = Path(__file__).resolve().parents[1] / "raw" / "parity_ogbench.json"
WIDTH, LATENT = 64, 64
# Our networks, by the names of their parameters, and theirs: the module, its part (None: the module is the network, two: hidden layers and head).
_VALUES = {"value.mlp": ("value", "value_net"), "target_value.mlp": ("target_value", "value_net"), "actor.mlp": ("actor", None)}
NETWORKS: dict[str, dict[str, tuple[str, str | None]]] = {
    "gcbc": {"actor.mlp": ("actor", None)},
    "gcivl": _VALUES,
    "gciql": {
        "value.mlp": ("value", "value_net"), "critic.mlp": ("critic", "value_net"), "target_critic.mlp": ("target_critic", "value_net"),
        "actor.mlp": ("actor", None),
    },
    "qrl": {"quasimetric.encoder": ("value", "phi"), "quasimetric.change": ("dynamics", ""), "actor.mlp": ("actor", None)},
    "crl": {"critic.phi": ("critic", "phi"), "critic.psi": ("critic", "psi"), "actor.mlp": ("actor", None)},
    "hiql": {
        "value.representation": ("goal_rep", "layers_0"), "value.value.mlp": ("value", "value_net"),
        "target_value.value.mlp": ("target_value", "value_net"), "high_actor.mlp": ("high_actor", None), "low_actor.mlp": ("low_actor", None),
    },
}  # fmt: skip
SCALARS = {"qrl": {"quasimetric.distance.mix": ("value", "alpha", "value"), "multiplier.value": ("lam", "log_value")}}
TARGETS = {"gcivl": "value", "gciql": "critic", "hiql": "value"}
# A row of our batch: what theirs is called, in our order.
ROWS = ("observations", "next_observations", "value_goals", "actor_goals")
SUBGOAL_ROWS = ("observations", "next_observations", "value_goals", "high_actor_goals", "low_actor_goals", "high_actor_targets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("impls", type=Path, help="the folder impls of a checkout of OGBench")
    parser.add_argument("log")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--as-shipped", action="store_true", help="undo no difference")
    a = parser.parse_args()
    sys.path.insert(0, str(a.impls))
    import jax

    jax.config.update("jax_enable_x64", True)  # before anything is made
    found = {method: compare(method, a) for method in a.only}
    for method, row in found.items():
        print(f"{method:6} {row['difference']:.1e} over {row['movement']:.1e} after {a.steps} steps, most of {row['of']}", flush=True)
    if tuple(a.only) == METHODS and not a.as_shipped:
        versions = {name: version(name) for name in ("stitchrl", "torch", "jax", "flax", "optax", "distrax")}
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        told = {"log": a.log, "steps": a.steps, "methods": found, "versions": versions, "date": date, "command": " ".join(sys.argv)}
        RAW.write_text(json.dumps(told, indent=1) + "\n")


def compare(method: str, a: argparse.Namespace) -> dict[str, Any]:
    """Takes the same updates on both sides, from their first weights."""
    import jax

    log = load(a.log)
    rate = 0.05
    told = SimpleNamespace(log=a.log, width=WIDTH, layers=2, batch_size=256, target_rate=rate, latent=LATENT)
    made = settings(method, told)
    agents, datasets = importlib.import_module("agents"), importlib.import_module("utils.datasets")
    np.random.seed(0)  # noqa: NPY002 (what its datasets draw from)
    data = getattr(datasets, made["dataset_class"])(datasets.Dataset.create(**columns(log)), made)
    agent = agents.agents[method].create(0, data.dataset["observations"][:1], data.dataset["actions"][:1], made)
    network = agent.network
    weights = jax.tree_util.tree_map(lambda x: np.asarray(x, np.float64), network.params)
    agent = agent.replace(network=network.replace(params=weights, opt_state=network.tx.init(weights)))
    update = ours(method, log, rate)
    for name, value in theirs(method, agent).items():
        update.parameters[name].data.copy_(value)
    first = {name: value.clone() for name, value in theirs(method, agent).items()}
    due = update.due(0)
    with alike(a.as_shipped):
        for step in range(a.steps):
            batch = data.sample(256)
            before = agent.network.params
            agent, _ = agent.update({name: np.asarray(values, np.float64) for name, values in batch.items()})
            table, index = packed(method, batch)
            if step == 0:
                totals = {name: torch.zeros(1) for name in update.evaluate(due, table, index, {})}
                if method == "hiql" and not a.as_shipped:
                    follow(update)
            update(due, table, index, {}, totals)
            if not a.as_shipped:
                if method in TARGETS:
                    average(agent, before, TARGETS[method], rate)
                if method == "hiql":
                    follow(update)
    last = theirs(method, agent)
    apart = {name: float((update.parameters[name].detach() - value).abs().max()) for name, value in last.items()}
    worst = max(apart, key=lambda name: apart[name])
    moved = max(float((value - first[name]).abs().max()) for name, value in last.items())
    return {"difference": apart[worst], "movement": moved, "ratio": apart[worst] / moved, "of": worst}


@contextmanager
def alike(as_shipped: bool) -> Iterator[None]:
    """Undoes, unless asked not to, what can be undone for all: the 1e-5 in our layer norm (PyTorch's), 1e-6 in theirs (Flax's)."""
    plain = torch.nn.functional.layer_norm
    if as_shipped:
        yield
        return
    with mock.patch("torch.nn.functional.layer_norm", lambda x, shape, *rest, **more: plain(x, shape, *rest, **more | {"eps": 1e-6})):
        yield


def average(agent: Any, before: Mapping[str, Any], name: str, rate: float) -> None:
    """Alike: takes their target networks' average again, towards the weights after the step as ours; theirs goes towards those before it."""
    import jax

    parts = agent.network.params[f"modules_{name}"], before[f"modules_target_{name}"]
    agent.network.params[f"modules_target_{name}"] = jax.tree_util.tree_map(lambda new, old: new * rate + old * (1 - rate), *parts)


def follow(update: Update) -> None:
    """Alike: our averaged value reads goals through the representation of now, as HIQL's does in OGBench; ours has one of its own, averaged too."""
    for name, value in update.parameters.items():
        if name.startswith("target_value.representation."):
            value.data.copy_(update.parameters[name.removeprefix("target_")].detach())


def ours(method: str, log: Any, rate: float) -> Update:
    """Returns our learner of one seed, of the settings that OGBench's side has."""
    recipe = published.recipe(f"{method}:{log.metadata['name']}")
    kind, config = find(recipe.algorithm)
    known = config.__dataclass_fields__
    sizes = {"hidden": (WIDTH, WIDTH), "target_rate": rate, "latent": LATENT}
    algorithm = build(kind, config(**dict(recipe.settings) | {k: v for k, v in sizes.items() if k in known}), with_goal(log.spec), 0)
    if not isinstance(algorithm.batch, Goals):
        algorithm.batch = HindsightTransitions()
    return Update([algorithm], steps=1_000_000, order="joint", device=torch.device("cpu"), dtype=torch.float64)


def theirs(method: str, agent: Any) -> dict[str, Tensor]:
    """Returns their weights by the names and in the shapes of ours."""
    params, found = agent.network.params, {}
    for name, (module, part) in NETWORKS[method].items():
        tree = params[f"modules_{module}"]
        hidden = tree["actor_net"] if part is None else tree[part] if part else tree
        layers = [hidden[f"Dense_{i}"] for i in range(sum(key.startswith("Dense_") for key in hidden))]
        layers += [tree["mean_net"]] if part is None else []
        for i, layer in enumerate(layers):
            found[f"{name}.layers.{i}.weight"] = tensor(layer["kernel"])
            found[f"{name}.layers.{i}.bias"] = beside(tensor(layer["bias"]), tensor(layer["kernel"]))
        for i in range(sum(key.startswith("LayerNorm_") for key in hidden)):
            norm = hidden[f"LayerNorm_{i}"]
            for mine, named in (("weight", "scale"), ("bias", "bias")):
                found[f"{name}.norms.{i}.{mine}"] = beside(tensor(norm[named]), tensor(layers[i]["kernel"]))
    for name, (module, *path) in SCALARS.get(method, {}).items():
        value = params[f"modules_{module}"]
        for key in path:
            value = value[key]
        found[name] = tensor(value).reshape(1)
    return found


def tensor(x: Any) -> Tensor:
    return torch.from_numpy(np.array(x, np.float64))


def beside(x: Tensor, kernel: Tensor) -> Tensor:
    """Returns a vector of an ensemble, `[E, n]`, as ours has it: `[E, 1, n]`."""
    return x.unsqueeze(1) if kernel.ndim == 3 else x


def packed(method: str, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns their batch as a table of our rows, a state and what was done there, and which of them each step reads `[B, R]`."""
    names, actions = SUBGOAL_ROWS if method == "hiql" else ROWS, np.asarray(batch["actions"])
    rows = [np.concatenate([batch[name], actions if name == "observations" else np.zeros_like(actions)], 1) for name in names]
    count = len(actions)
    return tensor(np.concatenate(rows)), torch.arange(count * len(names)).view(len(names), count).T.contiguous()


if __name__ == "__main__":
    main()
