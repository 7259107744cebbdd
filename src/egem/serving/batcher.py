"""Observations of all clients, answered together by one policy in one thread."""

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from egem_client.errors import (
    BadObservationError,
    OverloadedError,
    PolicyFailedError,
    RemoteError,
    StaleObservationError,
    UnsupportedError,
)
from jaxtyping import Float

from egem.core.errors import CheckpointError, EgemError
from egem.policy import DepthGuess, Explains, Observation, Policy
from egem.serving.config import ServingConfig
from egem.serving.metrics import ServingMetrics
from egem.serving.requests import Request
from egem.serving.safety import ActionGuard

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a request gets."""

    actions: Float[np.ndarray, "horizon action"]
    clipped: int
    policy_s: float
    """Seconds the policy took for the batch."""
    text: str | None = None
    depths: Mapping[str, DepthGuess] = field(default_factory=dict)


@dataclass(slots=True)
class _Waiting:
    request: Request
    future: asyncio.Future[Answer]
    actions: Answer | None = None
    """Once the policy gave them, while text or depth are still to come."""


class Batcher:
    """A bounded queue before a policy: one call at a time, with all that wait for it.

    Text and depth take far longer than actions. Who asks for them waits for them alone: the others of the batch have
    their answers by then, and between two such clients those that wait for actions come first.

    Args:
        policy: called in a thread of its own, never twice at once.
        config: sizes of batch and queue, age at which an observation is stale.
        metrics: told of batches and latencies.

    Raises:
        ConfigError: the limits of actions do not fit the policy.
    """

    def __init__(self, policy: Policy, config: ServingConfig, metrics: ServingMetrics) -> None:
        self._policy = policy
        self._config = config
        self._metrics = metrics
        self._guard = ActionGuard(policy.info, config)
        self._queue: deque[_Waiting] = deque()
        self._looks: deque[_Waiting] = deque()
        """Have their actions and wait for text or depth."""
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def warm_up(self) -> None:
        """Try the policy on blank pictures, so that no client waits for compilation.

        Alone and with a full batch, without and with real-time chunking: a compiled policy compiles each of them.
        """
        info, side = self._policy.info, self._config.warmup_side
        blank = Observation(
            images={camera: np.zeros((side, side, 3), np.uint8) for camera in info.cameras},
            state=np.zeros(info.state_dim, np.float32),
            instruction="warm up",
        )
        one = np.zeros((1, info.action_space.dim), np.float32)
        for number in sorted({1, self._config.max_batch}):
            for previous in (None, [one] * number):
                act = functools.partial(self._policy.act, [blank] * number, previous=previous)
                await self._in_thread(act)

    async def ask(self, request: Request) -> Answer:
        """Wait for the answer.

        Raises:
            UnsupportedError: text or depth of a policy that gives actions only.
            OverloadedError: too many wait already.
            RemoteError: what became of the request.
        """
        if request.wants_look and not isinstance(self._policy, Explains):
            raise UnsupportedError(
                f"policy '{self._policy.info.name}' gives actions only, no text and no depth."
            )
        if self._num_waiting() >= self._config.max_waiting:
            raise OverloadedError(
                f"{self._config.max_waiting} observations wait already; ask less often or start another server."
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(request, future))
        self._metrics.waiting = self._num_waiting()
        self._work.set()
        return await future

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._work.wait()
            batch = self._take()
            self._metrics.waiting = self._num_waiting()
            if batch:
                await self._answer(batch)
            if self._looks:  # one at a time: whoever came meanwhile waits for one of them, not for all
                looking = self._looks.popleft()
                self._metrics.waiting = self._num_waiting()
                await self._look(looking)
            if not self._queue and not self._looks:
                self._work.clear()

    def close(self) -> None:
        """Stop the thread; a call in progress is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _num_waiting(self) -> int:
        return len(self._queue) + len(self._looks)

    def _take(self) -> list[_Waiting]:
        """The oldest that are still fresh and whose clients are still there; one seed holds for a whole call."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._config.max_batch:
            waiting = self._queue[0]
            if batch and waiting.request.seed != batch[0].request.seed:
                break
            self._queue.popleft()
            age = time.monotonic() - waiting.request.arrived
            if waiting.future.done():
                continue
            if age > self._config.max_age_s:
                text = f"the observation waited {age:.1f} s, more than {self._config.max_age_s:g} s; observe again."
                waiting.future.set_exception(StaleObservationError(text))
            else:
                batch.append(waiting)
        return batch

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        self._metrics.batches[len(batch)] += 1
        try:
            answers = await self._in_thread(self._act, [waiting.request for waiting in batch])
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the policy raises must not end the server
            if len(batch) > 1:  # one observation may have spoilt it for the others
                for waiting in batch:
                    await self._answer([waiting])
                return
            answers = [self._failure(error)]
        for waiting, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Answer) and waiting.request.wants_look:
                waiting.actions = answer
                self._looks.append(waiting)
            else:
                self._give(waiting, answer)

    async def _look(self, waiting: _Waiting) -> None:
        """Ask for the text or depth of one that has its actions."""
        if waiting.future.done():  # the client is gone
            return
        assert waiting.actions is not None
        self._give(waiting, await self._in_thread(self._explained, waiting.request, waiting.actions))

    def _give(self, waiting: _Waiting, answer: Answer | RemoteError) -> None:
        if waiting.future.done():
            return
        if isinstance(answer, RemoteError):
            waiting.future.set_exception(answer)
        else:
            self._metrics.took("policy", answer.policy_s)
            self._metrics.clipped += answer.clipped
            waiting.future.set_result(answer)

    def _act(self, requests: Sequence[Request]) -> list[Answer | RemoteError]:
        """In the policy's thread."""
        began = time.monotonic()
        previous = [request.previous for request in requests]
        continuing = any(kept is not None for kept in previous)
        chunks = self._policy.act(
            [request.observation for request in requests],
            previous=previous if continuing else None,
            committed=[request.committed for request in requests] if continuing else None,
            seed=requests[0].seed,
        )
        policy_s = time.monotonic() - began
        return [self._checked(chunk, policy_s) for _, chunk in zip(requests, chunks, strict=True)]

    def _checked(self, chunk: np.ndarray, policy_s: float) -> Answer | RemoteError:
        try:
            actions, clipped = self._guard.check(chunk)
        except Exception as error:  # noqa: BLE001 - one chunk's failure is not that of the others
            return self._failure(error)
        return Answer(actions=actions, clipped=clipped, policy_s=policy_s)

    def _explained(self, request: Request, answer: Answer) -> Answer | RemoteError:
        """In the policy's thread: the answer with what its checkpoint says and draws."""
        assert isinstance(self._policy, Explains)
        try:
            if request.question is not None:
                answer = replace(answer, text=self._policy.explain(request.observation, request.question))
            if request.want_depth:
                answer = replace(answer, depths=self._policy.draw_depth(request.observation))
        except Exception as error:  # noqa: BLE001 - what the checkpoint says about one picture is its own affair
            return self._failure(error)
        return answer

    def _failure(self, error: Exception) -> RemoteError:
        if isinstance(error, RemoteError):
            return error
        if isinstance(error, EgemError) and not isinstance(error, CheckpointError):
            return BadObservationError(str(error))
        _log.error("the policy failed", exc_info=error)
        return PolicyFailedError(f"the policy failed ({type(error).__name__}); the server's log says how.")

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
