"""What planners by diffusion share: limits, ends of episodes, plans that are kept and renewed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Memory
from stitchrl.core.spec import Box, Discrete
from stitchrl.core.windows import WindowBatch
from stitchrl.nn.noise_schedules import Schedule, chain
from stitchrl.nn.planning import Limits, Measured, check_horizon, held, no_plans, remaining, renewed

ANY = torch.zeros(1)


def test_a_range_becomes_minus_one_to_one_and_a_constant_zero() -> None:
    limits = Limits(Box((3,)))
    limits.measure(torch.tensor([[0.0, 5.0, -4.0], [10.0, 5.0, 4.0], [2.0, 5.0, 0.0]]))
    values = torch.tensor([[10.0, 5.0, -4.0], [2.5, 5.0, 2.0], [20.0, 6.0, 0.0]])
    vectors = limits.encode(values, ANY)
    # (2.5 - 5) / 5 = -0.5; 20 lies beyond the range and is kept; a constant is only shifted
    assert torch.equal(vectors, torch.tensor([[1.0, 0.0, -1.0], [-0.5, 0.0, 0.5], [3.0, 1.0, 0.0]]))
    assert torch.equal(limits.decode(vectors), values)


def test_an_integer_becomes_a_vector_with_one_one() -> None:
    limits = Limits(Discrete(3))
    assert limits.encode(torch.tensor([2, 0]), ANY).tolist() == [[-1, -1, 1], [1, -1, -1]]
    assert limits.decode(torch.tensor([[0.1, 0.3, -2.0]])).tolist() == [1]


def test_arrays_are_read_flat_and_given_back_in_their_shape() -> None:
    limits = Limits(Box((2, 2)))
    values = torch.tensor([[[0.0, 2.0], [4.0, 6.0]], [[2.0, 4.0], [8.0, 8.0]]])
    limits.measure(values)
    assert limits.encode(values.unsqueeze(0), ANY).shape == (1, 2, 4)
    assert torch.equal(limits.decode(limits.encode(values, ANY)), values)


def test_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="images"):
        Limits(Box((84, 84), dtype="uint8"))


def test_numbers_are_measured_and_given_back() -> None:
    returns = Measured()
    returns.measure(torch.tensor([1.0, 3.0, 5.0, 7.0]))
    x = torch.tensor([4.0, 10.0])
    assert returns.share(x).tolist() == [0.5, 1.5]
    assert returns.standardized(x)[0] == 0
    assert torch.allclose(returns.restored(returns.standardized(x)), x)
    returns.measure(torch.tensor([2.0, 2.0]))  # nothing to tell apart
    assert returns.share(torch.tensor([2.0])).tolist() == returns.standardized(torch.tensor([2.0])).tolist() == [0]


def window(present: list[float], terminals: list[float]) -> WindowBatch:
    length = len(present)
    zeros = torch.zeros(1, length)
    seen = (torch.arange(1.0, length + 1) * torch.tensor(present)).reshape(1, length, 1)
    return WindowBatch(seen, zeros.unsqueeze(-1), zeros, zeros, torch.tensor([terminals]), zeros.long(), zeros, torch.tensor([present]))


def test_the_last_state_is_held_and_known_only_where_the_task_ended() -> None:
    states, known = held(window([1, 1, 1, 0, 0], [0, 1, 0, 0, 0]))
    assert states[0, :, 0].tolist() == [1, 2, 3, 3, 3] and known[0].tolist() == [1, 1, 1, 1, 1]
    states, known = held(window([1, 1, 1, 0, 0], [0, 0, 0, 0, 0]))  # the clock
    assert states[0, :, 0].tolist() == [1, 2, 3, 3, 3] and known[0].tolist() == [1, 1, 1, 0, 0]


def test_the_end_of_a_chain_begins_as_one_of_first_order() -> None:
    schedule = Schedule("cosine", 40)
    whole, ddim = chain(schedule, "dpm_solver++", 10), chain(schedule, "ddim", 10)
    assert whole[-4].before != 0
    rest = remaining(whole, 4)
    assert rest[1:] == whole[-3:] and rest[0].before == 0
    assert (rest[0].time, rest[0].keep) == (ddim[-4].time, pytest.approx(ddim[-4].keep, rel=1e-5))
    assert rest[0].data == pytest.approx(ddim[-4].data, rel=1e-5)


AHEAD = [0.3, 0.6, 0.9, 1.0]  # two steps are done; it goes on as it last moved, by 0.3 a step, as far as the limit


def test_plans_are_kept_until_their_steps_are_done_and_begin_from_those_before() -> None:
    asked: list[tuple[list[int], list[float] | None]] = []
    plan = torch.tensor([0.0, 0.1, 0.3, 0.6]).reshape(1, 4, 1)

    def make(rows: Tensor, before: Tensor | None) -> Tensor:
        asked.append((rows.tolist(), None if before is None else before[0, :, 0].tolist()))
        return plan.expand(len(rows), -1, -1)

    memory: Memory = no_plans(2, 4, 1, ANY)
    ages = []
    for step in range(5):
        if step == 3:  # the second environment begins an episode
            memory["ages"][1] = -1
        _, age, memory = renewed(memory, 2, True, make)
        ages.append(age.tolist())
    assert ages == [[0, 0], [1, 1], [0, 0], [1, 0], [0, 1]]
    assert [(rows, before and pytest.approx(before)) for rows, before in asked] == [
        ([0, 1], None), ([0, 1], AHEAD), ([1], None), ([0], AHEAD)
    ]  # fmt: skip
    asked.clear()
    _, _, memory = renewed(no_plans(2, 4, 1, ANY), 1, False, make)
    renewed(memory, 1, False, make)
    assert asked == [([0, 1], None), ([0, 1], None)]


@pytest.mark.parametrize(
    ("horizon", "every", "warm", "word"), [(1, 1, 0, "horizon"), (4, 4, 0, "replan_every"), (4, 3, 10, "warm_start_steps")]
)
def test_settings_that_do_not_fit_are_told(horizon: int, every: int, warm: int, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        check_horizon(horizon, every, warm, chain(Schedule("cosine", 10), "ddim"))
