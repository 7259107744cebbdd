"""A seven-joint arm with a parallel gripper: Franka Panda's published kinematics, drawn with capsules.

Joint frames and limits are the manufacturer's (modified Denavit-Hartenberg); shapes and masses are ours.
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from egem.worlds.tabletop.renderer import load_mujoco

HOME: Final = np.array([0.0, -0.35, 0.0, -2.25, 0.0, 1.95, np.pi / 4])
"""Joint angles (rad) with the gripper pointing down in front of the base."""

REACH: Final = 0.80
"""No downward grasp is farther than this from the base's axis, metres."""

FINGER_TRAVEL: Final = 0.04
"""Each finger's, metres."""

PALM_CLEARANCE: Final = 0.040
"""The palm's underside is this far above the point between the fingertips, metres."""

NUM_JOINTS: Final = 7

# position and orientation in the parent, limits (rad), torque limit (Nm), servo gain, mass (kg)
_JOINTS: Final = (
    ("0 0 0.333", "1 0 0 0", -2.8973, 2.8973, 87, 4000, 3.0),
    ("0 0 0", "1 -1 0 0", -1.7628, 1.7628, 87, 4000, 3.0),
    ("0 -0.316 0", "1 1 0 0", -2.8973, 2.8973, 87, 3500, 2.5),
    ("0.0825 0 0", "1 1 0 0", -3.0718, -0.0698, 87, 3500, 2.5),
    ("-0.0825 0.384 0", "1 -1 0 0", -2.8973, 2.8973, 12, 2000, 2.0),
    ("0 0 0", "1 1 0 0", -0.0175, 3.7525, 12, 2000, 1.5),
    ("0.088 0 0", "1 1 0 0", -2.8973, 2.8973, 12, 2000, 0.8),
)
# capsules of each link in its frame: ends (metres), radius, white (1) or gray (0)
_CAPSULES: Final = (
    (("0 0 -0.20 0 0 0", 0.062, 1),),
    (("0 0 0 0 -0.19 0", 0.058, 1), ("0 0 -0.02 0 0 0.02", 0.062, 0)),
    (("0 0 -0.10 0 0 0", 0.055, 1), ("0 0 0 0.0825 0 0", 0.052, 0)),
    (("0 0 0 -0.0825 0.08 0", 0.052, 1),),
    (("0 0 -0.30 0 0 -0.12", 0.052, 1), ("0 0 -0.12 0 0 0", 0.048, 0)),
    (("0 0 0 0.088 0 0", 0.046, 1),),
    (("0 0 -0.01 0 0 0.075", 0.043, 0),),
)
_TIP: Final = 0.1034


def body_xml(*, wrist_camera: bool) -> str:
    """The `<body>` of the arm: base at the origin, joints, fingers, the site `tip`, the wrist camera.

    Its geoms have the default classes `robot` and, at the fingertips, `pad`, which the model must define.
    """
    links, closing = "", ""
    for i, (position, quaternion, low, high, _, _, mass) in enumerate(_JOINTS):
        links += (
            f'<body name="link{i + 1}" pos="{position}" quat="{quaternion}" gravcomp="1">'
            f'<joint name="joint{i + 1}" axis="0 0 1" range="{low} {high}" damping="10" armature="0.1"/>'
        )
        for ends, radius, white in _CAPSULES[i]:
            color = "0.90 0.90 0.91 1" if white else "0.36 0.37 0.40 1"
            links += (
                f'<geom class="robot" type="capsule" fromto="{ends}" size="{radius}" '
                f'mass="{mass / len(_CAPSULES[i])}" rgba="{color}"/>'
            )
        closing += "</body>"
    camera = '<camera name="wrist" pos="0.07 0 0.02" fovy="65"/>' if wrist_camera else ""
    hand = (
        '<body name="hand" pos="0 0 0.107" quat="0.9238795 0 0 -0.3826834" gravcomp="1">'
        '<geom class="robot" type="box" size="0.022 0.075 0.026" pos="0 0 0.026" mass="0.6" '
        'rgba="0.82 0.83 0.85 1"/>'
        f'<site name="tip" pos="0 0 {_TIP}" size="0.002" group="5"/>{camera}'
        f"{_finger('left', 1)}{_finger('right', -1)}</body>"
    )
    return (
        '<body name="arm"><geom class="robot" type="cylinder" size="0.085 0.07" pos="0 0 0.07" '
        'rgba="0.45 0.46 0.49 1"/><geom class="robot" type="cylinder" size="0.10 0.006" pos="0 0 0.006" '
        f'rgba="0.25 0.25 0.27 1"/>{links}{hand}{closing}</body>'
    )


def actuators_xml() -> str:
    """Position servos of the seven joints and both fingers."""
    servos = "".join(
        f'<position name="servo{i + 1}" joint="joint{i + 1}" kp="{gain}" kv="{6 * gain**0.5:.0f}" '
        f'ctrlrange="{low} {high}" forcerange="-{torque} {torque}"/>'
        for i, (_, _, low, high, torque, gain, _) in enumerate(_JOINTS)
    )
    fingers = "".join(
        f'<position name="servo_{side}" joint="finger_{side}" kp="1500" kv="40" '
        f'ctrlrange="0 {FINGER_TRAVEL}" forcerange="-25 25"/>'
        for side in ("left", "right")
    )
    return servos + fingers


