"""A policy in an environment whose cameras have other names than those of its training data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError
from egem.policy import Observation, Policy, PolicyInfo


class RenamedCameras:
    """The same policy, looking at an environment's cameras; that they show the same is for the user to know.

    Args:
        policy: whose actions these are.
        pairs: "POLICY=ENVIRONMENT" for each camera with two names.

    Raises:
        ConfigError: a pair cannot be read, names a camera that the policy has not, or two pairs name one.
    """

    def __init__(self, policy: Policy, pairs: Sequence[str]) -> None:
        names = {}
        for pair in pairs:
            own, mark, there = pair.partition("=")
            if not (own and mark and there):
                raise ConfigError(f"--rename {pair}: write POLICY=ENVIRONMENT, such as image_0=image.")
            if own not in policy.info.cameras or own in names:
                raise ConfigError(
                    f"--rename {pair}: the policy looks at {', '.join(policy.info.cameras)}; rename each once at most."
                )
            names[own] = there
        self._policy = policy
        self._names = {own: names.get(own, own) for own in policy.info.cameras}
        self.info: PolicyInfo = replace(policy.info, cameras=tuple(self._names.values()))
        """The policy's, with the environment's names."""

    def act(
        self,
        observations: Sequence[Observation],
        *,
        previous: Sequence[Float[np.ndarray, "kept action"] | None] | None = None,
        committed: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[Float[np.ndarray, "horizon action"]]:
        """See `Policy.act`."""
        shown = [
            replace(seen, images={own: seen.images[there] for own, there in self._names.items()})
            for seen in observations
        ]
        if previous is None:
            return self._policy.act(shown, seed=seed)
        return self._policy.act(shown, previous=previous, committed=committed, seed=seed)
