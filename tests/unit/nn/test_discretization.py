"""Numbers as tokens and back: bins worked out by hand, few values exactly, and what holds for any log."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from stitchrl.nn.discretization import Discretization, Kind, bins_of


def measured(log: Tensor, bins: int, kind: Kind = "quantile") -> Discretization:
    made = Discretization(log.shape[1], bins)
    made.measure(log, kind)
    return made


def test_quantile_bins_by_hand() -> None:
    # twelve numbers in four bins of three; an edge lies between two neighbours, a value is the mean of three
    x = torch.tensor([9.0, 1, 2, 5, 4, 3, 7, 8, 6, 10, 20, 30])
    edges, values = bins_of(x, 4, "quantile")
    assert edges.tolist() == [3.5, 6.5, 9.5] and values.tolist() == [2.0, 5.0, 8.0, 20.0]
    made = measured(x.unsqueeze(1), 4)
    asked = torch.tensor([[-100.0], [3.4], [3.5], [9.4], [9.5], [1000.0]])
    assert made.tokens(asked).flatten().tolist() == [0, 0, 1, 2, 3, 3]
    assert made.numbers(torch.tensor([[3], [0]])).flatten().tolist() == [20.0, 2.0]


def test_uniform_bins_by_hand() -> None:
    edges, values = bins_of(torch.tensor([0.0, 0.1, 0.2, 7.0, 8.0]), 4, "uniform")
    assert edges.tolist() == [2.0, 4.0, 6.0] and values.tolist() == [1.0, 3.0, 5.0, 7.0]


def test_a_value_on_most_steps_has_a_bin_of_its_own_and_leaves_the_others_to_the_rest() -> None:
    # a sparse reward: quantile thresholds alone would be ninety times 0
    rare = torch.linspace(1, 2, 40)
    x = torch.cat([torch.zeros(960), rare])
    edges, values = bins_of(x, 11, "quantile")
    assert values[0] == 0 and edges[0] == 0.5
    assert torch.equal(values[1:], rare.reshape(10, 4).double().mean(1).float())


def test_constant_dimensions_and_repeated_thresholds_are_read_back_exactly() -> None:
    log = torch.stack([torch.full((50,), 0.3), torch.arange(50) % 3 - 0.1, torch.linspace(-5, 5, 50)], 1)
    for kind in ("quantile", "uniform"):
        made = measured(log, 10, kind)  # type: ignore[arg-type]
        assert torch.equal(made.numbers(made.tokens(log))[:, :2], log[:, :2])
        outside = torch.tensor([[-9.0, -9.0, -9.0], [9.0, 9.0, 9.0]])
        assert torch.equal(made.numbers(made.tokens(outside))[:, 0], torch.full((2,), 0.3))
        assert torch.isfinite(made.edges).all() and torch.isfinite(made.values).all()


def test_neighbouring_floats_are_told_apart() -> None:
    one = np.float32(1.0)
    x = torch.tensor([one, np.nextafter(one, np.float32(2)), np.nextafter(one, np.float32(0))])
    made = measured(x.unsqueeze(1), 3)
    assert torch.equal(made.numbers(made.tokens(x.unsqueeze(1))), x.unsqueeze(1))


def test_what_is_not_measured_is_even_on_the_unit_interval() -> None:
    made = Discretization(2, 4)
    assert made.numbers(made.tokens(torch.tensor([[-0.9, 0.1], [0.0, 7.0]]))).tolist() == [[-0.75, 0.25], [0.25, 0.75]]


COLUMNS = arrays.arrays(np.float32, st.integers(1, 80), elements=st.floats(-1e6, 1e6, width=32))
REPEATED = arrays.arrays(np.float32, st.integers(1, 80), elements=st.sampled_from([-2.5, -0.1, 0.0, 0.1, 7.0, 1e5]))


@settings(max_examples=150, deadline=None)
@given(st.one_of(COLUMNS, REPEATED), st.integers(1, 12), st.sampled_from(["quantile", "uniform"]))
def test_a_value_lies_in_its_bin_and_a_bin_is_read_as_the_mean_of_what_lies_in_it(x: np.ndarray, bins: int, kind: Kind) -> None:
    log = torch.from_numpy(x + np.float32(0)).unsqueeze(1)  # no negative zero
    made = measured(log, bins, kind)
    edges, values, tokens = made.edges[0], made.values[0], made.tokens(log)[:, 0]
    assert len(edges) == bins - 1 and len(values) == bins
    assert (edges.diff() >= 0).all() and (values.diff() >= 0).all() and 0 <= tokens.min() and tokens.max() < bins
    lower = torch.cat([torch.tensor([-torch.inf]), edges])[tokens]
    upper = torch.cat([edges, torch.tensor([torch.inf])])[tokens]
    assert ((lower <= log[:, 0]) & (log[:, 0] < upper)).all()
    back = made.numbers(made.tokens(log))[:, 0]
    few = len(np.unique(x)) <= bins
    if few:
        assert torch.equal(back, log[:, 0])
    for token in tokens.unique():
        inside = log[tokens == token, 0].double()
        if kind == "quantile":
            assert values[token].item() == pytest.approx(inside.mean().item(), rel=1e-5, abs=1e-5 * max(1.0, float(np.abs(x).max())))
        elif not few:
            width = (float(x.max()) - float(x.min())) / bins
            assert (inside - values[token]).abs().max() <= width / 2 * 1.001 + 1e-5 * float(np.abs(x).max())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_quantile_bins_of_different_numbers_hold_equal_shares(seed: int, bins: int) -> None:
    size = 120 + seed % 7
    x = torch.randn(size, 1, generator=torch.Generator().manual_seed(seed))
    counts = measured(x, bins).tokens(x).flatten().bincount(minlength=bins)
    assert counts.max() - counts.min() <= 1 and counts.sum() == size
