"""The run doctor's rules, by table: each alarm's numbers worked out here, just below and just above where it rises."""

from __future__ import annotations

import math

import pytest

from stitchrl.core.alarms import AlarmChange, alarms_of, read_change
from stitchrl.core.errors import CheckpointError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.training.run_doctor import Limits, RunDoctor, action_freedom

LIMITS = Limits(low=0.0, high=10.0, best_logged=6.0, horizon=100.0, free_entropy=0.0, free_gap=2.0)
Lines = list[dict[str, list[float | None]]]


def rose(lines: Lines, limits: Limits = LIMITS) -> list[str]:
    """The names that stand at the last line."""
    doctor = RunDoctor(limits, range(len(next(iter(lines[0].values())))))
    for step, line in enumerate(lines, 1):
        doctor.judge(step, line)
    return sorted(doctor.standing)


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        # 2 % of the width of 10 is 0.2: 10.2 is the last value that may be scatter
        ([{"metric/q": [10.19]}], []),
        ([{"metric/q": [10.21]}], ["overestimation"]),
        ([{"metric/q_target": [11.0]}], ["overestimation"]),
        ([{"probe/chosen_value": [9.0, 11.0]}], ["overestimation"]),
        ([{"probe/start_value": [11.0]}], ["overestimation"]),  # and not beyond the log as well
        ([{"metric/q": [-1e6]}], []),  # pessimism is what conservative learners are for
        ([{"metric/q": [None]}], []),
        ([{"metric/q": [math.nan]}], []),
        ([{"probe/start_value": [6.19]}], []),
        ([{"probe/start_value": [6.21]}], ["beyond_the_log"]),
        # wider than 10 + 2; or ten times the first (at least the free 2)
        ([{"metric/conservative_gap": [11.9]}], []),
        ([{"metric/conservative_gap": [12.1]}], ["exploding_gap"]),
        ([{"metric/conservative_gap": [-30.0]}], []),
        ([{"metric/clipped_weights": [0.09]}], []),
        ([{"metric/clipped_weights": [0.11]}], ["saturated_weights"]),
        ([{"metric/high_clipped_weights": [0.05], "metric/low_clipped_weights": [0.11]}], ["saturated_weights"]),
        ([{"probe/multiplier": [1e6]}], ["lagrange_multiplier"]),
        ([{"probe/multiplier": [9e5]}], []),
        ([{"probe/multiplier": [1e-4]}], ["lagrange_multiplier"]),
        ([{"metric/temperature": [0.5]}, {"metric/temperature": [0.5e4]}], []),
        ([{"metric/temperature": [0.5]}, {"metric/temperature": [0.51e4]}], ["temperature"]),
        ([{"metric/temperature": [0.5]}, {"metric/temperature": [0.49e-4]}], ["temperature"]),
        # a critic's loss of 0.05 counts; one below 1e-4 of the width squared, 0.01, counts as that
        ([{"loss/critic": [0.05]}, {"loss/critic": [49.0]}], []),
        ([{"loss/critic": [0.05]}, {"loss/critic": [51.0]}], ["growing_loss"]),
        ([{"loss/critic": [1e-9]}, {"loss/critic": [9.9]}], []),
        ([{"loss/critic": [1e-9]}, {"loss/critic": [10.1]}], ["growing_loss"]),
        # an actor without a critic: from 0.01; with one its loss is a value, and small below the width of 10
        ([{"loss/actor": [0.5]}, {"loss/actor": [501.0]}], ["growing_loss"]),
        ([{"loss/actor": [-0.5], "loss/critic": [1.0]}, {"loss/actor": [-501.0], "loss/critic": [1.0]}], []),
        ([{"loss/actor": [-0.5], "loss/critic": [1.0]}, {"loss/actor": [-1e4 - 1], "loss/critic": [1.0]}], ["growing_loss"]),
        ([{"loss/temperature": [1e-6]}, {"loss/temperature": [1e3]}], []),
        ([{"loss/multiplier": [1e-6]}, {"loss/multiplier": [-1e6]}], []),
        # the smallest is of all lines before, and of the seed itself
        ([{"loss/value": [5.0, 900.0]}, {"loss/value": [0.5, 900.0]}, {"loss/value": [501.0, 900.0]}], ["growing_loss"]),
        ([{"loss/value": [0.5, 900.0]}, {"loss/value": [0.5, 901.0]}], []),
    ],
)
def test_each_alarm_rises_where_it_should(lines: Lines, names: list[str]) -> None:
    assert rose(lines) == names


