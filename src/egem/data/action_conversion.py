"""Actions of one robot convention in another's: how rotations are written, which numbers open and close a gripper.

BridgeData's actions (euler_xyz, gripper 1 open and 0 closed) become those of SimplerEnv's WidowX (axis_angle, 1 and
-1), for example. Nothing is converted unless it is asked for.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError
from egem.episodes import ActionSpace, Rotation

_WRITTEN_IN_THREE = ("euler_xyz", "axis_angle")
_ROTATION = slice(3, 6)
_WITHOUT_GRIPPER = (0, 1, 2, 3, 4, 5)


def converted_space(
    space: ActionSpace,
    *,
    rotation: Rotation | None = None,
    gripper_open: float | None = None,
    gripper_closed: float | None = None,
    name: str,
) -> ActionSpace:
    """What `converted_actions` makes of actions of a space.

    Args:
        space: what the data has.
        rotation: how rotations are to be written; None: as they are.
        gripper_open: the value that is to mean fully open; None, for both: as it is.
        gripper_closed: likewise, closed.
        name: of the data, for messages.

    Raises:
        ConfigError: this cannot be converted, or the data does not say what its own numbers mean.
    """
    if rotation not in (None, space.rotation):
        rest = tuple(place for place in range(space.dim) if place not in space.gripper_dims)
        placed = space.control in ("end_effector_delta", "end_effector_absolute") and rest == _WITHOUT_GRIPPER
        if not placed or space.rotation not in _WRITTEN_IN_THREE or rotation not in _WRITTEN_IN_THREE:
            raise ConfigError(
                f"convert_rotation {rotation}: {name} has {space.control} actions of {space.dim} numbers with rotation "
                f"{space.rotation}; converted are {' and '.join(_WRITTEN_IN_THREE)} of one arm, x, y, z and three "
                "numbers of rotation before the gripper."
            )
        space = replace(space, rotation=rotation, names=())
    if gripper_open is None or gripper_closed is None:
        return space
    if not space.gripper_dims or space.gripper_open is None or space.gripper_closed is None:
        raise ConfigError(
            f"convert_gripper_open, convert_gripper_closed: {name} does not say which values of its gripper mean open "
            "and closed; declare gripper_open and gripper_closed of the data too."
        )
    if space.gripper_open == space.gripper_closed:
        raise ConfigError(f"{name}: {space.gripper_open:g} cannot mean both an open and a closed gripper.")
    return replace(space, gripper_open=gripper_open, gripper_closed=gripper_closed)


def converted_actions(
    actions: Float[np.ndarray, "step dim"], space: ActionSpace, target: ActionSpace
) -> Float[np.ndarray, "step dim"]:
    """Actions of a space as those of the target that `converted_space` made of it.

    Euler angles turn about the fixed axes x, y and z in this order (roll, pitch, yaw); grippers are mapped linearly.

    Args:
        actions: metres and radians.
        space: what they mean.
        target: what they are to mean.
    """
    found = np.array(actions, np.float64)
    if space.rotation != target.rotation:
        from scipy.spatial.transform import Rotation as Turn

        written = found[:, _ROTATION]
        turns = (
            Turn.from_euler("xyz", written) if space.rotation == "euler_xyz" else Turn.from_rotvec(written)
        )
        found[:, _ROTATION] = turns.as_rotvec() if target.rotation == "axis_angle" else turns.as_euler("xyz")
    ends = (space.gripper_open, space.gripper_closed, target.gripper_open, target.gripper_closed)
    if None not in ends and ends[:2] != ends[2:]:
        opened, closed, to_open, to_closed = (float(end) for end in ends if end is not None)
        grippers = list(space.gripper_dims)
        share = (found[:, grippers] - opened) / (closed - opened)
        found[:, grippers] = to_open + share * (to_closed - to_open)
    return found.astype(np.float32)
