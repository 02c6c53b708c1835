"""Score of d3rlpy's TD3+BC (arXiv:2106.06860), IQL (2110.06169), CQL (2006.04779), BCQ (1812.02900) or AWAC (2006.09359) on one flat log.

It becomes one line of the raw file.

Runs in the peers' own environment (benchmarks/scores/peers/README.md), for example:
`OMP_NUM_THREADS=1 /tmp/peers/bin/python benchmarks/scores/peers/d3rlpy_scores.py td3_bc ../shared/data/logs/halfcheetah-medium-replay.npz
--environment HalfCheetah-v5 --seed 0 --steps 20000`
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from control_record import FlatLog, append_row, evaluate_episodes, is_recorded, read_flat_log

ALGORITHMS = ("td3_bc", "iql", "cql", "bcq", "awac")
STEPS_PER_EPOCH = 1000  # d3rlpy averages its losses over the epoch so far every ten steps, so a long epoch slows it down
SHARED = {"batch_size": 256, "gamma": 0.99, "tau": 0.005, "n_critics": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "td3_bc": {
        "actor_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "alpha": 2.5,
        "target_smoothing_sigma": 0.2,
        "target_smoothing_clip": 0.5,
        "update_actor_interval": 2,
    },
    "iql": {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "expectile": 0.7, "weight_temp": 3.0, "max_weight": 100.0},
    "cql": {
        "actor_learning_rate": 1e-4,
        "critic_learning_rate": 3e-4,
        "temp_learning_rate": 1e-4,
        "alpha_learning_rate": 0.0,  # with initial_alpha 1 the weight stays at conservative_weight
        "initial_alpha": 1.0,
        "initial_temperature": 1.0,
        "conservative_weight": 5.0,
        "n_action_samples": 10,
        "soft_q_backup": False,
        "max_q_backup": False,
    },
    "bcq": {
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "imitator_learning_rate": 1e-3,
        "lam": 0.75,
        "n_action_samples": 10,  # one number for the target and for acting; the authors take 10 and 100
        "action_flexibility": 0.05,
        "beta": 0.5,
    },
    "awac": {
        "actor_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "lam": 1.0,
        "n_action_samples": 1,
        "actor_weight_decay": 1e-4,  # Adam's own, added to the gradient: the authors' and d3rlpy's reproduction
    },
    # of the comparison of updates alone (d3rlpy_parity.py), which takes a threshold and an interval at which much happens in few steps
    "discrete_bcq": {
        "learning_rate": 3e-4,
        "action_flexibility": 0.8,
        "beta": 0.01,
        "target_update_interval": 10,
        "share_encoder": False,
    },
}
PREPROCESSING = {"td3_bc": "observations (x - mean) / (std + 1e-3)", "iql": "rewards * 1000 / (max return - min return)", "cql": "none"}
PREPROCESSING |= {"bcq": "none", "awac": "none"}


def build_buffer(log: FlatLog) -> Any:
    """Returns a d3rlpy buffer with exactly the log's N transitions.

    d3rlpy drops the last step of an episode that did not terminate, as it cannot know what followed. Such an episode gets its final
    observation as one further row; d3rlpy reads that row's observation only, never its action or reward.
    """
    import d3rlpy

    episodes = []
    for number, (start, stop) in enumerate(log.bounds()):
        terminated = bool(log.terminals[stop - 1])
        observations, actions, rewards = log.observations[start:stop], log.actions[start:stop], log.rewards[start:stop, None]
        if not terminated:
            observations = np.concatenate([observations, log.final_observations[number : number + 1]])
            actions = np.concatenate([actions, np.zeros_like(actions[:1])])
            rewards = np.concatenate([rewards, np.zeros_like(rewards[:1])])
        episodes.append(d3rlpy.dataset.Episode(observations, actions, rewards, terminated))
    return d3rlpy.dataset.create_infinite_replay_buffer(episodes)


def check_alignment(log: FlatLog, buffer: Any) -> None:
    """Returns nothing; raises ValueError unless every transition d3rlpy can draw is the log's row of the same number."""
    if buffer.transition_count != len(log.rewards):
        raise ValueError(f"d3rlpy holds {buffer.transition_count} transitions, the log {len(log.rewards)}")
    following = log.next_observations()
    for row in range(buffer.transition_count):
        step = buffer.transition_picker(*buffer.buffer[row])
        same = np.array_equal(step.observation, log.observations[row]) and np.array_equal(step.action, log.actions[row])
        same = same and step.reward[0] == log.rewards[row] and bool(step.terminal) == bool(log.terminals[row])
        if not same or not (log.terminals[row] or np.array_equal(step.next_observation, following[row])):
            raise ValueError(f"d3rlpy's transition {row} is not the log's row {row}")


