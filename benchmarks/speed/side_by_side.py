"""Our speed beside d3rlpy's and the floor's, in one run on this machine: `make bench`.

    python benchmarks/speed/side_by_side.py --peers .venv-peers/bin/python [--minutes 12 | --rounds 15 --seconds-per-window 2] [--quick]
    python benchmarks/speed/side_by_side.py --table        # RESULTS.md from raw/side_by_side.jsonl alone

Machines drift by tens of per cent within a minute, so no two long runs are compared: every round gives each library one short window, in an
order drawn anew, and what is reported is the median over rounds of the ratio within a round. One process works at a time, but where two
are measured against one. Four parts: ingest, start-up, gradient steps (with many seeds and two processes in the same rounds), compile times.
Where there is a CUDA device the gradient steps are measured on it too (`--device cuda`: there alone). Every window's number is appended
to raw/side_by_side.jsonl as it is measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import floor
import results_table
from synthetic_transitions import write_synthetic

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

ALGORITHMS = ("bc", "td3_bc", "iql", "discrete_cql", "cql")
MANY_SEEDS = ("td3_bc", "iql")
SHARES = {
    "bc": 1.0,
    "td3_bc": 4.0,
    "iql": 4.0,
    "discrete_cql": 1.0,
    "cql": 3.0,
}  # of the time; the slow to compile and the many-seeded get more
FEWEST_ROUNDS = 8
Reply = dict[str, Any]


@final
class Served:
    """A process that answers one line with one line of JSON."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log.open("ab")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(command, env=os.environ | environment, text=True, **pipes)

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def receive(self) -> Reply:
        """Returns the next answer; raises ValueError for one that is an error, or none."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise ValueError(f"the process ended with status {self._process.wait()}; its messages are in {self._log.name}")
        reply: Reply = json.loads(text)
        if "error" in reply:
            raise ValueError(reply["error"])
        return reply

    def ask(self, line: str) -> Reply:
        self.send(line)
        return self.receive()

    def close(self) -> None:
        try:
            self.send("quit")
            self._process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._log.close()


@final
@dataclass
class Variant:
    """One column of a round. `take(n)` returns the seconds of n gradient steps (of `seeds` seeds at once)."""

    name: str
    seeds: int
    take: Callable[[int], float]
    steps: int = 2


@final
class Bench:
    """One run: its settings, its deadline and where its lines go."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.run = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
        self._random = random.Random(0)
        self.peers_fail = ""

    def write(self, kind: str, **values: Any) -> None:
        """Returns nothing; appends one line to the raw file."""
        self.arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with self.arguments.out.open("a") as stream:
            stream.write(json.dumps({"run": self.run, "kind": kind} | values) + "\n")

    def say(self, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)

    @contextmanager
    def ours(self, device: str, cache: Path) -> Iterator[Served]:
        """Yields our process, which compiles into `cache`."""
        a = self.arguments
        command = [sys.executable, str(HERE / "ours_served.py"), "--transitions", str(a.transitions), "--threads", str(a.threads)]
        with self._served([*command, "--device", device], {"TORCHINDUCTOR_CACHE_DIR": str(cache)}) as process:
            yield process

    @contextmanager
    def d3rlpy(self) -> Iterator[Served]:
        a = self.arguments
        command = [str(a.peers), str(HERE / "peers_d3rlpy.py"), "--transitions", str(a.transitions), "--threads", str(a.threads)]
        with self._served(command, {"PYTHONPATH": ""}) as process:
            yield process

    @contextmanager
    def _served(self, command: list[str], environment: dict[str, str]) -> Iterator[Served]:
        process = Served(command, {"OMP_NUM_THREADS": str(self.arguments.threads)} | environment, self.folder / "messages.txt")
        try:
            yield process
        finally:
            process.close()

    def header(self) -> None:
        """Returns nothing; writes what is measured, with what, and where."""
        a = self.arguments
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True, check=False).stdout.strip()
        with self.ours("cpu", self.folder / "header") as process:
            ours = process.ask("ready")
        peers = None
        if a.peers:
            with self.d3rlpy() as process:
                peers = process.ask("ready")
        machine = {"cpu": _cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "system": platform.platform()}
        self.write(
            "run", date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), command=" ".join(sys.argv), commit=commit,
            source_changed=bool(changed), machine=machine, python=platform.python_version(), ours=ours, peers=peers, threads=a.threads,
            transitions=a.transitions, rounds=a.rounds, minutes=a.minutes, seconds_per_window=a.seconds_per_window,
        )  # fmt: skip

    # -- gradient steps ------------------------------------------------------------------------------------------------

    def algorithm(self, name: str, seconds: float) -> None:
        """Returns nothing; measures one algorithm on the CPU: compile times, then rounds of all its variants."""
        a = self.arguments
        until = time.monotonic() + seconds
        cache = self.folder / f"cache-{name}"
        compiled = a.compile
        if compiled:
            compiled = self._compile(name, cache, "cold")
        with ExitStack() as stack:
            ours = stack.enter_context(self.ours("cpu", cache))
            if compiled:
                compiled = self._compile(name, cache, "warm", ours)
            modes = ["eager", *(["compiled"] if compiled else [])]
            variants = [Variant("floor", 1, _taker(ours, f"steps floor {name} 1"))]
            seeds = a.seeds if name in MANY_SEEDS else [1]
            variants += [Variant(mode, s, _taker(ours, f"steps {mode} {name} {s}")) for mode in modes for s in seeds]
            if a.peers:
                peer = stack.enter_context(self.d3rlpy())
                variants.append(Variant("d3rlpy", 1, _taker(peer, f"steps {name}")))
            if name in MANY_SEEDS and (os.cpu_count() or 1) > 1:
                second = stack.enter_context(self.ours("cpu", cache))
                variants.append(Variant(f"two processes, {modes[-1]}", 2, _both(ours, second, f"steps {modes[-1]} {name} 1")))
            self.rounds(name, "cpu", variants, until)

    def _compile(self, name: str, cache: Path, which: str, process: Served | None = None) -> bool:
        """Returns whether the algorithm could be compiled; writes how long it took."""
        if process is None:
            with self.ours("cpu", cache) as fresh:
                return self._compile(name, cache, which, fresh)
        try:
            reply = process.ask(f"prepare compiled {name} 1")
        except ValueError as error:
            self.say(f"{name}: not compiled: {error}")
            self.write("failed", algorithm=name, variant="compiled", error=str(error))
            return False
        self.write("compile", algorithm=name, which=which, seconds=reply["first_seconds"])
        self.say(f"{name}: compiled ({which} cache) in {reply['first_seconds']:.1f} s")
        return True

    def cuda(self, name: str, seconds: float) -> None:
        """Returns nothing; measures one algorithm on the CUDA device: plain, captured and the floor, one and many seeds."""
        until = time.monotonic() + seconds
        with self.ours("cuda", self.folder / "cache-cuda") as ours:
            seeds = self.arguments.cuda_seeds if name in MANY_SEEDS else [1]
            variants = [Variant(mode, 1, _taker(ours, f"steps {mode} {name} 1")) for mode in ("floor", "eager")]
            variants += [Variant("captured", s, _taker(ours, f"steps captured {name} {s}")) for s in seeds]
            self.rounds(name, "cuda", variants, until)

    def rounds(self, name: str, device: str, variants: list[Variant], until: float) -> None:
        """Returns nothing; gives each variant one window a round, in an order drawn anew, until the rounds or the time are used up."""
        a = self.arguments
        variants = [variant for variant in variants if self._warm(name, device, variant)]
        left = until - time.monotonic()
        window = max(min(a.seconds_per_window, left / (a.rounds * max(len(variants), 1))), a.shortest_window)
        for variant in variants:
            rate = variant.steps / variant.take(variant.steps)
            variant.steps = _whole(rate * window)
        reached = 0
        for k in range(a.rounds):
            if k >= min(FEWEST_ROUNDS, a.rounds) and time.monotonic() > until:
                break
            for variant in self._random.sample(variants, len(variants)):
                took = variant.take(variant.steps)
                values = {"seeds": variant.seeds, "round": k, "steps": variant.steps, "seconds": took}
                self.write("window", device=device, algorithm=name, variant=variant.name, **values)
            reached = k + 1
        self.write("rounds", device=device, algorithm=name, reached=reached, wanted=a.rounds, window_seconds=window)
        self.say(f"{name} on {device}: {reached} of {a.rounds} rounds of {len(variants)} variants, windows of {window:.2f} s")

    def _warm(self, name: str, device: str, variant: Variant) -> bool:
        """Returns whether the variant runs; its learner is built, compiled and warmed up, and these steps thrown away."""
        started = time.monotonic()
        try:
            variant.take(2)
            variant.steps = _whole(0.2 / (variant.take(2) / 2))
        except ValueError as error:
            self.say(f"{name}: {variant.name} × {variant.seeds} left out: {error}")
            self.write("failed", device=device, algorithm=name, variant=variant.name, seeds=variant.seeds, error=str(error))
            return False
        self.write("prepared", device=device, algorithm=name, variant=variant.name, seeds=variant.seeds, seconds=time.monotonic() - started)
        return True

    # -- ingest and start-up -------------------------------------------------------------------------------------------

    def ingest(self) -> None:
        """Returns nothing; reads the same npz file with each library in turn, each time in a fresh process."""
        a = self.arguments
        path = self.folder / "transitions.npz"
        write_synthetic(path, a.transitions)
        with ExitStack() as stack:
            ours = stack.enter_context(self.ours("cpu", self.folder / "header"))
            calls = {"ours": (ours, f"ingest {path}"), "numpy.load": (ours, f"load {path}")}
            if a.peers:
                calls["d3rlpy"] = stack.enter_context(self.d3rlpy()), f"ingest {path}"
            for k in range(a.ingests):
                for library, (process, line) in calls.items():
                    self.write("ingest", library=library, round=k, **process.ask(line))
        path.unlink()
        self.say(f"ingest: {a.ingests} rounds of {', '.join(calls)}")

    def start_up(self) -> None:
        """Returns nothing; times the command's help and a whole run of one uncompiled step, process start included."""
        path = self.folder / "small.npz"
        write_synthetic(path, 10_000)
        program = [sys.executable, "-c", "import sys; from stitchrl.cli import main; sys.exit(main())"]
        runs = {"python": [sys.executable, "-c", "pass"], "help": [*program, "--help"]}
        train = [*program, "train", "td3_bc", "--data", str(path), "--env", "none", "--steps", "1", "--compile", "off"]
        runs["train, one step"] = [*train, "--run", str(self.folder / "run"), "--overwrite"]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": str(self.arguments.threads)}
        for k in range(self.arguments.ingests + 1):  # the first fills the file cache
            for name, command in runs.items():
                started = time.perf_counter()
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                seconds = time.perf_counter() - started
                if done.returncode:
                    message = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no message"])[-1]
                    self.write("failed", variant=name, error=message)
                    self.say(f"start-up: {name} failed: {message}")
                elif k:
                    self.write("start_up", what=name, round=k, seconds=seconds)
        self.say("start-up: done")

    def everything(self) -> None:
        """Returns nothing; runs the parts that were asked for, the time that is left divided over the algorithms still to come."""
        a = self.arguments
        self.header()
        if a.device != "cuda":
            if "ingest" in a.parts:
                self.ingest()
            if "start-up" in a.parts:
                self.start_up()
        jobs = [(self.algorithm, name, SHARES[name]) for name in a.algorithms if a.device != "cuda"]
        if a.device == "cuda" or (a.device == "auto" and _has_cuda()):
            jobs += [(self.cuda, name, 1.0) for name in a.algorithms]
        if "steps" not in a.parts:
            jobs = []
        for k, (measure, name, share) in enumerate(jobs):
            left = self.deadline - time.monotonic()
            measure(name, left * share / sum(other for _, _, other in jobs[k:]))
        self.write("end", date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), load=os.getloadavg()[0])


