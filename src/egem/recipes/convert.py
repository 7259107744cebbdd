"""`egem data convert`: robot episodes of any format that is read here as a LeRobotDataset v3.0."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from tqdm import tqdm
from tyro.conf import OmitArgPrefixes

from egem.core.errors import ConfigError, RecordError, unknown_name
from egem.data_engine.episodes.lerobot_writer import LeRobotOptions, write_lerobot
from egem.data_engine.episodes.pending import PendingEpisode
from egem.data_engine.episodes.readers import READERS
from egem.data_engine.sources.splits import Split
from egem.data_engine.statistics import QUARANTINE
from egem.episodes import Episode

_FRAMES_AT_ONCE = 64
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Robot episodes of another format as a LeRobotDataset v3.0, for training policies and for other software."""

    episodes: Path
    """The set's file or folder."""
    out: Path
    """Dataset folder to write; it must not exist yet."""
    format: str = "open-x"
    """One of lerobot, open-x, droid, robomind, agibot-world."""
    cameras: tuple[str, ...] = ()
    """Which to keep, in this order; episodes that lack one (a placeholder is none) are left out and counted. All of
    the first episode's if empty: an episode with other ones is then bad."""
    split: Split = "train"
    """Which of the set's own splits: train, test (what it holds out) or all."""
    fps: float | None = None
    """Steps a second of a set that does not state it (RoboMIND)."""
    limit: int | None = None
    """Read no more than this many episodes."""
    max_error_fraction: float = 0.01
    """Share of episodes that may be bad; they are left out and listed in quarantine.jsonl."""
    lerobot: OmitArgPrefixes[LeRobotOptions] = field(default_factory=LeRobotOptions)

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the option.
        """
        if self.format not in READERS:
            raise unknown_name("format of episodes", self.format, READERS)
        if self.fps is not None and self.fps <= 0:
            raise ConfigError(f"fps {self.fps} must be positive: steps a second.")
        if not 0 <= self.max_error_fraction < 1:
            raise ConfigError(
                f"max_error_fraction {self.max_error_fraction}: give a share from 0 to below 1."
            )


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What came of a set."""

    episodes: int
    """Written."""
    left_out: dict[str, int]
    """Why -> how many of the others."""

    def table(self) -> str:
        """One line a count."""
        lines = [f"  {count:>7} left out: {why}" for why, count in sorted(self.left_out.items())]
        return "\n".join([f"{self.episodes} episodes written", *lines])


def convert(config: ConvertConfig) -> Converted:
    """Write a dataset folder, which appears whole or not at all.

    Episodes without an instruction or a chosen camera are left out; so are bad ones, up to a share. All are listed in
    quarantine.jsonl as {"row", "reason"}.

    Args:
        config: what and how.

    Raises:
        ConfigError: no such set, split or rate, or `out` exists.
        RecordError: no episode is left, or too many are bad.
    """
    if not config.episodes.exists():
        raise ConfigError(f"{config.episodes} does not exist; give the file or folder of the episodes.")
    sieve = _Sieve(config)
    episodes = write_lerobot(sieve.fit(), config.out, config.lerobot, on_unfit=sieve.put_aside)
    if sieve.rows:
        lines = [json.dumps({"row": where, "reason": reason}) for where, reason in sieve.rows]
        (config.out / QUARANTINE).write_text("\n".join(lines) + "\n")
    return Converted(episodes=episodes, left_out=dict(sieve.counts))


class _Sieve:
    """The episodes of a set that can be written, and what is said of the others."""

    def __init__(self, config: ConvertConfig) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()
        self.rows: list[tuple[str, str]] = []
        self.seen = 0
        self._where = ""
        self._sizes: dict[str, tuple[int, ...]] = {}

    def fit(self) -> Iterator[Episode]:
        """One after the other.

        Raises:
            RecordError: at the end, if too many were bad.
        """
        found = READERS[self.config.format](self.config.episodes, self.config.split)
        with tqdm(desc="convert", unit="episode", disable=None) as bar:
            for pending in islice(found, self.config.limit):
                self.seen += 1
                self._where = pending.where
                try:
                    episode = self._read(pending)
                except RecordError as error:
                    self.put_aside(error)
                else:
                    if episode is not None:
                        yield episode
                bar.update()
        bad = self.counts["bad"]
        if bad > self.config.max_error_fraction * self.seen:
            reasons = "\n  ".join(reason for _, reason in self.rows[:_SHOWN])
            raise RecordError(
                f"{bad} of {self.seen} episodes are bad, more than the {self.config.max_error_fraction:.1%} allowed; "
                f"repair them or raise max_error_fraction. The first left out:\n  {reasons}"
            )

    def put_aside(self, error: RecordError) -> None:
        """Note that the last episode is bad."""
        self._leave_out("bad", str(error))

    def _leave_out(self, why: str, reason: str) -> None:
        self.counts[why] += 1
        self.rows.append((self._where, reason if self._where in reason else f"{self._where}: {reason}"))

    def _read(self, pending: PendingEpisode) -> Episode | None:
        """An episode as it is to be written; None where it is left out.

        Raises:
            RecordError: it is bad.
        """
        config, episode = self.config, pending.load()
        if not episode.instruction.strip():
            self._leave_out("no instruction", f"episode {episode.id} has no instruction.")
            return None
        missing = [name for name in config.cameras if name not in episode.cameras]
        if missing:
            there = ", ".join(episode.cameras) or "none"
            reason = f"episode {episode.id} has no camera '{missing[0]}'; it has {there}."
            self._leave_out(f"no camera '{missing[0]}'", reason)
            return None
        if config.fps is not None:
            if episode.fps not in (None, config.fps):
                raise ConfigError(
                    f"{pending.where}: its set states {episode.fps:g} steps a second, fps says {config.fps:g}; "
                    "leave --fps away."
                )
            episode = replace(episode, fps=config.fps)
        if config.cameras:
            episode = replace(episode, cameras={name: episode.cameras[name] for name in config.cameras})
        self._look(episode)
        return episode

    def _look(self, episode: Episode) -> None:
        """Make sure that all frames can be decoded: half an episode cannot be taken back from a video file.

        Raises:
            RecordError: one cannot, or frames differ in size.
        """
        for name, stream in episode.cameras.items():
            for start in range(0, episode.num_steps, _FRAMES_AT_ONCE):
                steps = range(start, min(start + _FRAMES_AT_ONCE, episode.num_steps))
                if stream.depth is not None:
                    stream.depth.read(steps)
                for step, frame in zip(steps, stream.frames.read(steps), strict=True):
                    height, width, _ = self._sizes.setdefault(name, frame.shape)
                    if frame.shape[:2] != (height, width):
                        raise RecordError(
                            f"episode {episode.id}, camera '{name}': the frame of step {step} is {frame.shape[1]} x "
                            f"{frame.shape[0]} pixels, the first episode's {width} x {height}; write them to separate "
                            "datasets."
                        )
