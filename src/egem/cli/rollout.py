"""`egem rollout`: a policy, the scripted expert or recorded actions in a simulated environment."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional

from egem.cli.options import parse
from egem.core.errors import ConfigError

if TYPE_CHECKING:
    from egem.policy import Policy


def rollout(arguments: list[str]) -> None:
    """Play episodes and count successes."""
    from egem.rollout.run import RolloutConfig
    from egem.rollout.run import rollout as play_all
    from egem.rollout.summary import table

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Play episodes in a simulated environment: success of each task with its 95 % interval, films, recordings.

        `egem rollout expert --record data/demos` makes demonstrations; `egem rollout CHECKPOINT` measures a policy;
        `egem rollout --replay data/demos` checks that recorded actions do what they did; `egem rollout CHECKPOINT
        --open-loop data/held-out` compares a policy's chunks with recorded ones, without a simulator.
        """

        actor: Positional[str] = ""
        """A checkpoint folder, or `expert`, or `random`; nothing with --policy or --replay."""
        policy: str | None = None
        """Address of a served policy, ws://host:port; its token is read from EGEM_TOKEN."""
        device: str = "auto"
        """Where a checkpoint computes."""
        open_loop: Path | None = None
        """Only compare the policy's chunks with what was done in this LeRobot dataset: a robot's own will do."""
        windows: int | None = None
        """Moments to compare, with --open-loop; 256 unless given."""
        config: OmitArgPrefixes[RolloutConfig] = field(default_factory=RolloutConfig)

    options = parse(Options, "rollout", arguments)
    given = [bool(options.actor), options.policy is not None, options.config.replay is not None]
    if sum(given) != 1:
        raise ConfigError(
            "say whose actions are to be played: one of CHECKPOINT, expert, random, --policy ws://host:port, "
            "or --replay DATASET."
        )
    if options.windows is not None and options.open_loop is None:
        raise ConfigError("--windows is for --open-loop; leave it out.")
    if options.open_loop is not None:
        played = [f.name for f in fields(RolloutConfig) if getattr(options.config, f.name) != f.default]
        if played:
            raise ConfigError(
                f"--open-loop plays nothing, so {', '.join(played)} mean nothing to it; leave them out."
            )
    actor, policy = _actor(options.actor, options.policy, options.device)
    if options.open_loop is not None:
        if policy is None:
            raise ConfigError("--open-loop is for a policy: give a CHECKPOINT or --policy ws://host:port.")
        from egem.rollout.open_loop import open_loop
        from egem.rollout.open_loop import table as errors_table

        num_windows = 256 if options.windows is None else options.windows
        print(errors_table(open_loop(policy, options.open_loop, num_windows=num_windows)))
        return
    summary = play_all(options.config, actor, policy)
    if summary.note:
        print(summary.note)
    print(table(summary))
    if summary.episodes_per_minute is not None:
        print(f"{summary.episodes_per_minute:.1f} episodes a minute; stored in {options.config.out}")


def _actor(name: str, address: str | None, device: str) -> "tuple[str, Policy | None]":
    if address is not None:
        from egem.remote_policy import RemotePolicy

        return address, RemotePolicy(address, token=os.environ.get("EGEM_TOKEN") or None)
    if name in ("expert", "random", ""):
        return name or "replay", None
    from egem.recipes.serve import ServedCheckpoint

    return name, ServedCheckpoint.load(Path(name), device=device)
