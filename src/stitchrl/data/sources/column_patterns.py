"""Which of a table's columns are meant by names and patterns."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence

from stitchrl.core.errors import DataError


def matched(patterns: Sequence[str], names: Sequence[str], key: str) -> list[str]:
    """Returns the columns that patterns such as "obs_*" match, in natural order, each once. Raises DataError naming the nearest column."""
    found: list[str] = []
    for pattern in patterns:
        if any(x in pattern for x in "*?["):
            found += sorted(fnmatch.filter(names, pattern), key=_natural)
        elif pattern in names:
            found.append(pattern)
        elif pattern != "action":
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise DataError(f"no column {pattern!r} for {key}; nearest is {(near or ['(the table has none)'])[0]!r}")
    return list(dict.fromkeys(found))


def categories_of(entries: Sequence[str], names: Sequence[str], read: Sequence[str]) -> tuple[str, ...]:
    """Returns the entries with patterns replaced by the columns they match. Raises DataError for a column that is no observation or action."""
    found: dict[str, str] = {}
    for entry in entries:
        pattern, told, values = entry.partition("=")
        for name in matched((pattern,), names, "categories"):
            if name not in read:
                raise DataError(f"the category {name!r} is neither among the observations nor the actions. Add it there")
            found[name] = f"{name}{told}{values}"
    return tuple(found.values())


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(x), "") if x.isdigit() else (1, 0, x) for x in re.findall(r"\d+|\D+", name)]
