"""The loop. What happens beside a step (metrics, checkpoints, evaluation) is handed in as functions."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, final

from torch import Tensor

from stitchrl.training.learner import Training


class Learning(Protocol):
    """What takes steps: a learner, or one that acts in an environment between its steps."""

    training: Training
    step: int

    def advance(self) -> None:
        """Takes one step."""

    def check(self) -> None:
        """Raises DivergenceError if a step went wrong."""

    def read_metrics(self) -> dict[str, list[float]]:
        """Returns means since the last call, one number a seed."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that a checkpoint holds."""

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Goes on from a checkpoint."""


@final
class Stop:
    """Whether a signal asked to stop, and which: the first is heard after the present step, the second ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            sys.exit(128 + number)
        self.signal = number


@contextmanager
def listening() -> Iterator[Stop]:
    """Hears SIGINT and SIGTERM as requests to stop; gives the signals back afterwards."""
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, stop.hear) for number in numbers]
    except ValueError:  # not in the main thread: the caller decides when to stop
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def train(
    learner: Learning,
    *,
    log: Callable[[int, float, dict[str, list[float]]], None],
    save: Callable[[int], None],
    evaluate: Callable[[int], None],
    evaluate_every: int,
    stop: Callable[[], bool],
    steps: int | None = None,
) -> None:
    """Takes steps until the run's last (or `steps`) or a stop. A divergence is raised before anything of it is logged or saved."""
    last = learner.training.steps if steps is None else steps
    settings = learner.training
    began, since = time.perf_counter(), learner.step
    stopping = stop()
    while learner.step < last and not stopping:
        learner.advance()
        step = learner.step
        if step % settings.log_every == 0 or step == last:
            metrics = learner.read_metrics()
            now = time.perf_counter()
            log(step, (step - since) / (now - began), metrics)
            began, since = now, step
        saved = step % settings.save_every == 0 or step == last
        judged = evaluate_every and (step % evaluate_every == 0 or step == last)
        if saved or judged:
            learner.check()
        if saved:  # before an evaluation, which can take long and end the run: going on from here makes up for it
            save(step)
        if judged:
            evaluate(step)
            began, since = time.perf_counter(), step  # the speed told is that of training alone
        stopping = stop()  # asked once a step, so that a run never stops at a step that it did not save
        if stopping and not saved:
            learner.check()
            save(step)
