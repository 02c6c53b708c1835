"""Speed of our learners and of the floor, served line by line as `peers_d3rlpy.py` serves d3rlpy's, so that a driver can interleave windows.

Started as `python ours_served.py [--transitions 1000000] [--threads 1] [--device cpu]`. Commands on stdin, one JSON line each on stdout:

    ready                          {"library", "version", "torch", "transitions", "threads", "device", "device_name"}
    prepare MODE ALGORITHM SEEDS   {"seconds": to build the learner, "first_seconds": its first 2 steps (each of a delayed actor's two kinds)}
    steps MODE ALGORITHM SEEDS N   {"seconds"}: N gradient steps of all seeds at once, sampling included; prepared first if it was not
    drop                           {}: forgets all learners
    ingest PATH                    {"seconds", "read_seconds", "added_megabytes", "peak_added_megabytes", "transitions"}: an npz file into
                                   our Dataset and the rows of the first 64 batches on the device, in a fresh process, imports not counted
    load PATH                      the same for numpy.load alone, columns kept: the least that any library has to do
    quit                           {}

MODE: eager, compiled, floor; on CUDA eager, captured (each step one graph), floor. A wrong command is answered with {"error": text}.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import floor
from synthetic_transitions import synthetic_choices, synthetic_columns

BATCH = 256
MODES = ("eager", "compiled", "captured", "floor")
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("bc", {}),
    "td3_bc": ("td3_bc", {}),
    "iql": ("iql", {}),
    "cql": ("cql", {"sampled_actions": 10}),
    "discrete_cql": ("cql", {}),
}
Reply = dict[str, Any]


class Learners:
    """The learners asked for so far and the packed rows they read, each built at first use."""

    def __init__(self, transitions: int, device: str) -> None:
        self._transitions, self._device = transitions, device
        self._rows: dict[bool, Any] = {}
        self._steps: dict[tuple[str, str, int], Callable[[int], None]] = {}

    def _dataset_rows(self, discrete: bool) -> Any:
        if discrete not in self._rows:
            import torch

            from stitchrl.core.batch import Transitions
            from stitchrl.data.dataset import Dataset
            from stitchrl.data.sampling import rows_of

            columns = synthetic_columns(self._transitions)
            if discrete:
                columns["actions"] = synthetic_choices(self._transitions)
            dataset = Dataset.from_flat(**columns)  # type: ignore[arg-type]
            self._rows[discrete] = dataset.spec, rows_of(dataset, Transitions(), [], torch.device(self._device), 1 << 40)
        return self._rows[discrete]

    def _build(self, mode: str, algorithm: str, seeds: int) -> Callable[[int], None]:
        if mode == "floor":
            return floor.build(algorithm, self._device)
        import torch

        from stitchrl import algorithms
        from stitchrl.core.settings import read_settings
        from stitchrl.training.learner import Learner, Training

        name, settings = OURS[algorithm]
        kind, config_kind = algorithms.find(name)
        config = read_settings(config_kind, {"hidden": floor.HIDDEN, **settings}, name)
        spec, rows = self._dataset_rows(algorithm == "discrete_cql")
        training = Training(steps=1_000_000, batch_size=BATCH, compile="off" if mode == "eager" else "on", device=self._device)
        learner = Learner(kind, config, spec, rows, range(seeds), training, torch.device(self._device))

        def take(count: int) -> None:
            for _ in range(count):
                learner.advance()

        return take

    def prepare(self, mode: str, algorithm: str, seeds: int) -> Reply:
        """Returns how long it took to build a learner and to take its first steps, which compile or record them."""
        if mode not in MODES or algorithm not in OURS or seeds < 1:
            raise ValueError(f"found: {mode} {algorithm} {seeds}; expected one of {', '.join(MODES)}; of {', '.join(OURS)}; seeds")
        if mode != "floor":
            self._dataset_rows(algorithm == "discrete_cql")
        started = time.perf_counter()
        steps = self._steps[mode, algorithm, seeds] = self._build(mode, algorithm, seeds)
        built = time.perf_counter()
        self._timed(steps, 2)
        first = time.perf_counter() - built
        self._timed(steps, 8 if mode == "captured" else 2)
        return {"seconds": built - started, "first_seconds": first}

    def steps(self, mode: str, algorithm: str, seeds: int, count: int) -> Reply:
        """Returns the seconds of `count` steps of all seeds."""
        if (mode, algorithm, seeds) not in self._steps:
            self.prepare(mode, algorithm, seeds)
        return {"seconds": self._timed(self._steps[mode, algorithm, seeds], count)}

    def _timed(self, steps: Callable[[int], None], count: int) -> float:
        import torch

        started = time.perf_counter()
        steps(count)
        if self._device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def drop(self) -> Reply:
        self._steps.clear()
        return {}


def resident_megabytes(field: str) -> float:
    """Returns this process's VmRSS (now) or VmHWM (highest so far) in megabytes of 1e6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"/proc/self/status has no {field}")


