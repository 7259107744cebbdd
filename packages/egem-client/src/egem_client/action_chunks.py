"""Plays the first actions of each chunk before the next one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np


class Infers(Protocol):
    """Anything with openpi's `infer`."""

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to an observation, with its `actions`."""
        ...


class ActionChunks:
    """One action a control step from a policy that answers in chunks.

    The robot is looked at only when a chunk is used up: `observe` is not called between.

    Args:
        policy: whom to ask.
        execute: actions of each chunk to play; the rest is thrown away, because the newer observation knows better.
    """

    def __init__(self, policy: Infers, *, execute: int) -> None:
        if execute < 1:
            raise ValueError(f"execute is {execute}; at least one action of a chunk must be played.")
        self._policy = policy
        self._execute = execute
        self._left: list[np.ndarray] = []
        self.reply: dict[str, Any] = {}
        """The server's last reply, whole."""

    def next(self, observe: Callable[[], Mapping[str, Any]]) -> np.ndarray:
        """The next action, (action,).

        Raises:
            RemoteError: the policy could not be asked; the old chunk is not played on.
            ValueError: the policy's chunk is shorter than `execute`.
        """
        if not self._left:
            self.reply = self._policy.infer(observe())
            actions = np.asarray(self.reply["actions"])
            if len(actions) < self._execute:
                raise ValueError(
                    f"the policy gives {len(actions)} actions a chunk, {self._execute} are to be played."
                )
            self._left = list(actions[: self._execute])
        return self._left.pop(0)

    def reset(self) -> None:
        """Forget what is left of the chunk; call it when an episode begins."""
        self._left = []
