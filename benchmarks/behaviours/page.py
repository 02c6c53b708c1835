"""Writes the README beside the policies that ship: what each earns, and the commands that made it, from results.jsonl.

`.venv/bin/python benchmarks/behaviours/page.py`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("results.jsonl")
PAGE = ROOT / "src" / "stitchrl" / "environments" / "behaviour" / "README.md"


def page(lines: list[dict[str, Any]]) -> str:
    """Returns the text of README.md; the last line of a policy is what ships."""
    last = {line["policy"]: line for line in lines}
    text = [
        "# Behaviour policies",
        "",
        "Written by `benchmarks/behaviours/page.py` from results.jsonl there; do not edit. Trained by our own online learners (robots' and",
        "Breakout's are rounded to float16); the built-in logs are rollouts of them. *return*: of the policy that ships, without sampling, mean and",
        "standard deviation over episodes.",
        "",
        "| policy | environment | return | episodes | made by `python …` | date |",
        "|---|---|---:|---:|---|---|",
    ]
    for name, line in sorted(last.items()):
        if not (PAGE.parent / name).is_dir():  # a controller of a few lines ships as code
            continue
        commands = [line["trained"]["command"]] if "trained" in line else []
        made = ", then ".join(f"`{command}`" for command in [*commands, line["command"]])
        earned = f"{line['return']:,.0f} ± {line['std']:,.0f}"
        text.append(f"| {name} | {line['environment']} | {earned} | {line['episodes']} | {made} | {line['date'][:10]} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page([json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]), encoding="utf-8")
