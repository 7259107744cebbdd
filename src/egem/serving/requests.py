"""From a client's message to an observation that the policy can be asked about."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from egem_client.errors import BadObservationError
from jaxtyping import Float, UInt8

from egem.policy import Observation, PolicyInfo
from egem.policy_messages import (
    COMMITTED,
    INSTRUCTION,
    PREVIOUS,
    QUESTION,
    SEED,
    STATE,
    WANT_DEPTH,
    picture_key,
)
from egem.serving.config import ServingConfig

_MAX_SEED = 2**63


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One message, checked."""

    observation: Observation
    previous: Float[np.ndarray, "kept action"] | None = None
    committed: int = 0
    """Of `previous`: how many are executed in any case."""
    seed: int | None = None
    question: str | None = None
    want_depth: bool = False
    arrived: float = field(default_factory=time.monotonic)
    """Seconds of the monotonic clock."""

    @property
    def wants_look(self) -> bool:
        """Whether text or depth is asked for beside actions."""
        return self.question is not None or self.want_depth


def read_request(
    message: Any, info: PolicyInfo, config: ServingConfig, *, keys: Mapping[str, str], arrived: float
) -> Request:
    """Check a message against what the policy wants; keys that it does not know are left alone.

    Args:
        message: decoded frame: flat keys ("observation/image") or the same keys as maps inside maps.
        info: of the policy.
        config: of the server.
        keys: what a client calls a picture or the state -> what it is called here, for clients with other names.
        arrived: when the frame came.

    Raises:
        BadObservationError: something is missing, of another type or shape, or not finite.
    """
    if not isinstance(message, dict):
        raise BadObservationError(f"a message is a map of observations, not a {type(message).__name__}.")
    flat = {keys.get(name, name): value for name, value in _flatten(message).items()}
    images = {camera: _picture(flat, camera, config) for camera in info.cameras}
    seed = flat.get(SEED)
    if seed is not None and (type(seed) is not int or not 0 <= seed < _MAX_SEED):
        raise BadObservationError(f"{SEED} must be a whole number from 0 to 2^63 - 1.")
    want_depth = flat.get(WANT_DEPTH, False)
    if not isinstance(want_depth, bool):
        raise BadObservationError(f"{WANT_DEPTH} must be true or false.")
    previous = _previous(flat, info)
    return Request(
        observation=Observation(
            images=images,
            state=_state(flat, info),
            instruction=_text(flat, INSTRUCTION, config, default=""),
        ),
        previous=previous,
        committed=_committed(flat, 0 if previous is None else len(previous)),
        seed=seed,
        question=_text(flat, QUESTION, config) if flat.get(QUESTION) is not None else None,
        want_depth=want_depth,
        arrived=arrived,
    )


def _flatten(message: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in message.items():
        if not isinstance(name, str):
            raise BadObservationError(f"a message's keys are strings, not {type(name).__name__}.")
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _picture(
    flat: Mapping[str, Any], camera: str, config: ServingConfig
) -> UInt8[np.ndarray, "height width 3"]:
    key = picture_key(camera)
    if key not in flat:
        there = [name for name in flat if isinstance(flat[name], np.ndarray) and flat[name].ndim == 3]
        raise BadObservationError(
            f"the picture '{key}' is missing; pictures that came: {', '.join(there)[:200] or 'none'}. "
            "A client with other names is served with --rename."
        )
    picture = flat[key]
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        kind = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
        raise BadObservationError(f"'{key}' must be an array of uint8 (RGB, 0 to 255), not {kind}.")
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise BadObservationError(f"'{key}' has shape {picture.shape}; (height, width, 3) is right.")
    if not all(1 <= side <= config.max_side for side in picture.shape[:2]):
        raise BadObservationError(
            f"'{key}' has {picture.shape[1]} x {picture.shape[0]} pixels; 1 to {config.max_side} a side are taken."
        )
    return picture


def _state(flat: Mapping[str, Any], info: PolicyInfo) -> Float[np.ndarray, "state"]:
    if STATE not in flat:
        if info.state_dim == 0:
            return np.zeros(0, dtype=np.float32)
        raise BadObservationError(
            f"the robot's state '{STATE}' is missing; {info.state_dim} numbers are wanted."
        )
    return _numbers(flat[STATE], STATE, (info.state_dim,))


def _previous(flat: Mapping[str, Any], info: PolicyInfo) -> Float[np.ndarray, "kept action"] | None:
    found = flat.get(PREVIOUS)
    if found is None:
        return None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not 1 <= len(found) <= info.horizon:
        raise BadObservationError(
            f"'{PREVIOUS}' must be an array of 1 to {info.horizon} actions, (kept, {info.action_space.dim})."
        )
    return _numbers(found, PREVIOUS, (len(found), info.action_space.dim))


def _committed(flat: Mapping[str, Any], kept: int) -> int:
    found = flat.get(COMMITTED, kept)
    if type(found) is not int or not 0 <= found <= kept:
        raise BadObservationError(
            f"'{COMMITTED}' must be a whole number from 0 to {kept}, the actions of '{PREVIOUS}'."
        )
    return found


def _numbers(value: Any, key: str, shape: tuple[int, ...]) -> np.ndarray:
    # openpi's clients may send a plain list for the state.
    if isinstance(value, (list, tuple)) and all(type(item) in (int, float) for item in value):
        value = np.asarray(value, dtype=np.float64)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise BadObservationError(f"'{key}' must be an array of numbers.")
    if value.shape != shape:
        raise BadObservationError(f"'{key}' has shape {value.shape}; the policy wants {shape}.")
    with np.errstate(over="ignore"):
        numbers = value.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise BadObservationError(f"'{key}' holds numbers that are not finite; check the robot's sensors.")
    return numbers


def _text(flat: Mapping[str, Any], key: str, config: ServingConfig, *, default: str | None = None) -> str:
    text = flat.get(key, default)
    if not isinstance(text, str):
        raise BadObservationError(f"'{key}' must be text.")
    if len(text) > config.max_instruction:
        raise BadObservationError(
            f"'{key}' has {len(text)} characters; at most {config.max_instruction} are taken."
        )
    return text
