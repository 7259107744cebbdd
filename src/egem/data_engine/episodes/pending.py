"""An episode that a reader has found but not yet read."""

from collections.abc import Callable
from dataclasses import dataclass

from egem.episodes import Episode


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingEpisode:
    """One episode of a set."""

    where: str
    """File and number, for messages."""
    load: Callable[[], Episode]
    """Raises RecordError with the reason when the episode is bad."""
    num_bytes: int = 0
    """Of its content, where a file of many episodes holds that: in memory already, or still in the file."""
