"""What surrounds the table: room, light, cameras. Plain is always the same, varied is drawn from the seed."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from egem.environments.tabletop.layout import BASE
from egem.worlds.tabletop.cameras import View, looking_at
from egem.worlds.tabletop.room import Room, draw_room
from egem.worlds.tabletop.setting import write_room, write_views

_FRONT: Final = (0.62, 0.0, 0.56)
_LOOKS_AT: Final = (-0.09, 0.0, 0.02)
_WRIST: Final = (0.075, 0.0, 0.018)
_PLAIN_SEED: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenery:
    """Room and cameras of an episode."""

    room: Room
    front: View
    wrist: View

    def write(self, model: Any) -> None:
        """Put it into the environment's model."""
        write_room(model, self.room)
        write_views(model, {"front": self.front, "wrist": self.wrist})


def draw_scenery(rng: np.random.Generator | None, colors: set[str]) -> Scenery:
    """A room and cameras.

    Args:
        rng: None: the plain scenery, the same for all episodes.
        colors: of the things on the table, from which a drawn table differs.
    """
    jitter = 0.0 if rng is None else 1.0
    rng = np.random.default_rng(_PLAIN_SEED) if rng is None else rng
    position = np.asarray(_FRONT) + jitter * rng.normal(0, 0.02, 3)
    target = np.asarray(_LOOKS_AT) + jitter * rng.normal(0, 0.01, 3)
    front = View(
        position=position,
        rotation=looking_at(position, target, 0.0),
        fovy=43.0 + jitter * float(rng.normal()),
    )
    tilt = np.radians(12.0 + jitter * float(rng.normal()))
    right, up, forward = (
        np.array([0.0, 1.0, 0.0]),
        np.array([np.cos(tilt), 0.0, np.sin(tilt)]),
        np.array([-np.sin(tilt), 0.0, np.cos(tilt)]),
    )
    wrist = View(
        position=np.asarray(_WRIST) + jitter * rng.normal(0, 0.003, 3),
        rotation=np.stack([right, up, -forward], axis=1),
        fovy=66.0,
    )
    room = draw_room(
        rng,
        colors=colors if jitter else set(),
        base=BASE[:2],
        viewpoints=np.stack([front.position, front.position]),
    )
    return Scenery(room=room, front=front, wrist=wrist)
