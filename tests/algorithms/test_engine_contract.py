"""What holds when the engine trains any algorithm: seeds, stopping and resuming, cadence, targets, compilation, divergence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stitchrl.core.errors import DivergenceError
from stitchrl.training import checkpoint
from stitchrl.training.blocks import BLOCK_STEPS
from stitchrl.training.compilation import prepare
from stitchrl.training.learner import Learner
from tests.algorithms.synthetic_log import Case, advance, cases, weights

ALL = cases()
FIRST = cases(variants=False)
ORDERS = ("joint", "sequential")
ONES = torch.ones(2)


def largest_difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    assert one.keys() == two.keys()
    return max((one[name].double() - two[name].double()).abs().max().item() for name in one)


def seed_of(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Returns one seed's parameters and moments of a learner's many."""
    return {name: value[seed] for name, value in state.items() if "/" in name and not name.startswith("counts/")}


def compare_seeds(case: Case, order: str, steps: int) -> None:
    # In float64, where rounding is 1e-16: in float32 a gradient of rounding's own size may change its sign, and Adam,
    # which divides by the gradient's size, then moves that weight by a whole learning rate the other way.
    together = advance(case.learner((0, 5, 2), order=order, precision="float64"), steps)
    for position, seed in enumerate((0, 5, 2)):
        if steps < 200 and position != 1:
            continue
        alone = advance(case.learner((seed,), order=order, precision="float64"), steps)
        ours = {name: value for name, value in weights(alone).items() if "/" in name and not name.startswith("counts/")}
        assert largest_difference(ours, seed_of(weights(together), position)) < 1e-10
        for name, values in alone.read_metrics().items():
            assert together_metric(together, name, position) == pytest.approx(values[0], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", FIRST, ids=str)
def test_seeds_together_are_seeds_alone(case: Case, order: str) -> None:
    compare_seeds(case, order, 12)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=str)
def test_three_seeds_together_are_three_runs_over_200_steps(case: Case) -> None:
    compare_seeds(case, "joint", 200)


def together_metric(learner: Learner, name: str, position: int) -> float:
    sums = [(due, totals[name][position].item()) for due, totals in learner._totals.items() if name in totals]
    return sum(value for _, value in sums) / sum(learner._counts[due] for due, _ in sums)


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_three_seeds_together_are_three_runs_in_float32(case: Case) -> None:
    together = advance(case.learner((0, 5, 2)), 10)
    alone = advance(case.learner((5,)), 10)
    ours = {name: value for name, value in weights(alone).items() if name.startswith("parameters/")}
    theirs = {name: value for name, value in seed_of(weights(together), 1).items() if name.startswith("parameters/")}
    difference = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
    assert difference.quantile(0.99) < 1e-5  # see above for the hundredth
    assert difference.max() < 20 * 2 * 1e-3


def stop_and_resume(case: Case, stops: list[int], directory: Path, seeds: tuple[int, ...], **settings: Any) -> None:
    """Compares an unbroken run with one that is saved, dropped and built anew at each of `stops`, the last of which ends it."""
    whole = advance(case.learner(seeds, **settings), stops[-1])
    learner = case.learner(seeds, **settings)
    for stop in stops:
        advance(learner, stop - learner.step)
        checkpoint.save(directory, stop, learner.tensors(), {}, keep=2)
        tensors, extra = checkpoint.load_newest(directory)
        learner = case.learner(seeds, **settings)
        learner.restore(tensors, extra["step"])
    one, two = whole.tensors(), learner.tensors()
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert whole.read_metrics() == learner.read_metrics()