def test_a_gap_that_grew_tenfold_rises_also_where_values_range_widely() -> None:
    wide = Limits(0.0, 1000.0, 600.0, 100.0, 0.0, 2.0)
    assert rose([{"metric/conservative_gap": [5.0]}, {"metric/conservative_gap": [49.0]}], wide) == []
    assert rose([{"metric/conservative_gap": [5.0]}, {"metric/conservative_gap": [51.0]}], wide) == ["exploding_gap"]


def test_soft_values_may_exceed_returns_by_their_entropy() -> None:
    """A temperature that was once 0.5 may add 0.5 · log 2 · 100 = 34.7 to a value of at most 10."""
    entropy, _ = action_freedom(Spec(Box((3,)), Box((1,), (-1.0,), (1.0,))))
    soft = Limits(0.0, 10.0, 10.0, 100.0, entropy, 2.0)
    past: dict[str, list[float | None]] = {"metric/temperature": [0.5], "metric/q": [0.0]}
    assert rose([past, {"metric/temperature": [0.1], "metric/q": [44.0]}], soft) == []
    assert rose([past, {"metric/temperature": [0.1], "metric/q": [45.0]}], soft) == ["overestimation"]
    assert rose([past, {"metric/temperature": [0.1], "metric/q": [44.0]}], LIMITS) == ["overestimation"]


def test_the_freedom_of_actions() -> None:
    assert action_freedom(Spec(Box((3,)), Discrete(25))) == (math.log(25), math.log(25))
    entropy, gap = action_freedom(Spec(Box((3,)), Box((2,), (-1.0,), (1.0,))), sampled=10)
    assert entropy == pytest.approx(math.log(4)) and gap == pytest.approx(math.log(4) + math.log(30))


def test_an_alarm_is_told_when_it_rises_and_when_it_clears() -> None:
    doctor = RunDoctor(LIMITS, (7, 9))
    told = [doctor.judge(step, {"metric/q": q}) for step, q in ((10, [1.0, 1.0]), (20, [1.0, 11.0]), (30, [1.0, 12.0]))]
    assert told[0] == told[2] == []
    [change] = told[1]
    assert (change.step, change.change, change.name, change.seeds) == (20, "rose", "overestimation", (9,)) and "11" in change.seen
    [spread] = doctor.judge(40, {"metric/q": [13.0, 12.0]})
    assert spread.seeds == (7, 9)  # in one more seed
    [cleared] = doctor.judge(50, {"metric/q": [1.0, 1.0]})
    assert cleared == AlarmChange(50, "cleared", "overestimation", (), "", "")
    assert [c.change for c in doctor.judge(60, {"metric/q": [11.0, 1.0]})] == ["rose"]
    changes = [change, spread, cleared, *RunDoctor(LIMITS, (7, 9)).judge(60, {"metric/q": [11.0, 1.0]})]
    [alarm] = alarms_of(changes)
    assert (alarm.step, alarm.cleared, alarm.seeds, alarm.times) == (20, None, (7, 9), 2)
    [alarm] = alarms_of(changes[:3])
    assert alarm.cleared == 50 and "from step 20, cleared at step 50 (seeds 7, 9)" in alarm.sentence


def test_a_replay_says_the_same_and_leaves_nothing_to_tell_again() -> None:
    lines = [{"step": k, "seconds": 1.0, "loss/critic": [0.1], "metric/q": [q]} for k, q in ((1, 0.0), (2, 11.0), (3, 0.0), (4, 12.0))]
    whole, again = RunDoctor(LIMITS, (0,)), RunDoctor(LIMITS, (0,))
    told = [c for line in lines for c in whole.judge(int(line["step"]), {k: v for k, v in line.items() if isinstance(v, list)})]  # type: ignore[call-overload]
    assert again.replay(lines) == told and [c.change for c in told] == ["rose", "cleared", "rose"]
    after: dict[str, list[float | None]] = {"loss/critic": [101.0], "metric/q": [12.0]}
    assert again.judge(5, after) == whole.judge(5, after) and [c.name for c in again.judge(6, after)] == []


def test_a_line_of_alarms_is_read_as_it_was_written() -> None:
    change = AlarmChange(20, "rose", "temperature", (3,), "it did", "do that")
    assert read_change(change.to_json(), "here") == change
    assert read_change({"step": 5, "change": "cleared", "name": "temperature"}, "here").change == "cleared"
    for wrong in ({"step": "5"}, {"change": "grew"}, {"name": 3}, {"seeds": 4}, {"seeds": ["a"]}, {"seen": None}):
        with pytest.raises(CheckpointError, match="alarms.jsonl line 2: not an alarm"):
            read_change(change.to_json() | wrong, "alarms.jsonl line 2")
