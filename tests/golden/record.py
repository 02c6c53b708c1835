"""Record the losses of the first 50 steps of every algorithm: one file each, `make golden`.

On a made-up log (numpy's generator), in float32, on one thread, not compiled, all networks in one backward pass. A line is the
mean over the ten steps up to it. New numbers are a change of behaviour: in a commit of their own, with the reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parents[1] / "src"), str(FOLDER.parents[1])]

import torch  # noqa: E402  (after the path)

from tests.algorithms.synthetic_log import Case, cases  # noqa: E402

STEPS, EACH = 50, 10


def lines(case: Case) -> list[str]:
    """Returns a header and a line for each ten steps: `step loss/actor value …`."""
    learner = case.learner((0,), steps=STEPS)
    found = [f"# {case}"]
    for step in range(1, STEPS + 1):
        learner.advance()
        if step % EACH == 0:
            values = learner.read_metrics()
            found.append(" ".join([str(step), *(f"{name} {value[0]:.7g}" for name, value in values.items())]))
    return found


def text(name: str) -> str:
    """Returns one algorithm's golden file."""
    return "\n".join(line for case in cases() if case.name == name for line in lines(case)) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    for name in sorted({case.name for case in cases()}):
        (FOLDER / f"{name}.txt").write_text(text(name), encoding="utf-8")
        print(f"recorded {name}.txt")


if __name__ == "__main__":
    main()
