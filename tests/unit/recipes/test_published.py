"""Published settings name an algorithm that exists and settings that it has, and say where they come from."""

from __future__ import annotations

import pytest

from stitchrl import algorithms
from stitchrl.core.settings import read_settings
from stitchrl.recipes.published import recipes


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_is_of_an_algorithm_and_its_settings(name: str) -> None:
    made = recipes()[name]()
    assert made.algorithm in algorithms.names()
    _, config = algorithms.find(made.algorithm)
    read = read_settings(config, made.settings, name)
    for setting, value in made.settings.items():
        assert getattr(read, setting) == value


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_cites_where_its_numbers_come_from(name: str) -> None:
    told = recipes()[name].__doc__ or ""
    assert "arXiv:" in told or "CORL" in told or "d3rlpy" in told or "OGBench" in told
