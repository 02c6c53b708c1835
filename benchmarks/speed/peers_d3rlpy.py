"""Speed of d3rlpy's learners, served line by line, so that a driver in another environment can interleave windows with ours.

Started in the peers' environment: `python peers_d3rlpy.py [--transitions 1000000] [--threads 1] [--cql-hidden-layers 2]`. It reads
commands from stdin and answers each with one JSON line on stdout (everything else goes to stderr):

    ready                 {"library", "version", "torch", "transitions", "threads", "algorithms"}
    steps ALGORITHM N     {"algorithm", "steps", "hidden", "seconds"}: N gradient steps, sampling included; the learner and its data are
                          built before the clock starts, so the first window of an algorithm is a warm-up to be thrown away
    ingest PATH           {"seconds", "added_megabytes", "peak_added_megabytes", "transitions"}: a flat npz file into d3rlpy's buffer, in
                          a fresh process, imports not counted, resident memory before and after
    quit                  {} (as does the end of stdin)

A command that is wrong, or a file that cannot be read, is answered with {"error": text} and the process goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from synthetic_transitions import ACTIONS, OBSERVATIONS, synthetic_choices, synthetic_columns

BATCH = 256
ALGORITHMS = ("bc", "td3_bc", "iql", "cql", "discrete_cql")
Reply = dict[str, Any]


def build_buffer(transitions: int, discrete: bool) -> Any:
    """Returns d3rlpy's own buffer over the synthetic columns."""
    import d3rlpy

    columns = synthetic_columns(transitions)
    if discrete:
        columns["actions"] = synthetic_choices(transitions)
    return d3rlpy.dataset.MDPDataset(**columns, action_size=ACTIONS)


def build_learner(algorithm: str, hidden: list[int]) -> Any:
    """Returns d3rlpy's learner with networks built: batch 256, ReLU, no layer norm, no scalers, otherwise its usual settings."""
    import d3rlpy
    from d3rlpy.algos import BCConfig, CQLConfig, DiscreteCQLConfig, IQLConfig, TD3PlusBCConfig

    encoder = d3rlpy.models.encoders.VectorEncoderFactory(hidden)
    both: dict[str, Any] = {"batch_size": BATCH, "actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    configs: dict[str, Callable[[], Any]] = {
        "bc": lambda: BCConfig(batch_size=BATCH, learning_rate=3e-4, encoder_factory=encoder),
        "td3_bc": lambda: TD3PlusBCConfig(**both),
        "iql": lambda: IQLConfig(**both, value_encoder_factory=encoder),
        "cql": lambda: CQLConfig(**both, alpha_learning_rate=0.0, conservative_weight=5.0, n_action_samples=10),
        "discrete_cql": lambda: DiscreteCQLConfig(batch_size=BATCH, learning_rate=3e-4, encoder_factory=encoder),
    }
    learner = configs[algorithm]().create(device="cpu:0")
    learner.create_impl((OBSERVATIONS,), ACTIONS)
    return learner


class Learners:
    """The learners asked for so far and the two buffers they draw from, each built at first use."""

    def __init__(self, transitions: int, cql_hidden_layers: int) -> None:
        self._transitions = transitions
        self._hidden = {name: [256] * (cql_hidden_layers if name == "cql" else 2) for name in ALGORITHMS}
        self._buffers: dict[bool, Any] = {}
        self._learners: dict[str, Any] = {}

    def steps(self, algorithm: str, count: int) -> Reply:
        """Returns the seconds of `count` gradient steps with their sampling; raises ValueError for an unknown algorithm or no steps."""
        if algorithm not in ALGORITHMS or count <= 0:
            raise ValueError(f"found: steps {algorithm} {count}; expected one of {', '.join(ALGORITHMS)} and a positive number")
        discrete = algorithm == "discrete_cql"
        if discrete not in self._buffers:
            self._buffers[discrete] = build_buffer(self._transitions, discrete)
        if algorithm not in self._learners:
            self._learners[algorithm] = build_learner(algorithm, self._hidden[algorithm])
        buffer, learner = self._buffers[discrete], self._learners[algorithm]
        started = time.perf_counter()
        for _ in range(count):
            learner.update(buffer.sample_transition_batch(BATCH))
        seconds = time.perf_counter() - started
        return {"algorithm": algorithm, "steps": count, "hidden": self._hidden[algorithm], "seconds": seconds}


def resident_megabytes(field: str) -> float:
    """Returns this process's VmRSS (now) or VmHWM (highest so far) in megabytes of 1e6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"/proc/self/status has no {field}")


def ingest_here(path: Path) -> Reply:
    """Returns the seconds and the added resident memory of reading a flat npz file into d3rlpy's buffer in this process."""
    import d3rlpy
    import numpy as np

    before = resident_megabytes("VmRSS")
    started = time.perf_counter()
    with np.load(path, allow_pickle=False) as columns:
        arrays = {name: columns[name] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    dataset = d3rlpy.dataset.MDPDataset(**arrays)
    seconds = time.perf_counter() - started
    del arrays
    added, peak = resident_megabytes("VmRSS") - before, resident_megabytes("VmHWM") - before
    return {"seconds": seconds, "added_megabytes": added, "peak_added_megabytes": peak, "transitions": dataset.transition_count}


def ingest_fresh(path: Path) -> Reply:
    """Returns the answer of `ingest_here` from a fresh process; raises ValueError with its last line if that fails."""
    command = [sys.executable, str(Path(__file__).resolve()), "--ingest", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ValueError((finished.stderr.strip().splitlines() or ["no message"])[-1])
    reply: Reply = json.loads(finished.stdout)
    return reply


def answer(line: str, learners: Learners, ready: Callable[[], Reply]) -> Reply:
    """Returns the reply to one command; raises ValueError for one that is not known."""
    match line.split(maxsplit=1):
        case ["ready"]:
            return ready()
        case ["steps", arguments] if len(arguments.split()) == 2:
            algorithm, count = arguments.split()
            return learners.steps(algorithm, int(count))
        case ["ingest", path]:
            return ingest_fresh(Path(path.strip()))
    raise ValueError(f"found: {line.strip()!r}; expected ready, steps ALGORITHM N, ingest PATH or quit")


def serve(arguments: argparse.Namespace, write: Callable[[Reply], None]) -> None:
    """Returns nothing; answers commands until `quit` or the end of stdin."""
    import d3rlpy
    import torch

    torch.set_num_threads(arguments.threads)
    d3rlpy.seed(0)
    learners = Learners(arguments.transitions, arguments.cql_hidden_layers)

    def ready() -> Reply:
        versions = {"library": "d3rlpy", "version": d3rlpy.__version__, "torch": torch.__version__}
        return versions | {"transitions": arguments.transitions, "threads": torch.get_num_threads(), "algorithms": list(ALGORITHMS)}

    for line in sys.stdin:
        if line.strip() == "quit":
            break
        try:
            write(answer(line, learners, ready))
        except (ValueError, OSError) as error:
            write({"error": str(error)})
    write({})


def main() -> None:
    """Returns nothing; keeps stdout for replies alone, as d3rlpy logs to stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cql-hidden-layers", type=int, default=2)
    parser.add_argument("--ingest", type=Path, help="read this npz file once, print the answer and end")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def write(reply: Reply) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    if arguments.ingest:
        write(ingest_here(arguments.ingest))
    else:
        serve(arguments, write)


if __name__ == "__main__":
    main()
