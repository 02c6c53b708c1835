"""Streams of random numbers: the same for a seed, apart from each other, and of the shapes that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stitchrl.core import randomness
from stitchrl.core.errors import ConfigError
from stitchrl.core.randomness import STREAMS, Normal, Uniform, stream_seed


def test_streams_of_seeds_never_coincide() -> None:
    found = [stream_seed(seed, stream) for seed in (0, 1, 2, 5, 2**31, 2**32 - 1) for stream in STREAMS]
    assert len(set(found)) == len(found)
    assert all(0 <= number < 2**63 for number in found)


def test_a_stream_is_the_same_each_time_and_on_each_machine() -> None:
    assert stream_seed(0, "indices") == stream_seed(0, "indices")
    one, two = (randomness.generator(3, "noise") for _ in range(2))
    assert torch.equal(Normal((4,)).draw(5, one), Normal((4,)).draw(5, two))
    # numpy's SeedSequence is the same on all platforms: written down, so that a change of it is noticed
    assert stream_seed(1, "noise") == 7764949442709860949


@pytest.mark.parametrize("seed", [-1, 1.0, None, "1", True, 2**32])
def test_a_strange_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="expected an integer from 0 to 4,294,967,295"):
        stream_seed(seed, "noise")


def test_normal_and_uniform_numbers() -> None:
    generator = randomness.generator(0, "noise")
    normal, uniform = Normal((5, 2)).draw(4000, generator), Uniform((3,)).draw(10_000, generator, torch.float64)
    assert normal.shape == (4000, 5, 2) and normal.dtype == torch.float32
    assert uniform.shape == (10_000, 3) and uniform.dtype == torch.float64
    assert abs(normal.mean()) < 0.03 and abs(normal.var() - 1) < 0.05
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.005
