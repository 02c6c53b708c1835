"""How often nominal 95 % intervals cover in the logs that `trajectory_gate` admits, and in those it refuses.

Random tabular tasks of 6 states and 3 actions with known value; behaviour drawn once, the policy a mixture of it with another. The thresholds
were chosen on the set `chosen`; `heldout` has other tasks, horizons and numbers of episodes. About ten minutes a set on one core:

    python -m benchmarks.trust.gate_calibration chosen heldout > benchmarks/trust/GATES.md
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np

from stitchrl.evaluation.confidence import draws_together, interval_of_draws
from stitchrl.evaluation.estimability import kish, trajectory_gate
from stitchrl.evaluation.evidence import Array, Episodes, Mean, Ratio

STATES, ACTIONS, DISCOUNT = 6, 3, 0.97
NAMES = ("is", "wis", "pdis", "wpdis")
METHODS = ("percentile", "expanded", "bca")
MIXTURES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SETS = {  # numbers of episodes, steps of each, tasks, repetitions
    "chosen": ((30, 60, 100, 300, 1000), (1, 5, 20, 40), (0, 1), 60),
    "heldout": ((40, 80, 200, 500), (3, 10, 30), (5, 6), 80),
}
Task = tuple[Array, Array, Array, Array]


def task(seed: int, sparse: bool) -> Task:
    """Returns transitions [S, A, S], rewards [S, A], behaviour [S, A] (no action under 1/30) and another policy."""
    g = np.random.default_rng(seed)
    transitions = g.dirichlet(np.full(STATES, 0.5), (STATES, ACTIONS))
    behaviour = 0.9 * g.dirichlet(np.full(ACTIONS, 2.0), STATES) + 0.1 / ACTIONS
    other = g.dirichlet(np.full(ACTIONS, 0.4), STATES)
    rewards = np.where(g.random((STATES, ACTIONS)) < 0.15, 5.0, 0.0) if sparse else g.normal(size=(STATES, ACTIONS))
    if sparse:
        rewards[0, 0] = 5.0
    return transitions, rewards, behaviour, other


def value(transitions: Array, rewards: Array, policy: Array, steps: int) -> float:
    """Returns the exact value from a uniform first state."""
    v = np.zeros(STATES)
    for _ in range(steps):
        v = (policy * (rewards + DISCOUNT * transitions @ v)).sum(1)
    return float(v.mean())


def log(of: Task, n: int, steps: int, sparse: bool, g: np.random.Generator) -> tuple[Array, Array, Array]:
    """Returns states, actions and rewards `[n, steps]` of the behaviour; dense rewards with noise of deviation 0.5."""
    transitions, rewards, behaviour, _ = of
    states, actions, earned = np.empty((n, steps), np.int64), np.empty((n, steps), np.int64), np.empty((n, steps))
    state = g.integers(0, STATES, n)
    for t in range(steps):
        action = np.minimum((g.random(n)[:, None] > behaviour.cumsum(1)[state]).sum(1), ACTIONS - 1)
        states[:, t], actions[:, t] = state, action
        earned[:, t] = rewards[state, action] + (0 if sparse else g.normal(0, 0.5, n))
        state = np.minimum((g.random(n)[:, None] > transitions.cumsum(2)[state, action]).sum(1), STATES - 1)
    return states, actions, earned


def one(ratios: Array, earned: Array, truth: float, seed: int) -> list[float]:
    """Returns whether the gate admits, Kish's share, and whether each estimator's interval of each method covers."""
    n, steps = earned.shape
    terminals = np.zeros((n, steps), bool)
    terminals[:, -1] = True
    episodes = Episodes(np.arange(n + 1) * steps, earned.ravel(), terminals.ravel(), DISCOUNT, ratios.ravel())
    w, discounts = np.exp(np.cumsum(ratios, 1)), DISCOUNT ** np.arange(steps)
    whole = w[:, -1] * (earned @ discounts)
    statistics = [
        Mean(whole),
        Ratio(whole[:, None], w[:, -1:]),
        Mean((w * earned) @ discounts),
        Ratio(w * earned * discounts, w),
    ]
    drawn = draws_together(statistics, seed=seed, resamples=500)
    made = [interval_of_draws(s, d, method=m) for s, d in zip(statistics, drawn, strict=True) for m in METHODS]
    return [trajectory_gate(episodes) is None, kish(ratios.sum(1)) / n, *[i.low <= truth <= i.high for i in made]]


def run(name: str) -> tuple[Array, Array]:
    """Returns rows of `one`, and the setting of each."""
    numbers, horizons, tasks, repetitions = SETS[name]
    rows, settings = [], []
    for setting, (n, steps, mixture, sparse, i) in enumerate(product(numbers, horizons, MIXTURES, (False, True), tasks)):
        of = task(1000 * i + steps, sparse)
        policy = (1 - mixture) * of[2] + mixture * of[3]
        ratio, truth = np.log(policy / of[2]), value(of[0], of[1], policy, steps)
        states, actions, _ = log(of, 4000, steps, sparse, np.random.default_rng(setting))
        share = kish(ratio[states, actions].sum(1)) / 4000
        if share < 0.01 or (share > 0.97 and steps > 1):  # hopeless, or the log's own policy
            continue
        for repetition in range(repetitions):
            states, actions, earned = log(of, n, steps, sparse, np.random.default_rng([setting, repetition]))
            rows.append(one(ratio[states, actions], earned, truth, repetition))
            settings.append(setting)
    return np.array(rows, float), np.array(settings)


def table(name: str, rows: Array, settings: Array) -> str:
    """Returns a Markdown table: percentile / expanded / BCa for each estimator, by what the gate said and how often it admits the setting."""
    admitted, share = rows[:, 0] == 1, rows[:, 1]
    often = np.bincount(settings, admitted)[settings] / np.bincount(settings)[settings]
    groups = {
        "admitted": admitted,
        "… effective number 50 % of the episodes or more": admitted & (share >= 0.5),
        "… 20 to 50 %": admitted & (share >= 0.2) & (share < 0.5),
        "… under 20 %": admitted & (share < 0.2),
        "… in settings admitted in 70 % of logs or more": admitted & (often >= 0.7),
        "… in 30 to 70 %": admitted & (often >= 0.3) & (often < 0.7),
        "… in under 30 %": admitted & (often < 0.3),
        "refused": ~admitted,
    }
    lines = [
        f"## {name}: {len(rows):,} logs of {len(np.unique(settings))} settings",
        "",
        "| logs | number | " + " | ".join(NAMES) + " |",
        "|---" * 6 + "|",
    ]
    for label, chosen in groups.items():
        cover = rows[chosen, 2:].mean(0).reshape(len(NAMES), len(METHODS)) if chosen.any() else np.full((len(NAMES), len(METHODS)), np.nan)
        lines.append(f"| {label} | {chosen.sum():,} | " + " | ".join(" / ".join(f"{c:.3f}" for c in row) for row in cover) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print("# Coverage of nominal 95 % intervals by the gate of estimability\n")
    print("Each cell: percentile / expanded percentile / BCa. Made by `python -m benchmarks.trust.gate_calibration chosen heldout`.\n")
    for wanted in sys.argv[1:] or list(SETS):
        print(table(wanted, *run(wanted)), flush=True)
