"""A progress bar with the time left and the current losses on a terminal; plain lines elsewhere."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, final

from stitchrl.core.alarms import Alarm

Show = Callable[[int, int, float, dict[str, list[float]]], None]


@final
class Progress:
    """Called with (step, steps, steps_per_second, metrics) at every line of metrics."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self.title, self.quiet = title, quiet
        self.bar: Any = None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.table import Column

            fixed, rest = Column(no_wrap=True), Column(no_wrap=True, ratio=1, overflow="ellipsis")
            columns = (
                TextColumn("{task.description}", table_column=fixed),
                BarColumn(bar_width=10, table_column=fixed),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}", table_column=fixed),
                TimeRemainingColumn(compact=True, table_column=fixed),
                TextColumn("{task.fields[losses]}", table_column=rest),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), expand=True)
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, step: int, steps: int, steps_per_second: float, metrics: dict[str, list[float]]) -> None:
        self._tell(self.title, step, steps, steps_per_second, metrics)

    def titled(self, title: str) -> Show:
        """Returns what tells the progress of one part of the work, under a title of its own."""
        return functools.partial(self._tell, title)

    def warning(self, title: str = "") -> Callable[[Alarm], None]:
        """Returns what tells an alarm of one part of the work, once, as a line of its own."""
        return functools.partial(self._warn, title or self.title)

    def _warn(self, title: str, alarm: Alarm) -> None:
        if self.quiet:
            return
        line = f"{title}: {alarm.sentence}. Try: {alarm.advice}"
        if self.bar is None:
            print(line, file=sys.stderr, flush=True)
        else:  # above the bar
            self.bar.console.print(line, style="yellow", markup=False, highlight=False)

    def _tell(self, title: str, step: int, steps: int, steps_per_second: float, metrics: dict[str, list[float]]) -> None:
        if self.quiet:
            return
        losses = "  ".join(f"{name.removeprefix('loss/')} {sum(v) / len(v):.3g}" for name, v in metrics.items() if name.startswith("loss/"))
        if self.bar is None:
            left = (steps - step) / max(steps_per_second, 1e-9)
            line = f"{title}: step {step:,}/{steps:,}  {steps_per_second:.0f} steps/s  {_time(left)} left  {losses}"
            print(line, file=sys.stderr, flush=True)
            return
        if title not in self.tasks:
            self.tasks[title] = self.bar.add_task(title, total=steps, losses="")
        self.bar.update(self.tasks[title], completed=step, losses=losses)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
