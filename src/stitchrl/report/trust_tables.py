"""The numbers of the trust report's figures as CSV, one table a figure, from the record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.report.page import csv_table

_ENDS = ("estimate", "low", "high", "level")


def figure_tables(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the text of a CSV file by its name without ending, one for each figure that the page shows, in the order of the page."""
    checks, actions = record["self_checks"], record["actions"]
    made = {
        "before_and_after": _before(record["before"]),
        "calibration": _rows(("predicted", "observed", "count"), record["behaviour"]["bins"]),
        "effective_episodes": _points(("time", "effective_episodes"), record["weights"]["effective_sizes"]),
        "estimates": _intervals(("name",), record["estimates"], ("reason", "interval_method")),
        "placebo": _intervals(("name",), checks["placebo"], ("truth", "contains", "reason")),
        "leave_one_logger_out": _intervals(("name", "logger"), checks["leave_one_logger_out"], ("truth", "contains", "reason")),
        "subgroups": _intervals(("column", "value", "episodes"), record["subgroups"], ("reason",)),
        "confounding": _points(("gamma", "low", "high"), record["confounding"]["curve"]),
        "action_frequencies": "" if actions is None else _frequencies(actions),
        "actions_together": "" if actions is None else _together(actions["together"]),
    }
    return {name: text for name, text in made.items() if text}


def _rows(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    return csv_table(names, [[row.get(name) for name in names] for row in rows]) if rows else ""


def _intervals(names: Sequence[str], rows: Sequence[Mapping[str, Any]], more: Sequence[str]) -> str:
    flat = [{**row, **(row["interval"] or dict.fromkeys(_ENDS))} for row in rows]
    return _rows((*names, *_ENDS, *more), flat)


def _points(names: Sequence[str], curve: Sequence[Sequence[float]]) -> str:
    return csv_table(names, curve) if len(curve) > 1 else ""


def _before(before: Mapping[str, Any] | None) -> str:
    return "" if before is None else _intervals(("name",), before["differences"], ("reason",))


def _frequencies(actions: Mapping[str, Any]) -> str:
    both = zip(actions["logged"], actions["policy"])
    return csv_table(("action", "logged", "policy"), [(k, a, b) for k, (a, b) in enumerate(both)])


def _together(shares: Sequence[Sequence[float]] | None) -> str:
    rows = [(i, j, value) for i, row in enumerate(shares or ()) for j, value in enumerate(row)]
    return csv_table(("logged_action", "policy_action", "share_of_steps"), rows) if rows else ""