EDGES = [0, 1, 37, BLOCK_STEPS - 1, BLOCK_STEPS, BLOCK_STEPS + 1, BLOCK_STEPS + 6]


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_a_run_that_stops_and_resumes_is_the_run_that_did_not(case: Case, tmp_path: Path) -> None:
    stop_and_resume(case, EDGES, tmp_path, (3,))


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seeds", [(3,), (3, 1)], ids=["one", "two"])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_variant_resumes_exactly(case: Case, seeds: tuple[int, ...], order: str, tmp_path: Path) -> None:
    stop_and_resume(case, [*EDGES, 2 * BLOCK_STEPS, 2 * BLOCK_STEPS + 5], tmp_path, seeds, order=order)


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_the_same_seed_twice_is_the_same_run_and_another_seed_is_not(case: Case) -> None:
    one, two, other = (advance(case.learner((seed,)), 5) for seed in (1, 1, 2))
    assert largest_difference(weights(one), weights(two)) == 0
    assert largest_difference(weights(one), weights(other)) > 0


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_how_often_metrics_are_read_changes_no_weight(case: Case) -> None:
    often, never = case.learner(), case.learner()
    sums: dict[str, list[float]] = {}
    for _ in range(12):
        often.advance()
        for name, values in often.read_metrics().items():
            sums.setdefault(name, []).append(values[0])
        often.tensors()
        often.last_batch()
    advance(never, 12)
    assert largest_difference(weights(often), weights(never)) == 0
    for name, values in never.read_metrics().items():  # the mean of the parts is the mean of the whole
        assert sum(sums[name]) / len(sums[name]) == pytest.approx(values[0], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_networks_and_targets_move_when_they_are_due_and_only_then(case: Case) -> None:
    learner = case.learner()
    template = learner.template
    for step in range(6):
        before = weights(learner)
        learner.advance()
        after = weights(learner)
        for name in (*template.networks, *template.targets):
            moved = any(not torch.equal(before[key], after[key]) for key in before if key.startswith(f"parameters/{name}."))
            due = (step + 1) % template.update_every.get(name, 1) == 0
            assert moved == due, f"{name} at step {step}"
        for network in template.networks:
            assert after[f"counts/{network}"] == (step + 1) // template.update_every.get(network, 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", [c for c in ALL if c.build().targets], ids=str)
def test_targets_are_moving_averages_of_what_they_follow(case: Case, order: str) -> None:
    learner = case.learner((0, 1), order=order, precision="float64")
    rate = learner.template.target_rate
    expected = {
        name: value
        for name, value in weights(learner).items()
        if name.split(".")[0].removeprefix("parameters/") in learner.template.targets
    }
    for step in range(6):
        learner.advance()
        now = weights(learner)
        for name in expected:
            target, rest = name.removeprefix("parameters/").split(".", 1)
            source = now[f"parameters/{learner.template.targets[target]}.{rest}"]  # moved before its average is
            if (step + 1) % learner.template.update_every.get(target, 1) == 0:
                expected[name] = (1 - rate) * expected[name] + rate * source
            torch.testing.assert_close(now[name], expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", FIRST, ids=str)
@pytest.mark.parametrize("column", ["observations", "rewards"])
def test_a_number_that_is_not_finite_halts_before_the_step(case: Case, order: str, column: str) -> None:
    learner = case.learner((4,), order=order, steps=100, batch_size=8)
    widths = case.algorithm.batch.columns(case.spec)
    if column == "rewards" and ("critic" not in learner.template.networks or column not in widths):
        pytest.skip("reads no rewards")
    advance(learner, 3)
    before = weights(learner)
    position = sum(widths[name] for name in list(widths)[: list(widths).index(column)])
    row = learner._block.index[3, 0]  # type: ignore[union-attr]  # the fourth step's first row
    learner._block.table[row, position] = float("nan")  # type: ignore[union-attr]
    for _ in range(5):
        learner.advance()
    after = weights(learner)
    if order == "joint":  # sequential: networks before the one that failed have moved, if their own loss was finite
        assert largest_difference(before, after) == 0
    assert all(torch.isfinite(value).all() for value in after.values())
    first_met = min(k for k in range(3, 8) if row in learner._block.index[k])  # type: ignore[union-attr]
    assert first_met == 3
    with pytest.raises(DivergenceError, match=r"step 3: .*loss/\w+.* of seed 4 is not finite"):
        learner.check()
    assert learner.step == 3
    rows, _ = learner.last_batch()
    assert torch.isnan(rows).any(), "the batch that failed can be saved"


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_one_seed_of_three_that_fails_is_named(case: Case) -> None:
    learner = case.learner((4, 8, 6), batch_size=8)
    advance(learner, 1)
    own = [n for n in learner.update.parameters if n.startswith(learner.template.networks[-1] + ".")]
    name = next(n for n in own if not n.endswith("log_std") and learner.update.parameters[n].requires_grad)  # that one is clamped
    with torch.no_grad():
        learner.update.parameters[name][1] = float("inf")
    before = weights(learner)
    learner.advance()
    with pytest.raises(DivergenceError, match="step 1: .*of seed 8 "):
        learner.check()
    assert all(torch.equal(value.nan_to_num(), before[key].nan_to_num()) for key, value in weights(learner).items())


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_save_load_save_is_byte_identical(case: Case, tmp_path: Path) -> None:
    learner = advance(case.learner((0, 1)), 10)
    one = checkpoint.save(tmp_path / "one", 10, learner.tensors(), {"note": "x"}, keep=1)
    fresh = case.learner((0, 1))
    fresh.restore(checkpoint.load(one)[0], 10)
    two = checkpoint.save(tmp_path / "two", 10, fresh.tensors(), {"note": "x"}, keep=1)
    for name in ("state.safetensors", "state.json", "manifest.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


QUICK = ("bc-discrete", "td3_bc-box")


def compiled_cases() -> list[Any]:
    """Returns each case with one and with two seeds; all but the quick ones are slow: compiling takes 10 to 60 s."""
    pairs = [(case, seeds) for case in ALL for seeds in ((0,), (0, 1))]
    return [
        pytest.param(case, seeds, id=f"{case}-{len(seeds)}", marks=() if str(case) in QUICK and len(seeds) == 1 else pytest.mark.slow)
        for case, seeds in pairs
    ]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the compiler's own imports
@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=str)
def test_losses_compile_as_one_graph(case: Case) -> None:
    algorithm = case.build().double()
    noise = {n: kind.draw(1, torch.Generator().manual_seed(0), torch.float64)[0] for n, kind in algorithm.noise(16).items()}
    rows = case.rows(16).double()
    due = frozenset((*algorithm.networks, *algorithm.targets))
    torch.compiler.reset()  # it gives up on a function that it has compiled for eight others
    with torch.no_grad():
        expected = algorithm(rows, noise, due)
        found = torch.compile(algorithm, fullgraph=True)(rows, noise, due)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the compiler's own imports
@pytest.mark.parametrize(("case", "seeds"), compiled_cases())
def test_a_compiled_step_is_the_plain_step(case: Case, seeds: tuple[int, ...]) -> None:
    torch.compiler.reset()
    plain, compiled = (case.learner(seeds, precision="float64", batch_size=8) for _ in range(2))
    compiled.compiled = True
    for learner in (plain, compiled):
        advance(learner, 6)
    # Adam divides gradients that are nearly nothing by their own size: after six steps Diffuser's convolutions are 1.01e-9 apart
    assert largest_difference(weights(plain), weights(compiled)) < 5e-9
    one, two = plain.read_metrics(), compiled.read_metrics()
    assert one.keys() == two.keys()
    for name in one:
        assert one[name] == pytest.approx(two[name], rel=1e-9, abs=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the compiler's own imports
@pytest.mark.slow
def test_compiled_learners_do_not_share_what_was_compiled_for_another() -> None:
    torch.compiler.reset()
    pairs = []
    for rate in (1e-3, 1e-2):  # a constant in what is compiled
        case = Case("bc", "box", {"learning_rate": rate})
        plain, compiled = (case.learner(precision="float64", batch_size=8) for _ in range(2))
        compiled.compiled = True
        pairs.append((plain, compiled))
    for _ in range(3):
        for plain, compiled in pairs:
            advance(plain, 1)
            advance(compiled, 1)
    assert largest_difference(weights(pairs[0][0]), weights(pairs[1][0])) > 1e-4
    for plain, compiled in pairs:
        assert largest_difference(weights(plain), weights(compiled)) < 1e-9


def test_a_compiled_step_is_one_graph() -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported):
        prepare(lambda table, index, noise: print(table.sum().item()), compiled=True, device=torch.device("cpu"))(ONES, ONES, {})