def ingest_here(path: Path, device: str, alone: bool) -> Reply:
    """Returns the seconds and the added resident memory of reading a flat npz file in this process, ready for the first batch."""
    import numpy as np
    import torch

    from stitchrl.core.batch import Transitions
    from stitchrl.data.sampling import rows_of
    from stitchrl.data.sources import npz

    torch.zeros(1, device=device)
    Path("/proc/self/clear_refs").write_text("5")  # what importing needed at its highest does not count
    before, started = resident_megabytes("VmRSS"), time.perf_counter()
    if alone:
        with np.load(path, allow_pickle=False) as archive:
            kept: Any = {name: archive[name] for name in archive.files}
        read, size = time.perf_counter(), len(kept["rewards"])
    else:
        dataset = npz.read(path)
        read = time.perf_counter()
        rows = rows_of(dataset, Transitions(), [], torch.device(device), 1 << 40)
        size = len(dataset)
        kept = (
            dataset,
            rows,
            rows.gather(torch.randint(size, (64, BATCH), device=device)),
        )  # what 64 steps read, also where rows are streamed
        if device != "cpu":
            torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    added, peak = resident_megabytes("VmRSS") - before, resident_megabytes("VmHWM") - before
    del kept
    times = {"seconds": seconds, "read_seconds": read - started}
    return times | {"added_megabytes": added, "peak_added_megabytes": peak, "transitions": size}


def ingest_fresh(path: Path, device: str, alone: bool) -> Reply:
    """Returns the answer of `ingest_here` from a fresh process; raises ValueError with its last line if that fails."""
    command = [sys.executable, str(Path(__file__).resolve()), "--device", device, "--ingest", str(path), *(["--alone"] if alone else [])]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ValueError((finished.stderr.strip().splitlines() or ["no message"])[-1])
    reply: Reply = json.loads(finished.stdout)
    return reply


def ready(arguments: argparse.Namespace) -> Reply:
    """Returns what is measured, and on what."""
    import torch

    from stitchrl.core.version import VERSION

    name = torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu"
    versions = {"library": "stitchrl", "version": VERSION, "torch": torch.__version__, "device": arguments.device, "device_name": name}
    return versions | {"transitions": arguments.transitions, "threads": torch.get_num_threads()}


def answer(line: str, learners: Learners, arguments: argparse.Namespace) -> Reply:
    """Returns the reply to one command; raises ValueError for one that is not known."""
    match line.split():
        case ["ready"]:
            return ready(arguments)
        case ["prepare", mode, algorithm, seeds]:
            return learners.prepare(mode, algorithm, int(seeds))
        case ["steps", mode, algorithm, seeds, count]:
            return learners.steps(mode, algorithm, int(seeds), int(count))
        case ["drop"]:
            return learners.drop()
        case ["ingest" | "load" as what, path]:
            return ingest_fresh(Path(path), arguments.device, what == "load")
    raise ValueError(f"found: {line.strip()!r}; expected ready, prepare, steps, drop, ingest PATH, load PATH or quit")


def main() -> None:
    """Returns nothing; answers commands until `quit` or the end of stdin, and keeps stdout for replies alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ingest", type=Path, help="read this npz file once, print the answer and end")
    parser.add_argument("--alone", action="store_true", help="with --ingest: by numpy.load alone")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def write(reply: Reply) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.ingest:
        write(ingest_here(arguments.ingest, arguments.device, arguments.alone))
        return
    learners = Learners(arguments.transitions, arguments.device)
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        try:
            write(answer(line, learners, arguments))
        except Exception as error:  # one variant that fails must not end the others' measurement
            write({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    write({})


if __name__ == "__main__":
    main()
