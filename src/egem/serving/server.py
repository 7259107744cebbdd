"""A policy server that speaks openpi's websocket protocol, for robots and simulators.

Beside websockets the same port answers `/healthz` (the process lives), `/readyz` (the policy was warmed up) and
`/metrics`. An error is a text frame `{"error": {"code", "message"}}` and the connection goes on; openpi's client raises
it, `egem-client` raises it by type. No traceback leaves the machine.
"""

import asyncio
import hmac
import http
import json
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from egem_client.errors import (
    MalformedMessageError,
    PolicyFailedError,
    RemoteError,
    StaleObservationError,
)
from egem_client.wire import Limits, pack, unpack
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from egem.core.errors import ConfigError
from egem.policy import Explains, Policy
from egem.policy_messages import ANSWER, CLIPPED, DEPTH, DEPTH_KIND, picture_key, to_metadata
from egem.serving.batcher import Answer, Batcher
from egem.serving.config import ServingConfig, check_exposure
from egem.serving.metrics import ServingMetrics
from egem.serving.requests import read_request

_log = logging.getLogger(__name__)

_HARD_LIMIT = 2
"""Frames above this many times the limit are not even read: the connection is closed (1009)."""

_AHEAD = 4
"""Frames of one client that are read before the first is answered."""


class PolicyServer:
    """Serves one policy to many clients.

    Args:
        policy: anything with `egem.policy.Policy`; `Explains` too if text and depth are to be asked for.
        config: address, limits, token.
        rename: what a client calls a picture or the state ("observation/image") -> the policy's camera, or "state".

    Raises:
        ConfigError: limits or names that do not fit the policy.
    """

    def __init__(
        self, policy: Policy, config: ServingConfig, *, rename: Mapping[str, str] | None = None
    ) -> None:
        check_exposure(config)
        self._policy = policy
        self._config = config
        self.metrics = ServingMetrics()
        self._batcher = Batcher(policy, config, self.metrics)
        self._keys = _keys(policy, rename or {})
        self._limits = Limits(max_bytes=int(config.max_message_mb * 2**20))
        self._ready = asyncio.Event()
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    @property
    def port(self) -> int:
        """Where it listens, once it does."""
        assert self._server is not None, "not started"
        return next(iter(self._server.sockets)).getsockname()[1]

    @property
    def metadata(self) -> dict[str, Any]:
        """What every client is told first."""
        explains = isinstance(self._policy, Explains)
        return to_metadata(self._policy.info) | {
            "explains": explains,
            "max_message_bytes": self._limits.max_bytes,
        }

    async def run(self, *, started: Callable[["PolicyServer"], None] | None = None) -> None:
        """Serve until cancelled or told to stop (SIGINT, SIGTERM: the clients are told that the server goes away).

        Args:
            started: called once it listens; it may not be ready yet.

        Raises:
            ConfigError: the address cannot be had.
            Exception: whatever the policy raised while it was warmed up.
        """
        stop, loop = self._stopping, asyncio.get_running_loop()
        self._loop = loop
        for kind in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(kind, stop.set)
            except (ValueError, RuntimeError, NotImplementedError):  # not the main thread, or Windows
                break
        config = self._config
        try:
            self._server = await serve(
                self._talk,
                config.host,
                config.port,
                process_request=self._http,
                origins=[None],  # a web page in a browser on this machine must not steer the robot
                compression=None,
                max_size=_HARD_LIMIT * self._limits.max_bytes,
                max_queue=2,
                close_timeout=2,
            )
        except OSError as error:
            text = f"{config.host}:{config.port} cannot be listened on ({error.strerror}); choose another --port."
            raise ConfigError(text) from error
        answering = asyncio.create_task(self._batcher.run())
        try:
            async with self._server:
                if started is not None:
                    started(self)
                warming = asyncio.create_task(self._batcher.warm_up())
                stopping = asyncio.create_task(stop.wait())
                await asyncio.wait({warming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if warming.done():
                    warming.result()
                    self._ready.set()
                    _log.info("ready: ws://%s:%d", config.host, self.port)
                await stopping
        finally:
            answering.cancel()
            self._batcher.close()

    def stop(self) -> None:
        """End `run`; may be called from another thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    def _http(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answer what is not a websocket, and refuse who may not come in; None goes on to the handshake."""
        path = request.path.split("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz":
            ready = self._ready.is_set()
            status = http.HTTPStatus.OK if ready else http.HTTPStatus.SERVICE_UNAVAILABLE
            return connection.respond(status, "ready\n" if ready else "warming up\n")
        if not self._admitted(request):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a token is needed\n")
        if path == "/metrics":
            return connection.respond(http.HTTPStatus.OK, self.metrics.text())
        if not self._ready.is_set():
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "warming up\n")
        if self.metrics.clients >= self._config.max_clients:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    def _admitted(self, request: HttpRequest) -> bool:
        token = self._config.token
        if not token:
            return True
        given = request.headers.get_all("Authorization")
        words = given[0].split(None, 1) if len(given) == 1 else []
        if len(words) != 2 or words[0].lower() not in ("api-key", "bearer"):
            return False
        return hmac.compare_digest(words[1].strip().encode(), token.encode())

    async def _talk(self, connection: ServerConnection) -> None:
        """One client: metadata first, then a reply to each frame, in order."""
        self.metrics.clients += 1
        inbox = _Inbox()
        reading = asyncio.create_task(inbox.fill(connection))
        try:
            await connection.send(pack(self.metadata))
            previous_total: float | None = None
            while (item := await inbox.take()) is not None:
                arrived, frame = item
                self.metrics.requests += 1
                replying = asyncio.create_task(self._reply(frame, arrived, previous_total, inbox))
                await asyncio.wait({replying, reading}, return_when=asyncio.FIRST_COMPLETED)
                if not replying.done():  # the client is gone: its observation need not be answered any more
                    replying.cancel()
                    return
                await connection.send(replying.result())
                previous_total = time.monotonic() - arrived
                self.metrics.took("total", previous_total)
        except ConnectionClosed:
            pass
        finally:
            reading.cancel()
            self.metrics.clients -= 1

    async def _reply(
        self, frame: str | bytes, arrived: float, previous_total: float | None, inbox: "_Inbox"
    ) -> str | bytes:
        try:
            if inbox.waiting:
                raise StaleObservationError("a newer observation of this client came; this one was dropped.")
            reply = await self._actions(frame, arrived, previous_total)
        except RemoteError as error:
            self.metrics.errors[error.code] += 1
            return _error_frame(error)
        except Exception:  # noqa: BLE001 - a bug of ours must neither end the connection nor show itself
            _log.exception("a message could not be answered")
            self.metrics.errors[PolicyFailedError.code] += 1
            return _error_frame(PolicyFailedError("the server failed; its log says how."))
        self.metrics.answered += 1
        return reply

    async def _actions(self, frame: str | bytes, arrived: float, previous_total: float | None) -> bytes:
        if isinstance(frame, str):
            raise MalformedMessageError("a message is a binary frame of msgpack, not text.")
        message = unpack(frame, self._limits)
        request = read_request(message, self._policy.info, self._config, keys=self._keys, arrived=arrived)
        return pack(_message(await self._batcher.ask(request), arrived, previous_total))


class _Inbox:
    """A client's frames with their time of arrival, a few read ahead so that overtaken ones are known."""

    def __init__(self) -> None:
        self._frames: deque[tuple[float, str | bytes]] = deque()
        self._closed = False
        self._changed = asyncio.Condition()

    @property
    def waiting(self) -> bool:
        """Whether a newer frame came already."""
        return bool(self._frames)

    async def fill(self, connection: ServerConnection) -> None:
        """Read until the client is gone."""
        try:
            async for frame in connection:
                async with self._changed:
                    await self._changed.wait_for(lambda: len(self._frames) < _AHEAD)
                    self._frames.append((time.monotonic(), frame))
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        finally:
            self._closed = True
            async with self._changed:
                self._changed.notify_all()

    async def take(self) -> tuple[float, str | bytes] | None:
        """The oldest frame; None once the client is gone."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._frames or self._closed)
            if self._closed:
                return None
            item = self._frames.popleft()
            self._changed.notify_all()
            return item


def _message(answer: Answer, arrived: float, previous_total: float | None) -> dict[str, Any]:
    timing = {"infer_ms": 1000 * (time.monotonic() - arrived)}
    if previous_total is not None:
        timing["prev_total_ms"] = 1000 * previous_total
    message: dict[str, Any] = {
        "actions": answer.actions,
        "policy_timing": {"infer_ms": 1000 * answer.policy_s},
        "server_timing": timing,
    }
    if answer.clipped:
        message[CLIPPED] = answer.clipped
    if answer.text is not None:
        message[ANSWER] = answer.text
    for camera, guess in answer.depths.items():
        message[f"{DEPTH}{camera}"] = guess.values
        message[DEPTH_KIND] = guess.kind
    return message


def _error_frame(error: RemoteError) -> str:
    return json.dumps({"error": {"code": error.code, "message": str(error)}})


def _keys(policy: Policy, rename: Mapping[str, str]) -> dict[str, str]:
    known = {camera: picture_key(camera) for camera in policy.info.cameras} | {"state": "observation/state"}
    for theirs, ours in rename.items():
        if ours not in known:
            raise ConfigError(f"--rename {theirs} {ours}: the policy knows {', '.join(known)}, not '{ours}'.")
    return {theirs: known[ours] for theirs, ours in rename.items()}
