"""Many scenes, each a function of its number alone."""

from collections.abc import Iterator, Sequence
from typing import Final

from egem.core.errors import ConfigError
from egem.scene import Scene
from egem.worlds.request import check_request
from egem.worlds.tabletop.cameras import CAMERAS
from egem.worlds.tabletop.catalog import SPLITS
from egem.worlds.tabletop.world import TabletopWorld

WORLDS_PER_SEED: Final = 1_000_000_000
"""Seed s draws the worlds s * 10^9, s * 10^9 + 1, ...: those of two seeds are never the same."""


def scenes(
    seed: int,
    num: int,
    *,
    size: tuple[int, int] = (96, 96),
    split: str = "train",
    cameras: Sequence[str] = CAMERAS,
    start: int = 0,
) -> Iterator[Scene]:
    """Views of worlds drawn from a seed.

    View i shows world i // len(cameras) from camera i % len(cameras). It depends on nothing but
    (seed, i, split, size, cameras), so processes may draw ranges of their own.

    Args:
        seed: integer >= 0.
        num: how many views.
        size: (height, width) in pixels.
        split: one of `SPLITS`.
        cameras: any of `CAMERAS`.
        start: number of the first view.

    Raises:
        ConfigError: unknown split or camera, no camera, or a negative number.
        RenderError: nothing can draw here.
    """
    check_request(seed=seed, num=num, start=start, split=split, splits=SPLITS, cameras=cameras, known=CAMERAS)
    if (start + num) // len(cameras) >= WORLDS_PER_SEED:
        raise ConfigError(
            f"views up to {start + num} need more than {WORLDS_PER_SEED} worlds; use two seeds."
        )
    return _draw(seed, num, size, split, tuple(cameras), start)


def _draw(
    seed: int, num: int, size: tuple[int, int], split: str, cameras: tuple[str, ...], start: int
) -> Iterator[Scene]:
    with TabletopWorld(size) as world:
        current = None
        for number in range(start, start + num):
            wanted = seed * WORLDS_PER_SEED + number // len(cameras)
            if wanted != current:
                world.reset(wanted, split)
                current = wanted
            yield world.view(cameras[number % len(cameras)])
