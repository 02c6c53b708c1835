"""Score of our TD3+BC, IQL, CQL, BCQ or AWAC on one flat log, all seeds in one process, as lines of the raw file beside the peers'.

`OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/ours_control.py td3_bc ../shared/data/logs/halfcheetah-medium-replay.npz
--environment HalfCheetah-v5 --seeds 0 1 2 --steps 20000`
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.scores.control_record import append_row, evaluate_episodes, is_recorded
from stitchrl import __version__
from stitchrl.agent import Agent
from stitchrl.core.records import Logging
from stitchrl.core.settings import to_json
from stitchrl.core.spec import Spec
from stitchrl.data.sources import read
from stitchrl.environments.make import make, spec_of
from stitchrl.experiment import Preprocessing, plan, run_experiment
from stitchrl.nn import autoencoder
from stitchrl.training.learner import Training

SETTINGS = {
    "td3_bc": {"alpha": 2.5},
    "iql": {"expectile": 0.7, "inverse_temperature": 3.0},
    "cql": {
        "conservatism": 5.0,
        "mean_backup": True,  # d3rlpy values the next state by the mean action, the paper's code by a sampled one: here as there
        "sampled_actions": 10,
        "actor_learning_rate": 1e-4,
        "critic_learning_rate": 3e-4,
        "temperature_learning_rate": 1e-4,
    },
    # d3rlpy has one number of candidates, for the target and for acting
    "bcq": {"autoencoder_hidden": (256, 256), "sampled_actions": 10, "acting_candidates": 10},
    "awac": {"temperature": 1.0, "actor_weight_decay": 1e-4},
}
# a fifth of this log's actions lie outside the environment's [-1, 1], which clips them; d3rlpy learns from them as they are, so we do here
PREPROCESSING = {
    "td3_bc": Preprocessing(standardize_observations=True, actions_outside="keep"),
    "iql": Preprocessing(return_range=1000.0, actions_outside="keep"),
    "cql": Preprocessing(actions_outside="keep"),
    "bcq": Preprocessing(actions_outside="keep"),
    "awac": Preprocessing(actions_outside="keep"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=sorted(SETTINGS))
    parser.add_argument("data", type=Path)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--order", choices=("joint", "sequential"), default="joint")
    parser.add_argument("--actor-schedule", choices=("cosine", "constant"), default="cosine", help="iql only")
    parser.add_argument(
        "--decoder-tanh", action=argparse.BooleanOptionalAction, default=True, help="bcq only; d3rlpy's decoder ends without it"
    )
    parser.add_argument("--raw", type=Path, default=Path("benchmarks/scores/raw/control.jsonl"))
    a = parser.parse_args()
    schedule = {"actor_schedule": a.actor_schedule} if a.algorithm == "iql" else {}
    made = plan(
        a.algorithm,
        settings=SETTINGS[a.algorithm] | schedule | {"hidden": (256, 256)},
        seeds=a.seeds,
        training=Training(steps=a.steps, threads=1, compile=a.compile, order=a.order, log_every=1000, save_every=5000),
        preprocessing=PREPROCESSING[a.algorithm],
    )
    settings = to_json(made.settings) | {"preprocessing": to_json(made.preprocessing), "environment": a.environment, "order": a.order}
    if not a.decoder_tanh:
        settings["decoder_tanh"] = False
        autoencoder.Decoder.forward = lambda self, s, z: self.mlp(s, z)  # type: ignore[method-assign]
    identity = {
        "library": "stitchrl",
        "version": __version__,
        "algorithm": a.algorithm,
        "data": a.data.stem,
        "steps": a.steps,
        "settings": settings,
    }
    if all(is_recorded(a.raw, identity | {"seed": seed}) for seed in a.seeds):
        print("already recorded")
        return
    began, processor = time.perf_counter(), time.process_time()
    kind = f"{a.algorithm}-{a.order}-{a.actor_schedule}{'' if a.decoder_tanh else '-no-tanh'}"
    path = Path("runs") / f"control-{kind}-{a.data.stem}-{'-'.join(map(str, a.seeds))}"
    resume = (path / "config.json").exists()
    result = run_experiment(
        made,
        read(a.data, spec=environment_spec(a.environment)),
        path=path,
        source=str(a.data),
        logging=Logging(tensorboard=False),
        resume=resume,
        show=print,
    )
    if result.signal is not None:
        sys.exit(128 + result.signal)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    for seed in a.seeds:
        agent = result.agent.of_seed(seed)
        returns = evaluate_episodes(lambda x, agent=agent: act(agent, x), a.environment, seed)
        row = identity | {"seed": seed, "returns": returns, "seconds": round(seconds / len(a.seeds), 1)}
        row |= {"processor_seconds": round(processor / len(a.seeds), 1), "threads": 1, "seeds_at_once": len(a.seeds)}
        row |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv)}
        append_row(a.raw, row)
        print(seed, np.mean(returns))


def environment_spec(environment: str) -> Spec:
    """Returns the environment's spaces, which the file does not tell."""
    opened = make(environment)
    spec = spec_of(opened)
    opened.close()
    return spec


def act(agent: Agent, observation: np.ndarray) -> np.ndarray:
    """Returns the action for one observation, by the mode or mean unless its paper draws it."""
    return np.clip(agent.predict(observation[None], sampled=agent.policy.drawn)[0], -1, 1)


if __name__ == "__main__":
    main()
