"""A policy in an environment whose cameras have other names than those of its training data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError
from egem.policy import DepthGuess, Explains, Observation, Policy, PolicyInfo


def renamed(policy: Policy, pairs: Sequence[str]) -> "RenamedCameras":
    """The same policy, looking at an environment's cameras; that they show the same is for the user to know.

    Args:
        policy: whose actions these are; one that also explains what it sees goes on doing so.
        pairs: "POLICY=ENVIRONMENT" for each camera with two names.

    Raises:
        ConfigError: a pair cannot be read, names a camera that the policy has not, or two pairs name one.
    """
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
    names = {own: names.get(own, own) for own in policy.info.cameras}
    if isinstance(policy, Explains):
        return _RenamedExplaining(policy, names)
    return RenamedCameras(policy, names)


class RenamedCameras:
    """See `renamed`.

    Args:
        policy: whose actions these are.
        names: for each of its cameras the environment's name.
    """

    def __init__(self, policy: Policy, names: dict[str, str]) -> None:
        self._policy = policy
        self._names = names
        self.info: PolicyInfo = replace(policy.info, cameras=tuple(names.values()))
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
        shown = [self._shown(seen) for seen in observations]
        return self._policy.act(shown, previous=previous, committed=committed, seed=seed)

    def _shown(self, seen: Observation) -> Observation:
        return replace(seen, images={own: seen.images[there] for own, there in self._names.items()})


class _RenamedExplaining(RenamedCameras):
    """A `RenamedCameras` that also explains."""

    def explain(self, observation: Observation, question: str) -> str:
        """See `Explains`."""
        assert isinstance(self._policy, Explains)
        return self._policy.explain(self._shown(observation), question)

    def draw_depth(self, observation: Observation) -> dict[str, DepthGuess]:
        """See `Explains`; by the environment's names."""
        assert isinstance(self._policy, Explains)
        drawn = self._policy.draw_depth(self._shown(observation))
        return {self._names[own]: guess for own, guess in drawn.items()}
