"""A policy at the other end of a websocket: openpi's protocol, with errors that say what happened."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from egem_client.errors import (
    ERRORS,
    ConnectionFailedError,
    MessageTooLargeError,
    PolicyChangedError,
    PolicyFailedError,
    RemoteError,
    StaleObservationError,
    TimedOutError,
    UnauthorisedError,
)
from egem_client.wire import Limits, pack, unpack

_log = logging.getLogger(__name__)


class RemotePolicy:
    """One connection to a policy server; lost connections are made again.

    `infer` sends one observation and returns one reply, as openpi's own client does. Not for several threads at once:
    make one for each.

    Args:
        url: "ws://host:port" or "wss://host:port".
        token: sent as `Authorization: Api-Key TOKEN`.
        timeout_s: how long an answer may take.
        connect_s: how long to go on trying to reach the server, at first and after it went away.
        stale_after_s: after a reconnect an observation older than this is not sent again: `StaleObservationError`
            is raised and the robot must look anew. None sends it however old it is (a simulator's time stands still).
        limits: of what the server may send.

    Raises:
        ConnectionFailedError: no server answered within `connect_s`.
        UnauthorisedError: it wants a token, or another one.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        connect_s: float = 30.0,
        stale_after_s: float | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.url = url if "://" in url else f"ws://{url}"
        self._token = token
        self._timeout_s = timeout_s
        self._connect_s = connect_s
        self._stale_after_s = stale_after_s
        self._limits = limits or Limits(max_depth=8, max_text=1 << 20)
        self.reconnects = 0
        """How often the connection was lost and made again."""
        self._open = ExitStack()
        self._connection: ClientConnection | None = None
        self.metadata: dict[str, Any] = {}
        """What the server said about itself when the connection was made."""
        self._connection, self.metadata = self._reach()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The server's reply to an observation; `reply["actions"]` are the actions, (horizon, action).

        Args:
            observation: keys as the server's metadata name them, values arrays, numbers and strings.

        Raises:
            RemoteError: one of `egem_client.errors`; after all but `PolicyChangedError` the next call may succeed.
        """
        frame, observed = pack(dict(observation)), time.monotonic()
        for again in (False, True):
            if self._connection is None:
                self._reconnect()
                age = time.monotonic() - observed
                if self._stale_after_s is not None and age > self._stale_after_s:
                    raise StaleObservationError(
                        f"{self.url} was away for {age:.1f} s, longer than {self._stale_after_s:g} s; observe again."
                    )
            try:
                return self._ask(frame)
            except ConnectionClosed as closed:
                self.close()
                code = closed.rcvd.code if closed.rcvd else None
                if code == 1009:
                    raise MessageTooLargeError(
                        f"{self.url} takes no message of {len(frame):,} bytes; send smaller pictures."
                    ) from None
                if again:
                    raise ConnectionFailedError(
                        f"{self.url} closed the connection twice ({closed})."
                    ) from closed
        raise AssertionError("not reached")

    def reset(self) -> None:
        """Nothing: the server keeps no state of an episode. There for openpi's interface."""

    def close(self) -> None:
        """Hang up; the next `infer` connects again."""
        self._connection = None
        self._open.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, frame: bytes) -> dict[str, Any]:
        assert self._connection is not None
        self._connection.send(frame)
        try:
            reply = self._connection.recv(timeout=self._timeout_s)
        except TimeoutError:
            self.close()
            raise TimedOutError(f"{self.url} did not answer within {self._timeout_s:g} s.") from None
        if isinstance(reply, str):
            raise _error(reply)
        value = unpack(reply, self._limits)
        if not isinstance(value, dict):
            raise PolicyFailedError(f"{self.url} answered with a {type(value).__name__} instead of a map.")
        return value

    def _reconnect(self) -> None:
        self._connection, metadata = self._reach()
        self.reconnects += 1
        if metadata != self.metadata:
            changed = sorted(
                str(key) for key in {*metadata, *self.metadata} if metadata.get(key) != self.metadata.get(key)
            )
            self.close()
            raise PolicyChangedError(
                f"{self.url} came back as another policy ({', '.join(changed)} changed); make a new RemotePolicy."
            )
        _log.info("%s is back", self.url)

    def _reach(self) -> tuple[ClientConnection, dict[str, Any]]:
        until, pause = time.monotonic() + self._connect_s, 0.05
        headers = {"Authorization": f"Api-Key {self._token}"} if self._token else None
        while True:
            try:
                connection = self._open.enter_context(
                    connect(
                        self.url,
                        compression=None,
                        max_size=self._limits.max_bytes,
                        additional_headers=headers,
                        open_timeout=max(1.0, min(10.0, until - time.monotonic())),
                    )
                )
                first = connection.recv(timeout=10.0)
                if isinstance(first, str):
                    raise _error(first)
                metadata = unpack(first, self._limits)
                return connection, metadata if isinstance(metadata, dict) else {}
            except InvalidStatus as refused:
                status = refused.response.status_code
                if status == 401:
                    raise UnauthorisedError(
                        f"{self.url} refused the token; give the one that the server was started with."
                    ) from None
                reason: Exception = refused
            except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError) as error:
                reason = error
            self._open.close()
            if time.monotonic() + pause > until:
                raise ConnectionFailedError(
                    f"no policy server answers at {self.url} ({reason}); start one with `egem serve`."
                ) from reason
            time.sleep(pause)
            pause = min(1.0, pause * 2)


def _error(text: str) -> RemoteError:
    """The error in a text frame: ours is JSON, openpi's is a traceback."""
    try:
        found = json.loads(text)["error"]
        kind = ERRORS.get(found["code"], RemoteError)
        return kind(str(found["message"]), code=str(found["code"]))
    except (ValueError, KeyError, TypeError):
        last = text.strip().splitlines()[-1] if text.strip() else "no reason given"
        return PolicyFailedError(f"the server failed: {last}")
