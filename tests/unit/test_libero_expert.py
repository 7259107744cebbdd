"""The scripted LIBERO expert in a world of boxes and one bowl, in which fingers take only what they can reach."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "packages" / "egem-simulators" / "src"))
from egem_simulators.libero_expert import Step, solve

TABLE = 0.9
STAND = np.array([-0.66, 0.0])
PLATE = np.array([0.05, 0.2, TABLE])


class World:
    """A hand that follows three tenths of each action, and a bowl of 5 cm radius and height to be put on a plate.

    Args:
        bowl: the bowl's origin.
        boxes: (x from, x to, y from, y to, top) of what stands around.
        slips: how many grasps come to nothing.
    """

    interest = ("akita_black_bowl_1", "plate_1")
    below = 0.0
    """How far the thing reaches below its origin."""

    def __init__(self, bowl: list[float], boxes: list[tuple[float, ...]], slips: int = 0) -> None:
        self.hand, self.turn = np.array([-0.2, 0.0, 1.17]), Rotation.from_euler("x", 180, degrees=True)
        self.bowl, self.boxes, self.slips = np.array(bowl), boxes, slips
        self.held: np.ndarray | None = None
        self.grasped: list[np.ndarray] = []
        """Where on the bowl the fingers closed."""

    def look(self) -> dict[str, np.ndarray]:
        return {
            "robot0_eef_pos": self.hand.copy(),
            "robot0_eef_quat": self.turn.as_quat(),
            f"{self.interest[0]}_pos": self.bowl.copy(),
            f"{self.interest[1]}_pos": PLATE,
        }

    def surroundings(self, x: float, y: float) -> float:
        return max([TABLE, *(top for a, b, c, d, top in self.boxes if a <= x <= b and c <= y <= d)])

    def height(self, x: float, y: float) -> float:
        away = np.hypot(x - self.bowl[0], y - self.bowl[1])
        return max(self.surroundings(x, y), self.bowl[2] + 0.05 if away < 0.05 else 0.0)

    def step(self, action: np.ndarray) -> None:
        assert action.shape == (7,)
        assert np.abs(action).max() <= 1.0
        self.hand = self.hand + 0.3 * 0.05 * action[:3]
        self.turn = Rotation.from_rotvec(0.3 * 0.5 * action[3:6]) * self.turn
        if action[6] < 0:
            if self.held is not None:
                self.bowl[2] = self.surroundings(*self.bowl[:2]) + self.below
            self.held = None
        elif self.held is None and self._takes():
            self.grasped.append(self.hand - self.bowl)
            self.held = self.bowl - self.hand
        if self.held is not None and self.slips and self.hand[2] + self.held[2] > self.bowl[2] + 0.01:
            self.slips, self.held = self.slips - 1, np.full(3, np.nan)  # closed around nothing until it opens
        if self.held is not None and not np.isnan(self.held).any():
            self.bowl = self.hand + self.held
            bottom = self.bowl[2] - self.below
            assert bottom > self.surroundings(*self.bowl[:2]) - 0.01, "it was carried through something"

    def _takes(self) -> bool:
        """Whether the rim is between the fingers, and nothing else."""
        offset, axis = self.hand - self.bowl, self.turn.apply([0.0, 1.0, 0.0])[:2]
        radius = float(np.hypot(*offset[:2]))
        outwards, axis = offset[:2] / radius, axis / np.hypot(*axis)
        if not (0.04 < radius < 0.06 and 0.015 < offset[2] < 0.045 and abs(axis @ outwards) > 0.97):
            return False
        swept = (self.hand[:2] + reach * outwards for reach in np.arange(0.01, 0.07, 0.005))
        return all(self.surroundings(x, y) < self.hand[2] - 0.014 for x, y in swept)


class Bottle(World):
    """20 cm of milk, 5 cm wide, its origin in the middle, to be put into a basket."""

    interest = ("milk_1", "basket_1_contain_region")
    below = 0.1

    def look(self) -> dict[str, np.ndarray]:
        return {**super().look(), "basket_1_pos": PLATE}

    def height(self, x: float, y: float) -> float:
        inside = abs(x - self.bowl[0]) < 0.025 and abs(y - self.bowl[1]) < 0.025
        return max(self.surroundings(x, y), self.bowl[2] + self.below if inside else 0.0)

    def _takes(self) -> bool:
        offset = self.hand - self.bowl
        return bool(np.hypot(*offset[:2]) < 0.015 and 0.0 < offset[2] < 0.05)


def play(world: World) -> Iterator[Step]:
    """Each step of the expert, then what it does to the world."""
    for step in solve(
        world.look,
        world.height,
        stand=STAND,
        interest=list(world.interest),
        rng=np.random.default_rng(0),
    ):
        yield step
        world.step(step.action)


def test_a_bowl_is_put_on_the_plate():
    world = World([-0.06, -0.1, TABLE], [])
    steps = list(play(world))
    np.testing.assert_allclose(world.bowl, PLATE, atol=0.015)
    assert list(dict.fromkeys(step.subtask for step in steps)) == [
        "reach for the akita black bowl",
        "grasp the akita black bowl",
        "lift the akita black bowl",
        "carry the akita black bowl to the plate",
        "let go of the akita black bowl",
    ]
    assert len(world.grasped) == 1
    assert np.hypot(*(world.hand[:2] - STAND)) < np.hypot(*(PLATE[:2] - STAND))  # held at the robot's side


def test_the_hand_leans_back_only_far_from_the_robot():
    near, far = World([-0.15, -0.1, TABLE], []), World([0.1, -0.1, TABLE], [])
    leans = []
    for world in (near, far):
        for step in play(world):
            if step.subtask.startswith("grasp"):
                break
        leans.append(world.turn.apply([0.0, 0.0, 1.0]))  # where the fingers point
    np.testing.assert_allclose(leans[0], [0.0, 0.0, -1.0], atol=0.02)
    outwards = (far.hand[:2] - STAND) / np.hypot(*(far.hand[:2] - STAND))
    assert 0.1 < leans[1][:2] @ outwards < np.sin(0.4)


@pytest.mark.parametrize(("free", "wall"), [("right", 0), ("left", 1), ("back", 2), ("front", 3)])
def test_a_bowl_in_a_box_is_held_at_the_side_that_is_free(free, wall):
    walls = [
        (-0.2, 0.2, 0.06, 0.08),
        (-0.2, 0.2, -0.08, -0.06),
        (-0.08, -0.06, -0.2, 0.2),
        (0.06, 0.08, -0.2, 0.2),
    ]
    bowl = np.array([0.0, -0.2, TABLE])
    boxes = [
        (a + bowl[0], b + bowl[0], c + bowl[1], d + bowl[1], TABLE + 0.06)
        for number, (a, b, c, d) in enumerate(walls)
        if number != wall
    ]
    world = World(list(bowl), boxes)
    list(play(world))
    np.testing.assert_allclose(world.bowl, PLATE, atol=0.015)
    outwards = {"right": [0, 1], "left": [0, -1], "back": [-1, 0], "front": [1, 0]}[free]
    assert world.grasped[0][:2] @ outwards > 0.04


def test_what_stands_on_the_way_is_passed_over():
    world = World([-0.06, -0.2, TABLE], [(-0.3, 0.3, -0.05, 0.05, TABLE + 0.25)])
    list(play(world))  # `step` looks at every place
    np.testing.assert_allclose(world.bowl, PLATE, atol=0.015)


def test_tall_things_come_over_a_baskets_wall():
    world = Bottle([-0.1, -0.2, TABLE + 0.1], [(-0.03, 0.13, 0.118, 0.122, TABLE + 0.14)])
    list(play(world))
    np.testing.assert_allclose(world.bowl, [*PLATE[:2], TABLE + 0.1], atol=0.02)


def test_a_lost_bowl_is_grasped_once_more():
    world = World([-0.06, -0.1, TABLE], [], slips=1)
    list(play(world))
    assert len(world.grasped) == 2
    np.testing.assert_allclose(world.bowl, PLATE, atol=0.015)
    assert np.linalg.norm(world.grasped[0] - world.grasped[1]) > 0.01  # elsewhere
