"""Slots: many copies of one environment, stepped together, each reset by hand with its own seed; in one process or several.

Gymnasium's vector environments reset by themselves and give the seed only once, so an episode would depend on which ones ran before
it in the same copy. A slot is reset when its next episode is assigned, with that episode's seed.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Self, final

import numpy as np

from stitchrl.core.errors import ConfigError, StitchError
from stitchrl.core.machine import cores
from stitchrl.environments.clock import longest_episode, name_of

Environment = str | Callable[[], Any]  # an id for environments.make, or a function that opens a gymnasium environment
Start = tuple[int, int]  # of an episode: its seed and its number
Success = Literal["info", "positive_final_reward"]
_WORTHWHILE = 5e-3  # seconds for one step of all slots; below it, sending to processes costs more than it saves
_UNKNOWN = -1


@final
@dataclass(frozen=True)
class Steps:
    """What n slots returned, in the order they were stepped."""

    observations: np.ndarray  # [n, *O]
    rewards: np.ndarray  # [n] float64
    terminals: np.ndarray  # [n] bool, the task ended
    timeouts: np.ndarray  # [n] bool, the clock ended
    successes: np.ndarray  # [n] int8: 1, 0, or -1 where the environment does not tell


@final
class _Block:
    """A few environments in this process."""

    def __init__(self, opens: Callable[[], Any], count: int, success: Success) -> None:
        self.environments = [opens() for _ in range(count)]
        self.success = success

    def reset(self, indices: Sequence[int], starts: Sequence[Start]) -> np.ndarray:
        return np.stack([self._start(self.environments[i], *start) for i, start in zip(indices, starts, strict=True)])

    @staticmethod
    def _start(environment: Any, seed: int, episode: int) -> np.ndarray:
        tasks = _tasks(environment)
        observation, _ = (
            environment.reset(seed=seed) if tasks < 2 else environment.reset(seed=seed, options={"task_id": episode % tasks + 1})
        )
        return np.asarray(observation)

    def step(self, indices: Sequence[int], actions: np.ndarray) -> Steps:
        rows = [self.environments[i].step(action) for i, action in zip(indices, actions, strict=True)]
        observations, rewards, terminals, timeouts, infos = zip(*rows, strict=True)
        successes = [self._succeeded(*row) for row in zip(rewards, terminals, timeouts, infos, strict=True)]
        return Steps(
            np.stack(observations),
            np.array(rewards, np.float64),
            np.array(terminals, bool),
            np.array(timeouts, bool),
            np.array(successes, np.int8),
        )

    def _succeeded(self, reward: float, terminal: bool, timeout: bool, info: Mapping[str, Any]) -> int:
        if self.success == "positive_final_reward":
            return int((terminal or timeout) and float(reward) > 0)
        for name in ("success", "is_success"):
            if name in info:
                return int(bool(np.asarray(info[name]).all()))
        return _UNKNOWN

    def seconds_per_step(self, limit: float = 0.05) -> float:
        """Measured cost of one step of the first environment under random actions."""
        environment = self.environments[0]
        environment.reset(seed=0)
        environment.action_space.seed(0)
        spent, steps = 0.0, 0
        while steps < 32 and spent < limit:
            action = environment.action_space.sample()
            start = time.perf_counter()
            _, _, terminal, timeout, _ = environment.step(action)
            spent, steps = spent + time.perf_counter() - start, steps + 1
            if terminal or timeout:
                environment.reset()
        return spent / steps

    def close(self) -> None:
        for environment in self.environments:
            environment.close()


def _serve(pipe: Connection, inherited: list[Connection], opens: Callable[[], Any], count: int, success: Success) -> None:
    """Run a block in a child process until told to close; an error is sent back as text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    for end in inherited:  # copies of the parent's ends that came with the fork: held open, they would outlive a killed parent
        end.close()
    try:
        block = _Block(opens, count, success)
        pipe.send(None)
        while (message := pipe.recv()) is not None:
            verb, indices, argument = message
            pipe.send(block.reset(indices, argument) if verb == "reset" else block.step(indices, argument))
        block.close()
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone
    except Exception:
        pipe.send(traceback.format_exc())


