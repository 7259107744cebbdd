"""What leaves the server must be fit for a robot."""

import numpy as np
from egem_client.errors import UnsafeActionError
from jaxtyping import Float

from egem.core.errors import ConfigError
from egem.policy import PolicyInfo
from egem.serving.config import ServingConfig


class ActionGuard:
    """Checks chunks of actions: shape, finite, within limits.

    Raises:
        ConfigError: limits of another number than the policy's actions, or crossed.
    """

    def __init__(self, info: PolicyInfo, config: ServingConfig) -> None:
        self._dim = info.action_space.dim
        self._refuse = config.outside == "refuse"
        self._low = self._limit("action_low", config.action_low, -np.inf)
        self._high = self._limit("action_high", config.action_high, np.inf)
        if (self._low > self._high).any():
            raise ConfigError("action_low is above action_high in some dimension; swap them.")

    def check(
        self, actions: Float[np.ndarray, "horizon action"]
    ) -> tuple[Float[np.ndarray, "horizon action"], int]:
        """The chunk within its limits, and how many of its numbers had to be moved.

        Raises:
            UnsafeActionError: not finite, of another shape, or outside where that is refused.
        """
        actions = np.asarray(actions, dtype=np.float32)
        if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] != self._dim:
            raise UnsafeActionError(
                f"the policy gave actions of shape {actions.shape}; (horizon, {self._dim}) is right."
            )
        if not np.isfinite(actions).all():
            step = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
            raise UnsafeActionError(
                f"the policy's action {step} of the chunk is not finite; nothing was sent."
            )
        outside = (actions < self._low) | (actions > self._high)
        count = int(outside.sum())
        if count and self._refuse:
            step, dim = (int(index[0]) for index in np.nonzero(outside))
            raise UnsafeActionError(
                f"dimension {dim} of the policy's action {step} is {actions[step, dim]:g}, outside "
                f"{self._low[dim]:g} to {self._high[dim]:g}; nothing was sent."
            )
        return np.clip(actions, self._low, self._high).astype(np.float32), count

    def _limit(self, name: str, values: tuple[float, ...], default: float) -> Float[np.ndarray, "action"]:
        if len(values) not in (0, 1, self._dim):
            raise ConfigError(
                f"{name} has {len(values)} values, the policy's actions {self._dim}; give one value or {self._dim}."
            )
        return (
            np.full(self._dim, default)
            if not values
            else np.broadcast_to(np.asarray(values, float), self._dim)
        )
