"""Everything a user can do wrong ends in one of these.

A message names what the user gave, what is wrong with it, and the remedy. The command line prints the
message alone and exits with code 2; any other exception is a bug of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class EgemError(Exception):
    """Base of all errors that the user, not the programmer, must resolve."""


class ConfigError(EgemError):
    """An option, recipe or configuration file does not make sense."""


class RecordError(EgemError):
    """A record, image, depth map or shard is not what the format promises."""


class CheckpointError(EgemError):
    """A checkpoint or run folder is incomplete, torn or of another kind."""


class RenderError(EgemError):
    """No renderer can be had, or a scene cannot be drawn."""


class SimulatorError(EgemError):
    """A simulator in a process of its own failed, died or hung: nothing that a policy did."""


class TrainingError(EgemError):
    """Training had to stop: non-finite loss, full disk, too much bad data."""


class ProtocolError(EgemError):
    """A peer on the wire broke the protocol."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is in no table, with the nearest known one suggested.

    Args:
        kind: what the name should have been, e.g. "recipe".
        name: what the user gave.
        known: every valid name.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return ConfigError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names)}.")