@final
class _Processes:
    """Blocks of environments in child processes; slot i lives in process i % P."""

    def __init__(self, opens: Callable[[], Any], count: int, success: Success, processes: int) -> None:
        # fork where it exists, as gymnasium does: a script without `if __name__ == "__main__"` and environments it registered still work
        forks = sys.platform == "linux"
        context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.pipes: list[Connection] = []
        self.children: list[Any] = []
        with ExitStack() as until_open:
            until_open.callback(self.close)
            for p in range(processes):
                ours, theirs = context.Pipe()
                inherited = [*self.pipes, ours] if forks else []
                size = len(range(p, count, processes))
                child = context.Process(target=_serve, args=(theirs, inherited, opens, size, success), daemon=True)
                child.start()
                theirs.close()
                self.pipes.append(ours)
                self.children.append(child)
            for p in range(processes):
                self._receive(p)
            until_open.pop_all()

    def _receive(self, p: int) -> Any:
        try:
            message = self.pipes[p].recv()
        except (EOFError, OSError):
            raise StitchError(f"environment process {p} ended unexpectedly (out of memory or killed); try processes=1") from None
        if isinstance(message, str):
            raise StitchError(f"environment process {p} failed: {message.strip().splitlines()[-1]}\n{message}")
        return message

    def _ask(self, verb: str, indices: Sequence[int], argument: Sequence[Start] | np.ndarray) -> list[tuple[list[int], Any]]:
        """[(positions in `indices`, answer)] of every process that has one of them; all work at once."""
        count = len(self.pipes)
        asked = []
        for p, pipe in enumerate(self.pipes):
            positions = [k for k, i in enumerate(indices) if i % count == p]
            if positions:
                part = argument[positions] if isinstance(argument, np.ndarray) else [argument[k] for k in positions]
                try:
                    pipe.send((verb, [indices[k] // count for k in positions], part))
                except OSError:
                    pass  # the process is gone; receiving says why
                asked.append((p, positions))
        return [(positions, self._receive(p)) for p, positions in asked]

    def reset(self, indices: Sequence[int], starts: Sequence[Start]) -> np.ndarray:
        answers = self._ask("reset", indices, starts)
        return _in_order(answers)

    def step(self, indices: Sequence[int], actions: np.ndarray) -> Steps:
        answers = self._ask("step", indices, actions)
        fields = ("observations", "rewards", "terminals", "timeouts", "successes")
        return Steps(*(_in_order([(positions, getattr(answer, field)) for positions, answer in answers]) for field in fields))

    def close(self) -> None:
        for pipe, child in zip(self.pipes, self.children, strict=True):
            try:
                pipe.send(None)
            except OSError:
                pass
            child.join(2)
            if child.is_alive():
                child.terminate()
                child.join()
            pipe.close()


def _in_order(answers: list[tuple[list[int], np.ndarray]]) -> np.ndarray:
    positions = np.concatenate([np.asarray(p) for p, _ in answers])
    rows = np.concatenate([a for _, a in answers])
    ordered = np.empty_like(rows)
    ordered[positions] = rows
    return ordered


@final
class Slots:
    """`count` open copies of an environment. A context manager; may serve many rollouts one after another.

    processes: None measures one copy and uses several processes only where a step of all slots takes longer than 5 ms.
    success: "info" reads `success` or `is_success` from the step's info; "positive_final_reward" suits tasks such as ICU-Sepsis.
    """

    def __init__(
        self,
        environment: Environment,
        count: int,
        *,
        processes: int | None = None,
        success: Success = "info",
        environment_options: Mapping[str, Any] | None = None,
    ) -> None:
        if count < 1 or (processes is not None and processes < 1):
            raise ConfigError(f"{count} slots in {processes} processes; expected at least 1 of each")
        if success not in ("info", "positive_final_reward"):
            raise ConfigError(f"success {success!r}; expected 'info' or 'positive_final_reward'")
        opens = _opener(environment, dict(environment_options or {}))
        with ExitStack() as until_open:
            first = until_open.enter_context(closing(_Block(opens, 1, success)))
            space = first.environments[0].observation_space
            if getattr(space, "shape", None) is None or space.dtype is None:
                raise ConfigError(
                    f"{environment}: observations are a {type(space).__name__} space; expected Box or Discrete; flatten it first"
                )
            self.name, self.longest_episode = name_of(first.environments[0]), longest_episode(first.environments[0])
            self.tasks = _tasks(first.environments[0])
            self.count, self.observation_shape = count, tuple(space.shape)
            dtype = np.dtype(space.dtype)
            self.observation_dtype = np.dtype(np.float32) if dtype.kind == "f" else dtype  # as environments.spec_of describes them
            self.processes = min(processes or _fitting_processes(first.seconds_per_step() * count), count)
            if self.processes == 1:
                for _ in range(count - 1):
                    first.environments.append(opens())
                until_open.pop_all()
        self._place: _Block | _Processes = first if self.processes == 1 else _Processes(opens, count, success, self.processes)

    def reset(self, indices: Sequence[int], seeds: Sequence[int], episodes: Sequence[int] | None = None) -> np.ndarray:
        """[n, *O] first observations of new episodes in the slots `indices`, one seed each; their numbers choose the task, if there are several."""
        return self._place.reset(indices, list(zip(seeds, episodes or [0] * len(seeds), strict=True)))

    def step(self, indices: Sequence[int], actions: np.ndarray) -> Steps:
        """What the slots `indices` return to `actions` `[n, *A]`. No slot resets itself."""
        return self._place.step(indices, actions)

    def close(self) -> None:
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tasks(environment: Any) -> int:
    """How many evaluation tasks an environment goes through in turn: episode k is of number k modulo these."""
    return int(getattr(environment, "tasks", 1))


def _opener(environment: Environment, options: dict[str, Any]) -> Callable[[], Any]:
    if not isinstance(environment, str):
        if options:
            raise ConfigError(f"environment_options {sorted(options)} need an environment id; give them to your own function instead")
        return environment
    from functools import partial

    from stitchrl.environments.make import make

    return partial(make, environment, **options)


def _fitting_processes(seconds: float) -> int:
    return cores() if seconds > _WORTHWHILE else 1
