"""How a policy is served."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from egem.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig:
    """Where the server listens and what it takes."""

    host: str = "127.0.0.1"
    """Address to listen on; any other than this machine's own needs a token."""
    port: int = 8000
    """0 takes a free one."""
    token: str | None = None
    """What clients must send as `Authorization: Api-Key TOKEN`."""
    max_batch: int = 8
    """Observations answered together."""
    max_waiting: int = 64
    """Observations that may wait, over all clients; more are refused as overloaded."""
    max_age_s: float = 10.0
    """An observation that waited longer is refused as stale: the world has moved on."""
    max_clients: int = 64
    """Connections at once."""
    max_message_mb: float = 32.0
    """Largest message."""
    max_side: int = 4096
    """Largest height or width of a picture in pixels."""
    max_instruction: int = 4096
    """Longest instruction or question in characters."""
    action_low: tuple[float, ...] = ()
    """Smallest value of each dimension of an action, or one for all; none where not given."""
    action_high: tuple[float, ...] = ()
    """Largest, likewise."""
    outside: Literal["clip", "refuse"] = "clip"
    """What happens to actions outside: moved to the limit and counted in the reply, or not sent."""
    warmup_side: int = 256
    """Side of the blank pictures with which the policy is tried before the server calls itself ready."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must be between 0 and 65535.")
        for name in ("max_batch", "max_waiting", "max_clients", "max_side", "warmup_side", "max_instruction"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("max_age_s", "max_message_mb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(config: ServingConfig) -> None:
    """Refuse to be reached from other machines without a token.

    Raises:
        ConfigError: the address is not this machine's own and there is no token.
    """
    if not config.token and not is_loopback(config.host):
        raise ConfigError(
            f"host {config.host} can be reached by other machines, so a token is needed: --token, or the "
            "environment variable EGEM_TOKEN. Without one only --host 127.0.0.1 is served."
        )
