"""Plays one chunk while the next is being computed: real-time chunking, from the robot's side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from egem_client.action_chunks import Infers

_REMEMBERED = 10
"""Answers whose delay the next one is expected not to exceed."""
_TOLERANCE = 1e-3
"""Of the largest number: what committed actions may lose on their way through the policy's normalisation."""


class RealTimeChunks:
    """One action a control step from a policy that answers in chunks, without a pause between chunks.

    Algorithm 1 of Black, Galliker and Levine 2025 ("Real-Time Execution of Action Chunking Flow Policies", arXiv
    2506.07339): after `execute` actions of a chunk the robot is looked at, and a thread asks for the next chunk while
    this one is played on. The policy is told what is left of this chunk and how much of it will be played before
    the answer comes; the new chunk continues it and takes over at the step that it was made for.

    Call `next` at the control rate, from one thread, and use the policy for nothing else meanwhile.

    Args:
        policy: whom to ask: `egem serve`, or another server that knows `egem/previous` and `egem/committed`.
        execute: actions of a chunk that are played at least before the next look; with the longest delay at most the
            chunk's length.
        delay: control steps that an answer is expected to take at first; then the most that the last ten took.
    """

    def __init__(self, policy: Infers, *, execute: int, delay: int = 1) -> None:
        if execute < 1 or delay < 1:
            raise ValueError(f"execute is {execute}, delay {delay}; each must be at least one step.")
        self._policy = policy
        self._execute = execute
        self._delays = deque([delay], maxlen=_REMEMBERED)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._asked: Future[dict[str, Any]] | None = None
        self._kept = np.zeros((0, 0))
        """What was left of the chunk when the policy was asked."""
        self._committed = 0
        """How much of it was said to be played in any case."""
        self._since = 0
        """Actions played since then."""
        self._chunk = np.zeros((0, 0))
        self._played = 0
        """Actions of the chunk that lie behind."""
        self.reply: dict[str, Any] = {}
        """The server's last reply, whole."""
        self.pauses = 0
        """How often a chunk was used up before the next one came, so that the robot had to wait."""

    def next(self, observe: Callable[[], Mapping[str, Any]]) -> np.ndarray:
        """The next action, (action,). Only an episode's first call, and a late answer, make it wait.

        Raises:
            RemoteError: the policy could not be asked; the next call looks anew and continues nothing.
            ValueError: chunks too short for `execute` and the delay, or a server that does not continue chunks.
        """
        try:
            if self._asked is None and self._played >= min(self._execute, len(self._chunk)):
                self._ask(observe())
            used_up = self._played == len(self._chunk)
            if self._asked is not None and (used_up or self._asked.done()):
                self.pauses += used_up and len(self._kept) > 0
                self._take(self._asked.result())
        except Exception:
            self.reset()
            raise
        action = self._chunk[self._played]
        self._played += 1
        self._since += 1
        return action

    def reset(self) -> None:
        """Forget the chunk and the answer that is under way; call it when an episode begins."""
        self._asked, self._chunk, self._played = None, np.zeros((0, 0)), 0

    def close(self) -> None:
        """End the thread; a question that is under way is still answered."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ask(self, observation: Mapping[str, Any]) -> None:
        message = dict(observation)
        self._kept, self._since = self._chunk[self._played :], 0
        self._committed = min(max(self._delays), len(self._kept))
        if len(self._kept):
            message["egem/previous"] = np.asarray(self._kept, np.float32)
            message["egem/committed"] = self._committed
        self._asked = self._thread.submit(self._policy.infer, message)

    def _take(self, reply: dict[str, Any]) -> None:
        chunk, promised = np.asarray(reply["actions"]), self._kept[: self._committed]
        if len(chunk) < self._execute + max(self._delays):
            raise ValueError(
                f"the policy gives {len(chunk)} actions a chunk; {self._execute} are to be played before the next look "
                f"and {max(self._delays)} while the answer is computed. Lower execute, or make the policy faster."
            )
        allowed = _TOLERANCE * np.abs(promised).max(initial=1.0)
        if len(promised) and np.abs(chunk[: len(promised)] - promised).max() > allowed:
            raise ValueError(
                "the server changed actions that the robot was committed to: it does not continue chunks. Use "
                "ActionChunks with it."
            )
        if len(self._kept):
            self._delays.append(max(1, self._since))
        self.reply, self._asked = reply, None
        self._chunk, self._played = chunk, self._since
