"""A served policy as if it were here, for `egem rollout` and anything else that takes a `Policy`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from egem_client import RemoteError
from egem_client import RemotePolicy as Connection
from jaxtyping import Float

from egem.core.errors import ProtocolError
from egem.policy import Observation, PolicyInfo
from egem.policy_messages import from_metadata, to_request


class RemotePolicy:
    """Implements `egem.policy.Policy` over openpi's websocket protocol.

    Each observation of a call travels over a connection of its own at the same time, so that the server answers them in
    one batch. A server that went away is waited for.

    Args:
        url: "ws://host:port".
        token: the server's, if it has one.
        info: what the policy wants, for servers that do not say so themselves (openpi's do not).
        timeout_s: how long an answer may take.
        connect_s: how long to wait for the server, at first and when it went away.

    Raises:
        ProtocolError: no server, a wrong token, or one that does not say what its policy wants.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        info: PolicyInfo | None = None,
        timeout_s: float = 300.0,
        connect_s: float = 30.0,
    ) -> None:
        self._url = url
        self._token = token
        self._timeout_s = timeout_s
        self._connect_s = connect_s
        self._connections = [self._connect()]
        self._info = info or from_metadata(self._connections[0].metadata, url)

    @property
    def info(self) -> PolicyInfo:
        """What it wants and gives."""
        return self._info

    def act(
        self,
        observations: Sequence[Observation],
        *,
        previous: Sequence[Float[np.ndarray, "kept action"] | None] | None = None,
        committed: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[Float[np.ndarray, "horizon action"]]:
        """A chunk of actions for each observation; see `egem.policy.Policy.act`.

        Raises:
            ProtocolError: the server refused an observation, failed, or cannot be reached; its words are in the text.
        """
        before = previous if previous is not None else [None] * len(observations)
        counts = committed if committed is not None else [None] * len(observations)
        messages = [
            to_request(observation, self._info, previous=kept, committed=count, seed=seed)
            for observation, kept, count in zip(observations, before, counts, strict=True)
        ]
        while len(self._connections) < len(messages):
            self._connections.append(self._connect())
        if len(messages) == 1:
            return [self._actions(self._connections[0], messages[0])]
        with ThreadPoolExecutor(max(1, len(messages))) as threads:
            return list(threads.map(self._actions, self._connections, messages))

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()

    def _connect(self) -> Connection:
        try:
            return Connection(
                self._url, token=self._token, timeout_s=self._timeout_s, connect_s=self._connect_s
            )
        except RemoteError as error:
            raise ProtocolError(str(error)) from error

    def _actions(self, connection: Connection, message: dict) -> Float[np.ndarray, "horizon action"]:
        try:
            reply = connection.infer(message)
        except RemoteError as error:
            raise ProtocolError(f"{error.code}: {error}") from error
        actions = np.asarray(reply.get("actions", ()), dtype=np.float32)
        if actions.ndim != 2 or actions.shape[1] != self._info.action_space.dim or len(actions) == 0:
            raise ProtocolError(
                f"the server at {self._url} sent actions of shape {actions.shape}; "
                f"(horizon, {self._info.action_space.dim}) was agreed."
            )
        if not np.isfinite(actions).all():
            raise ProtocolError(f"the server at {self._url} sent actions that are not finite.")
        return actions
