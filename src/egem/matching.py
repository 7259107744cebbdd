"""Whether data, policy and environment speak of the same robot: asked before anything runs.

A policy that is given another camera, rate or gripper sign than it was trained with does not fail loudly; it moves
wrongly. So every difference is named at once, and nothing is renamed, flipped or resampled to make things fit.
"""

from collections.abc import Iterable

from egem.core.errors import ConfigError
from egem.episodes import ActionSpace
from egem.policy import PolicyInfo

_RATE_TOLERANCE = 0.01
"""Rates that differ by less than this share are one rate (29.97 and 30)."""


def differences(
    policy: PolicyInfo,
    *,
    cameras: Iterable[str] | None = None,
    state_dim: int | None = None,
    action_space: ActionSpace | None = None,
    control_hz: float | None = None,
    state_names: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """What keeps a policy from being used with data or an environment, in words; empty where nothing does.

    Args:
        policy: what it wants and gives.
        cameras: names that the other side has; it may have more than the policy looks at. None: not compared.
        state_dim: numbers in its state.
        action_space: what it takes for an action.
        control_hz: actions a second; compared where both sides know it.
        state_names: what the state's numbers are; compared where both sides know them.
    """
    found = []
    if cameras is not None:
        known = list(cameras)
        missing = [name for name in policy.cameras if name not in known]
        if missing:
            have = ", ".join(known) or "none"
            found.append(f"camera {', '.join(missing)} is missing, there are {have}")
    if state_dim is not None and state_dim != policy.state_dim:
        found.append(f"the state has {state_dim} numbers, the policy wants {policy.state_dim}")
    elif state_names and policy.state_names and state_names != policy.state_names:
        found.append(
            f"the state is ({', '.join(state_names)}), the policy wants ({', '.join(policy.state_names)})"
        )
    if action_space is not None:
        found += [f"action {text}" for text in policy.action_space.differences(action_space)]
    if control_hz and policy.control_hz and abs(control_hz / policy.control_hz - 1) > _RATE_TOLERANCE:
        found.append(f"{control_hz:g} actions a second, the policy was trained at {policy.control_hz:g}")
    return tuple(found)


def require_match(
    policy: PolicyInfo,
    other: str,
    *,
    cameras: Iterable[str] | None = None,
    state_dim: int | None = None,
    action_space: ActionSpace | None = None,
    control_hz: float | None = None,
    state_names: tuple[str, ...] = (),
) -> None:
    """Refuse what `differences` finds.

    Args:
        policy: what it wants and gives ("here" in the message).
        other: the other side, for the message ("environment 'tabletop'", "data/demos").
        cameras: see `differences`.
        state_dim: likewise.
        action_space: likewise.
        control_hz: likewise.
        state_names: likewise.

    Raises:
        ConfigError: names every difference.
    """
    found = differences(
        policy,
        cameras=cameras,
        state_dim=state_dim,
        action_space=action_space,
        control_hz=control_hz,
        state_names=state_names,
    )
    if found:
        raise ConfigError(
            f"policy '{policy.name}' (here) does not fit {other} (there): {'; '.join(found)}. Use the policy with the "
            "robot and settings of its training data, or train one on data of this kind."
        )