def build_learner(algorithm: str, log: FlatLog) -> Any:
    """Returns d3rlpy's own learner with the settings above and two hidden layers of 256 everywhere."""
    import d3rlpy
    from d3rlpy.algos import AWACConfig, BCQConfig, CQLConfig, DiscreteBCQConfig, IQLConfig, TD3PlusBCConfig
    from d3rlpy.optimizers import AdamFactory
    from d3rlpy.preprocessing import ReturnBasedRewardScaler, StandardObservationScaler

    hidden = d3rlpy.models.encoders.VectorEncoderFactory([256, 256])
    if algorithm == "discrete_bcq":
        settings = {**SETTINGS[algorithm], "batch_size": SHARED["batch_size"], "gamma": SHARED["gamma"], "n_critics": 1}
        return DiscreteBCQConfig(**settings, encoder_factory=hidden).create(device="cpu:0")
    common = {**SHARED, **SETTINGS[algorithm], "actor_encoder_factory": hidden, "critic_encoder_factory": hidden}
    if algorithm == "td3_bc":
        mean, std = log.observations.mean(0, dtype=np.float64), log.observations.std(0, dtype=np.float64)
        scaler = StandardObservationScaler(mean=mean.astype(np.float32), std=std.astype(np.float32), eps=1e-3)
        return TD3PlusBCConfig(**common, observation_scaler=scaler).create(device="cpu:0")
    if algorithm == "iql":
        returns = log.returns()
        rewards = ReturnBasedRewardScaler(return_max=float(returns.max()), return_min=float(returns.min()), multiplier=1000.0)
        return IQLConfig(**common, value_encoder_factory=hidden, reward_scaler=rewards).create(device="cpu:0")
    if algorithm == "bcq":
        return BCQConfig(**common, imitator_encoder_factory=hidden).create(device="cpu:0")
    if algorithm == "awac":
        decayed = AdamFactory(weight_decay=common.pop("actor_weight_decay"))
        return AWACConfig(**common, actor_optim_factory=decayed).create(device="cpu:0")
    return CQLConfig(**common).create(device="cpu:0")


def train_and_evaluate(algorithm: str, log: FlatLog, environment: str, seed: int, steps: int, episodes: int) -> dict[str, Any]:
    """Returns the last, deterministic policy's returns, and the wall-clock and processor seconds of its training."""
    import d3rlpy

    d3rlpy.seed(seed)
    buffer = build_buffer(log)
    check_alignment(log, buffer)
    learner = build_learner(algorithm, log)
    started, processor = time.perf_counter(), time.process_time()
    learner.fit(
        buffer,
        n_steps=steps,
        n_steps_per_epoch=min(STEPS_PER_EPOCH, steps),
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    trained, processor = time.perf_counter(), time.process_time() - processor

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        action: NDArray[np.float32] = learner.predict(observation[None])[0]
        return action

    returns = evaluate_episodes(act, environment, seed, episodes)
    return {"returns": returns, "seconds": round(trained - started, 2), "processor_seconds": round(processor, 2)}


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's values; exits if the number of steps is not whole epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=ALGORITHMS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "raw" / "control.jsonl")
    arguments = parser.parse_args()
    if arguments.steps > STEPS_PER_EPOCH and arguments.steps % STEPS_PER_EPOCH:
        parser.error(f"--steps {arguments.steps}: d3rlpy trains whole epochs, give a multiple of {STEPS_PER_EPOCH}")
    return arguments


def main() -> None:
    """Returns nothing; appends one row unless the raw file has it."""
    import d3rlpy
    import gymnasium
    import torch

    arguments = parse_arguments()
    torch.set_num_threads(1)
    settings = {
        **SHARED,
        **SETTINGS[arguments.algorithm],
        "hidden": [256, 256],
        "preprocessing": PREPROCESSING[arguments.algorithm],
        "environment": arguments.environment,
        "evaluation": f"last policy, deterministic, {arguments.episodes} consecutive episodes, first reset seeded 1000 + seed",
    }
    row: dict[str, Any] = {
        "library": "d3rlpy",
        "version": d3rlpy.__version__,
        "algorithm": arguments.algorithm,
        "data": arguments.data.stem,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "settings": settings,
    }
    if is_recorded(arguments.output, row):
        print(f"already recorded: d3rlpy {arguments.algorithm} {arguments.data.stem} seed {arguments.seed} {arguments.steps} steps")
        return
    log = read_flat_log(arguments.data)
    row |= train_and_evaluate(arguments.algorithm, log, arguments.environment, arguments.seed, arguments.steps, arguments.episodes)
    row |= {"threads": torch.get_num_threads(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    row |= {"command": " ".join(sys.argv), "torch": torch.__version__, "gymnasium": gymnasium.__version__}
    append_row(arguments.output, row)
    print(f"{arguments.algorithm} seed {arguments.seed}: mean return {np.mean(row['returns']):.1f}, {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