def _taker(process: Served, line: str) -> Callable[[int], float]:
    return lambda count: float(process.ask(f"{line} {count}")["seconds"])


def _both(first: Served, second: Served, line: str) -> Callable[[int], float]:
    """Returns the wall-clock seconds until both have taken their steps."""

    def take(count: int) -> float:
        started = time.perf_counter()
        first.send(f"{line} {count}")
        second.send(f"{line} {count}")
        first.receive()
        second.receive()
        return time.perf_counter() - started

    return take


def _whole(steps: float) -> int:
    """Returns a number of steps that divides no cycle unevenly: blocks of 64 where there is time, else pairs."""
    return max(64 * round(steps / 64) if steps >= 96 else 2 * round(steps / 2), 2)


def _has_cuda() -> bool:
    return shutil.which("nvidia-smi") is not None and subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="python of the environment with d3rlpy; without it d3rlpy is left out")
    parser.add_argument("--table", action="store_true", help="measure nothing; write RESULTS.md from the raw file")
    parser.add_argument("--minutes", type=float, help="end after about so long: shorter windows, then fewer rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds-per-window", type=float, default=2.0, help="at most")
    parser.add_argument("--quick", action="store_true", help="does it run at all: 2 rounds, few transitions; writes to a temporary file")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--parts", nargs="+", choices=("ingest", "start-up", "steps"), default=["ingest", "start-up", "steps"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--cuda-seeds", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=None, help="default benchmarks/speed/raw/side_by_side.jsonl")
    arguments = parser.parse_args()
    arguments.ingests, arguments.shortest_window = 5, 0.15
    if arguments.quick:
        arguments.rounds, arguments.seconds_per_window, arguments.transitions, arguments.ingests = 2, 0.3, 20_000, 1
        arguments.out = arguments.out or Path(tempfile.gettempdir()) / "side_by_side_quick.jsonl"
    arguments.out = arguments.out or HERE / "raw" / "side_by_side.jsonl"
    return arguments


def main() -> None:
    """Returns nothing; measures, and shows the table of this run; with --table writes RESULTS.md from the raw file alone."""
    arguments = _arguments()
    if not arguments.table:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        with tempfile.TemporaryDirectory(prefix="side_by_side-") as folder:
            Bench(arguments, Path(folder)).everything()
    text = results_table.markdown(arguments.out, {name: floor.operations(name) for name in ALGORITHMS})
    print(text)
    if arguments.table or not arguments.quick:
        (HERE / "RESULTS.md").write_text(text)


if __name__ == "__main__":
    main()
