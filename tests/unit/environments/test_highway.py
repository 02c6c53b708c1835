"""Highway: what a collision costs, by hand; drives that depend on the seed alone; what the written drivers do when."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Discrete
from stitchrl.environments.behaviours import RandomBehaviour
from stitchrl.environments.collect import collect
from stitchrl.environments.highway_drivers import FASTER, HABITS, IDLE, LEFT, RIGHT, SLOWER, drive, highway_driver
from stitchrl.environments.make import make, spec_of
from stitchrl.environments.tasks.highway import STEP
from stitchrl.recipes.named_behaviours import behaviour

pytest.importorskip("highway_env")
HIGHWAY = "stitchrl/Highway-v0"


def road(speed: float, lane: int, *others: tuple[float, int]) -> np.ndarray:
    """One flat observation on three lanes: the ego vehicle, and others so many metres ahead and lanes to the right."""
    rows = np.zeros((4, 5))
    rows[0] = 1, 1, lane * 4 / 12, speed / 80, 0
    for row, (ahead, offset) in zip(rows[1:], others, strict=False):
        row[:3] = 1, ahead / 200, offset * 4 / 12
    return rows.reshape(1, -1)


@pytest.mark.parametrize(
    ("who", "seen", "does"),
    [
        ("cautious", road(20, 1), FASTER),
        ("cautious", road(25, 1), IDLE),
        ("cautious", road(29, 1), SLOWER),
        ("cautious", road(24, 1, (30, 0)), LEFT),  # 1.25 s behind another: the left lane is free
        ("cautious", road(24, 0, (30, 0)), RIGHT),  # there is no lane to the left
        ("cautious", road(24, 1, (30, 0), (40, -1), (-25, 1)), SLOWER),
        ("reckless", road(24, 1, (30, 0)), FASTER),  # goes on
        ("reckless", road(24, 1, (15, 0), (12, -1)), RIGHT),
        ("reckless", road(24, 1, (15, 0), (12, -1), (-6, 1)), FASTER),  # and never brakes
        ("reckless", road(24, 1, (15, 0), (20, -1)), LEFT),
    ],
)
def test_what_drivers_do(who: str, seen: np.ndarray, does: int) -> None:
    assert drive(seen, HABITS[who], 3).tolist() == [does]


def test_rewards_and_what_a_collision_costs_by_hand() -> None:
    world = make(HIGHWAY, collision_cost=7.0)
    spec = spec_of(world)
    assert (spec.observation.shape, spec.action) == ((35,), Discrete(5))
    driver, terminal = highway_driver("reckless", spec, world), False
    observation, _ = world.reset(seed=3)
    while not terminal:
        observation, reward, terminal, timeout, _ = world.step(int(driver.function(observation[None])[0]))
        car = world.unwrapped.vehicle
        speed = np.clip((car.speed * np.cos(car.heading) - 20) / 10, 0, 1)
        expected = 0.4 * speed + 0.1 * car.target_lane_index[2] / 2 - 7.0 * car.crashed
        assert reward == pytest.approx(expected * car.on_road)
        assert terminal == car.crashed
        assert not timeout
    world.close()


def test_a_drive_is_the_same_where_sines_have_another_last_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As processors have: numpy's AVX-512 sine is not the C library's."""
    exact = {name: getattr(np, name) for name in ("sin", "cos", "arctan", "tan")}

    def driven(off: bool) -> tuple[np.ndarray, list[float], np.ndarray]:
        for name, function in exact.items():
            monkeypatch.setattr(np, name, (lambda x, f=function: np.nextafter(f(x), 2.0)) if off else function)
        world = make(HIGHWAY)
        driver = highway_driver("cautious", spec_of(world), world)
        seen, rewards = [world.reset(seed=8)[0]], []
        for _ in range(15):
            observation, reward, *_ = world.step(int(driver.function(seen[-1][None])[0]))
            seen.append(observation)
            rewards.append(float(reward))
        places = np.array([car.position for car in world.unwrapped.road.vehicles])
        world.close()
        return np.stack(seen), rewards, places

    (seen, rewards, places), (other, earned, shifted) = driven(False), driven(True)
    assert (places != shifted).any() and np.abs(places - shifted).max() < 1e-9
    assert seen.tobytes() == other.tobytes() and rewards == earned
    assert (seen / STEP % 1 == 0).all() and not np.signbit(seen[seen == 0]).any() and len(set(rewards)) > 3


def test_a_log_depends_on_its_seed_alone() -> None:
    world = make(HIGHWAY, vehicles=3)
    spec = spec_of(world)
    logs = [
        collect(HIGHWAY, behaviour("highway-cautious", spec, world), steps=6, seed=s, parallel=1, options={"vehicles": 3})
        for s in (1, 1, 2)
    ]
    assert logs[0].fingerprint() == logs[1].fingerprint() != logs[2].fingerprint()


def test_mistakes_are_told() -> None:
    cart = make("CartPole-v1")
    with pytest.raises(ConfigError, match=r"drives on stitchrl/Highway-v0"):
        behaviour("highway-reckless", spec_of(cart), cart)
    with pytest.raises(ConfigError, match="highway with 1 lanes"):
        make(HIGHWAY, lanes=1)
    with pytest.raises(ConfigError, match="Did you mean 'vehicles'"):
        make(HIGHWAY, vehicle=1)
    assert RandomBehaviour(spec_of(make(HIGHWAY))).action_probabilities(np.zeros((1, 35))) is not None
