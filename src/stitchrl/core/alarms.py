"""What goes wrong while a run learns, as lines of alarms.jsonl: an alarm rises at one line of metrics and clears at another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from stitchrl.core.errors import CheckpointError


@final
@dataclass(frozen=True)
class AlarmChange:
    """One line of alarms.jsonl: an alarm rose at a step, in which seeds, with what was seen and what to try; or it cleared."""

    step: int
    change: Literal["rose", "cleared"]
    name: str
    seeds: tuple[int, ...]
    seen: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Returns the line; `read_change` reads it."""
        line = {"step": self.step, "change": self.change, "name": self.name}
        return line | ({"seeds": list(self.seeds), "seen": self.seen, "try": self.advice} if self.change == "rose" else {})


@final
@dataclass(frozen=True)
class Alarm:
    """One kind of alarm over a whole run: the step it first rose at, and where it last cleared unless it still stands."""

    name: str
    step: int
    seeds: tuple[int, ...]  # the seeds' numbers, of all its rises
    seen: str  # as it first rose
    advice: str
    cleared: int | None = None
    times: int = 1

    @property
    def sentence(self) -> str:
        """Returns what is told of it, in one sentence."""
        who = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        again = f", {self.times} times" if self.times > 1 else ""
        until = "" if self.cleared is None else f", cleared at step {self.cleared:,}"
        return f"{self.name.replace('_', ' ')} from step {self.step:,}{until}{again} ({who}): {self.seen}"


def read_change(line: Mapping[str, Any], where: str) -> AlarmChange:
    """Returns one line of alarms.jsonl; raises CheckpointError for one that is not."""
    step, change, name = line.get("step"), line.get("change"), line.get("name")
    seeds, seen, advice = line.get("seeds", []), line.get("seen", ""), line.get("try", "")
    plain = isinstance(step, int) and isinstance(name, str) and isinstance(seen, str) and isinstance(advice, str)
    if not plain or change not in ("rose", "cleared") or not isinstance(seeds, list) or not all(isinstance(s, int) for s in seeds):
        raise CheckpointError(
            f"{where}: not an alarm: {str(dict(line))[:120]}; expected step, change (rose or cleared), name, seeds, seen, try"
        )
    return AlarmChange(int(step), change, str(name), tuple(seeds), str(seen), str(advice))  # type: ignore[arg-type]


def alarms_of(changes: Iterable[AlarmChange]) -> list[Alarm]:
    """Returns one alarm for each name that rose, in the order in which they first did."""
    found: dict[str, Alarm] = {}
    for c in changes:
        known = found.get(c.name)
        if c.change == "cleared":
            if known is not None:
                found[c.name] = replace(known, cleared=c.step)
        elif known is None:
            found[c.name] = Alarm(c.name, c.step, c.seeds, c.seen, c.advice)
        else:
            seeds = tuple(sorted({*known.seeds, *c.seeds}))
            found[c.name] = replace(known, cleared=None, seeds=seeds, times=known.times + (known.cleared is not None))
    return list(found.values())
