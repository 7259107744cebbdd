"""What can go wrong between a robot and its policy server, as types that a control loop can tell apart."""

from __future__ import annotations


class RemoteError(Exception):
    """Base of all: `code` is the word that travelled on the wire, the text is for people."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConnectionFailedError(RemoteError):
    """No server answers, or it went away and did not come back in time."""

    code = "connection_failed"


class UnauthorisedError(RemoteError):
    """The server wants a token, or another one."""

    code = "unauthorised"


class TimedOutError(RemoteError):
    """The answer did not come in time; the connection was closed, so that it is never taken for a later one."""

    code = "timed_out"


class PolicyChangedError(RemoteError):
    """After a reconnect another policy answers than the one the robot was prepared for."""

    code = "policy_changed"


class MalformedMessageError(RemoteError):
    """The frame is not the wire format: not msgpack, too deep, too long, or an array that lies about itself."""

    code = "malformed_message"


class MessageTooLargeError(RemoteError):
    """The frame has more bytes than the receiver takes."""

    code = "message_too_large"


class BadObservationError(RemoteError):
    """The message was read, but it is not an observation that the policy understands."""

    code = "bad_observation"


class StaleObservationError(RemoteError):
    """The observation was overtaken by a newer one or waited too long; observe again."""

    code = "stale_observation"


class OverloadedError(RemoteError):
    """Too many requests wait already."""

    code = "overloaded"


class UnsafeActionError(RemoteError):
    """The policy's actions were not finite or outside their limits, and were not sent."""

    code = "unsafe_action"


class PolicyFailedError(RemoteError):
    """The policy itself failed; the server's log says how."""

    code = "policy_failed"


class UnsupportedError(RemoteError):
    """The server's policy cannot do what was asked beside actions."""

    code = "unsupported"


ERRORS: dict[str, type[RemoteError]] = {
    kind.code: kind
    for kind in (
        MalformedMessageError,
        MessageTooLargeError,
        BadObservationError,
        StaleObservationError,
        OverloadedError,
        UnsafeActionError,
        PolicyFailedError,
        UnsupportedError,
    )
}
"""What a server may answer: the word on the wire -> what is raised here."""
