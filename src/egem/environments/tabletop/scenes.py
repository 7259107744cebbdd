"""Many views of how the tasks begin, each a function of its number alone (compare `egem.worlds.tabletop.scenes`)."""

from collections.abc import Iterator, Sequence
from typing import Final

from egem.core.errors import ConfigError
from egem.environments.environment import EnvironmentOptions
from egem.environments.tabletop.environment import TabletopEnvironment
from egem.environments.tabletop.simulator import CAMERAS
from egem.environments.tabletop.tasks import TASKS
from egem.scene import Scene
from egem.worlds.request import check_request

SPLITS: Final = ("train", "held_out")
"""Both are apart from the scenes that policies are scored in (seeds from 0) and shown (from 1,000,000)."""

_FIRST_SEED: Final = {"train": 1_000_000_000, "held_out": 2_000_000_000}
_SCENES_PER_SEED: Final = 10_000_000
_REACH: Final = 4.0
"""How many times as far as at a task's beginning the gripper, and with it the wrist's camera, may be from its place."""


def scenes(
    seed: int,
    num: int,
    *,
    size: tuple[int, int] = (96, 96),
    split: str = "train",
    cameras: Sequence[str] = CAMERAS,
    start: int = 0,
) -> Iterator[Scene]:
    """Views of the tasks' scenes: tasks in turn, of each scene one view from every camera.

    Args:
        seed: integer >= 0, below 100.
        num: how many views.
        size: (height, width) in pixels.
        split: one of `SPLITS`.
        cameras: any of the environment's.
        start: number of the first view.

    Raises:
        ConfigError: unknown split or camera, no camera, or a number out of range.
        RenderError: nothing can draw here.
    """
    check_request(seed=seed, num=num, start=start, split=split, splits=SPLITS, cameras=cameras, known=CAMERAS)
    if seed >= 100 or start + num > _SCENES_PER_SEED:
        raise ConfigError(
            f"seed {seed} and views up to {start + num}: seeds go to 99, views of one to {_SCENES_PER_SEED}."
        )
    return _draw(seed, num, size, split, tuple(cameras), start)


def _draw(
    seed: int, num: int, size: tuple[int, int], split: str, cameras: tuple[str, ...], start: int
) -> Iterator[Scene]:
    environment = TabletopEnvironment(EnvironmentOptions(size=size))
    try:
        current = None
        for number in range(start, start + num):
            drawn = number // len(cameras)
            if drawn != current:
                task = tuple(TASKS)[drawn % len(TASKS)]
                first = _FIRST_SEED[split] + seed * _SCENES_PER_SEED
                environment.begin(task, first + drawn, reach=_REACH)
                current = drawn
            camera = cameras[number % len(cameras)]
            yield environment.scene(camera, f"tasks/{split}/{seed}/{drawn}/{camera}")
    finally:
        environment.close()
