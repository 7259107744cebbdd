"""Simulated robots: one line of the table for each."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from egem.environments.environment import (
    Calibration,
    Environment,
    EnvironmentInfo,
    EnvironmentOptions,
    ExpertAction,
    Failure,
    Progress,
    Start,
    check_policy,
)

__all__ = [
    "ENVIRONMENTS",
    "Calibration",
    "Environment",
    "EnvironmentEntry",
    "EnvironmentInfo",
    "EnvironmentOptions",
    "ExpertAction",
    "Failure",
    "Progress",
    "Start",
    "check_policy",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentEntry:
    """A row of the table."""

    open: Callable[[EnvironmentOptions], Environment]
    """May raise ConfigError or RenderError: what is missing, and how to get it."""
    summary: str
    size: tuple[int, int]
    """Height and width of its pictures unless others are asked for: as it was published, where it was."""


def _tabletop(options: EnvironmentOptions) -> Environment:
    from egem.environments.tabletop.environment import TabletopEnvironment

    return TabletopEnvironment(options)


def _libero(options: EnvironmentOptions) -> Environment:
    from egem.environments.libero import open_libero

    return open_libero(options)


def _simpler(options: EnvironmentOptions) -> Environment:
    from egem.environments.simpler import open_simpler

    return open_simpler(options)


ENVIRONMENTS: Final = MappingProxyType(
    {
        "tabletop": EnvironmentEntry(
            open=_tabletop, summary="tasks on the embedded table; needs no download", size=(128, 128)
        ),
        "libero": EnvironmentEntry(
            open=_libero,
            summary="LIBERO's five suites; tools/libero_env.sh, and its assets",
            size=(256, 256),
        ),
        "simpler-widowx": EnvironmentEntry(
            open=_simpler,
            summary="SimplerEnv's four WidowX tasks; tools/simpler_env.sh, and its assets",
            size=(480, 640),
        ),
    }
)
"""Name to environment."""