def _finger(side: str, sign: int) -> str:
    turn = "1 0 0 0" if sign > 0 else "0 0 0 1"
    return (
        f'<body name="finger_{side}" pos="0 0 0.052" quat="{turn}" gravcomp="1">'
        f'<joint name="finger_{side}" type="slide" axis="0 1 0" range="0 {FINGER_TRAVEL}" damping="20" '
        'armature="0.05"/><geom class="robot" type="box" size="0.009 0.006 0.016" pos="0 0.008 0.014" '
        'mass="0.01" rgba="0.55 0.56 0.58 1"/>'
        f'<geom class="pad" name="pad_{side}" type="box" size="0.010 0.0045 0.015" pos="0 0.0045 0.043" '
        'mass="0.02" rgba="0.13 0.13 0.14 1"/></body>'
    )


def pointing_down(closing: float) -> Float[np.ndarray, "3 3"]:
    """World from hand when the gripper points down and its fingers close along a direction.

    Args:
        closing: angle from +x in the table's plane, radians.
    """
    x, y = np.cos(closing), np.sin(closing)
    return np.array([[-y, x, 0.0], [x, y, 0.0], [0.0, 0.0, -1.0]])


class Kinematics:
    """Inverse kinematics on a model of the arm alone."""

    def __init__(self) -> None:
        mujoco = load_mujoco()
        self._mujoco = mujoco
        xml = (
            '<mujoco><compiler angle="radian" autolimits="true"/>'
            '<default><default class="robot"/><default class="pad"/></default>'
            f"<worldbody>{body_xml(wrist_camera=False)}</worldbody></mujoco>"
        )
        self._model: Any = mujoco.MjModel.from_xml_string(xml)
        self._data: Any = mujoco.MjData(self._model)
        self._tip = self._model.site("tip").id
        self._range = self._model.jnt_range[:NUM_JOINTS].copy()
        self._jacobian = np.zeros((6, self._model.nv))

    def tip(self, joints: Float[np.ndarray, "7"]) -> Float[np.ndarray, "3"]:
        """Where the point between the fingertips is, in the base's frame."""
        self._forward(joints)
        return self._data.site_xpos[self._tip].copy()

    def links(self, joints: Float[np.ndarray, "7"]) -> Float[np.ndarray, "point 3"]:
        """Points along the arm from shoulder to fingertips, at most a hand's width apart, base's frame."""
        self._forward(joints)
        corners = np.concatenate([self._data.xpos[2 : 2 + NUM_JOINTS], self._data.site_xpos[: self._tip + 1]])
        share = np.linspace(0, 1, 4, endpoint=False)[:, None]
        return np.concatenate([a + share * (b - a) for a, b in pairwise(corners)] + [corners[-1:]])

    def solve(
        self,
        point: Float[np.ndarray, "3"],
        rotation: Float[np.ndarray, "3 3"],
        *,
        iterations: int = 60,
    ) -> Float[np.ndarray, "7"] | None:
        """Joint angles that put the tip somewhere, by damped least squares with a pull towards `HOME`.

        Args:
            point: of the tip, in the base's frame, metres.
            rotation: base from hand.
            iterations: at most this many.

        Returns:
            Angles within the joints' limits, tip within 1 mm and 0.01 rad; None if there are none.
        """
        joints = HOME.copy()
        joints[0] = np.arctan2(point[1], point[0])
        rest = joints.copy()
        for _ in range(iterations):
            error = self._error(joints, point, rotation)
            if np.abs(error[:3]).max() < 1e-3 and np.abs(error[3:]).max() < 1e-2:
                return joints
            joints = self._improved(joints, error, rest)
        return None

    def follow(
        self,
        joints: Float[np.ndarray, "7"],
        point: Float[np.ndarray, "3"],
        rotation: Float[np.ndarray, "3 3"],
        *,
        iterations: int = 6,
    ) -> Float[np.ndarray, "7"]:
        """Joint angles near the given ones that bring the tip as close to a pose as a few steps can.

        Args:
            joints: where to start.
            point: of the tip, in the base's frame, metres.
            rotation: base from hand.
            iterations: at most this many.
        """
        rest = HOME.copy()
        rest[0] = np.arctan2(point[1], point[0])
        for _ in range(iterations):
            error = self._error(joints, point, rotation)
            if np.abs(error[:3]).max() < 2e-4 and np.abs(error[3:]).max() < 2e-3:
                break
            joints = self._improved(joints, error, rest)
        return joints

    def _error(
        self,
        joints: Float[np.ndarray, "7"],
        point: Float[np.ndarray, "3"],
        rotation: Float[np.ndarray, "3 3"],
    ) -> Float[np.ndarray, "6"]:
        """Translation (metres) and turn (sine of the angle times its axis) that are missing to a pose."""
        self._forward(joints)
        missing = point - self._data.site_xpos[self._tip]
        hand = self._data.site_xmat[self._tip].reshape(3, 3)
        # The skew part of the turn that is missing is sin(angle) times its axis.
        left = rotation @ hand.T
        turn = 0.5 * np.array([left[2, 1] - left[1, 2], left[0, 2] - left[2, 0], left[1, 0] - left[0, 1]])
        if left.trace() < -0.9:
            turn = turn + 0.5 * hand[:, 2]  # half a turn away the product vanishes
        return np.concatenate([missing, turn])

    def _improved(
        self, joints: Float[np.ndarray, "7"], error: Float[np.ndarray, "6"], rest: Float[np.ndarray, "7"]
    ) -> Float[np.ndarray, "7"]:
        """One damped least-squares step from the angles that `_error` has just been asked about."""
        self._mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._tip)
        jacobian = self._jacobian[:, :NUM_JOINTS]
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-4 * np.eye(6))
        pull = 0.05 * (rest - joints)
        step = inverse @ (error - jacobian @ pull) + pull
        return np.clip(joints + np.clip(step, -0.4, 0.4), self._range[:, 0], self._range[:, 1])

    def _forward(self, joints: Float[np.ndarray, "7"]) -> None:
        self._data.qpos[:NUM_JOINTS] = joints
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_comPos(self._model, self._data)
