"""Observations and what a policy is, as the maps of openpi's wire protocol.

    server -> client, first:  metadata: what the policy wants and gives (openpi sends any map; ours has the keys below)
    client -> server:         {"observation/<camera>": uint8 picture, "observation/state": floats, "prompt": text}
    server -> client:         {"actions": (horizon, action), "policy_timing": {...}, "server_timing": {...}}

What openpi does not have travels under `egem/...` keys, so that its own client and servers are not disturbed.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError, ProtocolError
from egem.episodes import ActionSpace
from egem.policy import Observation, PolicyInfo

PROTOCOL: Final = "egem-policy/1"
STATE: Final = "observation/state"
INSTRUCTION: Final = "prompt"
PREVIOUS: Final = "egem/previous"
"""What is left of the last chunk from now on, (kept, action)."""
COMMITTED: Final = "egem/committed"
"""How many of them the robot executes in any case; all, if the key is missing."""
SEED: Final = "egem/seed"
QUESTION: Final = "egem/question"
"""Something to ask the same checkpoint about the pictures; the reply has `egem/answer`."""
WANT_DEPTH: Final = "egem/want_depth"
"""True: the reply has `egem/depth/<camera>` and `egem/depth_kind`."""
ANSWER: Final = "egem/answer"
DEPTH: Final = "egem/depth/"
DEPTH_KIND: Final = "egem/depth_kind"
CLIPPED: Final = "egem/clipped"
"""How many numbers of the chunk were moved to their limit."""


def picture_key(camera: str) -> str:
    """Where a camera's picture travels."""
    return f"observation/{camera}"


def to_metadata(info: PolicyInfo) -> dict[str, Any]:
    """What a server sends first."""
    space = info.action_space
    return {
        "protocol": PROTOCOL,
        "name": info.name,
        "fingerprint": info.fingerprint,
        "cameras": list(info.cameras),
        "state_dim": info.state_dim,
        "state_names": list(info.state_names),
        "picture_sizes": [list(size) for size in info.picture_sizes],
        "horizon": info.horizon,
        "control_hz": info.control_hz,
        "action_space": {
            "control": space.control,
            "dim": space.dim,
            "rotation": space.rotation,
            "gripper_dims": list(space.gripper_dims),
            "gripper_open": space.gripper_open,
            "gripper_closed": space.gripper_closed,
            "names": list(space.names),
        },
    }


def from_metadata(metadata: Mapping[str, Any], where: str) -> PolicyInfo:
    """What the server said about its policy.

    Args:
        metadata: its first message.
        where: the server's address, for the error.

    Raises:
        ProtocolError: another server's metadata, which do not say what the policy wants.
    """
    if metadata.get("protocol") != PROTOCOL:
        raise ProtocolError(
            f"the server at {where} does not say what its policy wants (its metadata have no protocol "
            f"'{PROTOCOL}'); say it yourself: RemotePolicy(url, info=PolicyInfo(...))."
        )
    try:
        space = metadata["action_space"]
        return PolicyInfo(
            name=metadata["name"],
            cameras=tuple(metadata["cameras"]),
            state_dim=metadata["state_dim"],
            state_names=tuple(metadata["state_names"]),
            picture_sizes=tuple((height, width) for height, width in metadata.get("picture_sizes", ())),
            fingerprint=metadata.get("fingerprint", ""),
            horizon=metadata["horizon"],
            control_hz=metadata["control_hz"],
            action_space=ActionSpace(
                control=space["control"],
                dim=space["dim"],
                rotation=space["rotation"],
                gripper_dims=tuple(space["gripper_dims"]),
                gripper_open=space["gripper_open"],
                gripper_closed=space["gripper_closed"],
                names=tuple(space["names"]),
            ),
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ProtocolError(f"the metadata of the server at {where} are incomplete: {error}.") from error


def to_request(
    observation: Observation,
    info: PolicyInfo,
    *,
    previous: Float[np.ndarray, "kept action"] | None = None,
    committed: int | None = None,
    seed: int | None = None,
    question: str | None = None,
    want_depth: bool = False,
) -> dict[str, Any]:
    """An observation as a message; only the cameras that the policy looks at travel.

    Raises:
        ProtocolError: one of them is missing.
    """
    missing = [camera for camera in info.cameras if camera not in observation.images]
    if missing:
        raise ProtocolError(
            f"the policy '{info.name}' looks at camera {', '.join(missing)}, which the observation has not; "
            f"it has {', '.join(observation.images) or 'none'}."
        )
    message: dict[str, Any] = {picture_key(camera): observation.images[camera] for camera in info.cameras}
    message[STATE] = np.asarray(observation.state, dtype=np.float32)
    message[INSTRUCTION] = observation.instruction
    if previous is not None:
        message[PREVIOUS] = np.asarray(previous, dtype=np.float32)
        if committed is not None:
            message[COMMITTED] = committed
    if seed is not None:
        message[SEED] = seed
    if question is not None:
        message[QUESTION] = question
    if want_depth:
        message[WANT_DEPTH] = True
    return message
