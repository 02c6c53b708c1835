"""What an examination of a log found: each finding with its place, its weight and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

Severity = Literal["error", "warning", "note"]
Verdict = Literal["unusable", "usable with care", "sound"]

SHOWN = 5  # examples that a finding carries
ORDER: dict[str, int] = {"error": 0, "warning": 1, "note": 2}


@final
@dataclass(frozen=True)
class Finding:
    """One thing found. `episodes` and `steps` (within the episode) are the first few places, pair by pair; `count` is all of them."""

    code: str
    severity: Severity
    message: str
    column: str | None = None
    episodes: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    count: int = 0
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "column": self.column,
            "episodes": list(self.episodes),
            "steps": list(self.steps),
            "count": self.count,
            "advice": self.advice,
        }


def verdict(findings: Sequence[Finding]) -> Verdict:
    """Returns "unusable" with any error, "usable with care" with any warning, else "sound"; notes do not count."""
    severities = {finding.severity for finding in findings}
    if "error" in severities:
        return "unusable"
    return "usable with care" if "warning" in severities else "sound"


def findings_to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns {"verdict", "errors", "warnings", "notes", "findings"} in plain JSON values."""
    counts = {f"{severity}s": sum(finding.severity == severity for finding in findings) for severity in ORDER}
    return {"verdict": verdict(findings), **counts, "findings": [finding.to_json() for finding in findings]}
