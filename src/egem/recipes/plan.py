"""`egem data plan`: planning records from robot episodes, with a detector and a tracker where annotation is missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from egem.annotators.planning import PlanTools, plan_records
from egem.core.config import to_dict
from egem.core.errors import ConfigError, RecordError, unknown_name
from egem.data_engine.engine import EngineConfig, Job, Outcome, run_job
from egem.data_engine.episodes.pending import PendingEpisode
from egem.data_engine.episodes.readers import READERS
from egem.data_engine.sources.source import ImportOptions
from egem.data_engine.sources.splits import Split
from egem.recipes.annotate import device_of_worker
from egem.recipes.annotators import NamerConfig, TrackerConfig
from egem.shards import Manifest

EPISODES_PER_PART = 16


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Planning records from robot episodes: sub-tasks, key frames, the moved thing, its mask and its way."""

    episodes: Path
    """The set's file or folder."""
    out: Path
    """Folder to write; it must not exist yet."""
    format: str = "lerobot"
    """One of lerobot, open-x, droid, robomind, agibot-world."""
    split: Split = "train"
    """Which of the set's own splits: train, test (what it holds out) or all."""
    checkpoint: str | None = None
    """SAM 3, folder or name on the hub (`facebook/sam3`): finds the thing and the gripper. Without it, nothing is
    looked for, and asked is what the set itself says."""
    gripper: str = "robot gripper"
    """What SAM 3 looks for where the set does not say how the gripper moves."""
    camera: str = ""
    """Whose frames are shown; the set's first if empty."""
    num_frames: int = 8
    """Frames taken from each sub-task for questions about clips."""
    num_questions: int = 12
    """Questions of RoboVQA's kinds about each episode, at most."""
    seed: int = 0
    """Of the choice of questions."""
    limit: int | None = None
    """Read no more than this many episodes."""
    device: str = "auto"
    """`auto` takes a GPU if there is one."""
    max_error_fraction: float = 0.01
    """Share of episodes that may fail; they are left out and listed in quarantine.jsonl."""
    naming: OmitArgPrefixes[NamerConfig] = field(default_factory=NamerConfig)
    tracker: OmitArgPrefixes[TrackerConfig] = field(default_factory=TrackerConfig)
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=lambda: EngineConfig(workers=1))
    """Each worker loads the models."""

    @property
    def options(self) -> ImportOptions:
        """As an import takes them."""
        return ImportOptions(
            camera=self.camera,
            num_frames=self.num_frames,
            num_questions=self.num_questions,
            seed=self.seed,
            limit=self.limit,
        )

    def make_tools(self, device: str | None = None) -> PlanTools:
        """Load the models, on this worker's device if none is given."""
        device = device or device_of_worker(self.device)
        detector = None
        if self.checkpoint is not None:
            from egem.annotators.sam3 import Sam3

            detector = Sam3.from_pretrained(self.checkpoint, device=device)
        return PlanTools(
            namer=self.naming.make(device=device, sees=False, out=self.out),
            detector=detector,
            tracker=self.tracker.make(device),
            gripper=self.gripper,
        )


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run has done, in this and earlier starts."""

    manifest: Manifest
    episodes: int
    failed: int
    counts: dict[str, int]
    """Of sub-tasks: named, found, tracked, and what was not."""
    looked: bool
    """Whether there was a detector."""

    def table(self) -> str:
        """One line a count."""
        lines = [f"{self.episodes} episodes, {self.failed} failed"]
        lines += [f"  {name:<20} {number}" for name, number in sorted(self.counts.items()) if number]
        if not self.looked:
            lines.append(
                "nothing was looked for in the frames: --checkpoint facebook/sam3 adds boxes, points and ways"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberedEpisode:
    """An episode and its place in the set."""

    number: int
    pending: PendingEpisode

    @property
    def where(self) -> str:
        """Names it."""
        return self.pending.where

    @property
    def num_bytes(self) -> int:
        """That it holds in memory."""
        return self.pending.num_bytes


class PlanEpisodes:
    """The engine's step; loads its models once in each worker.

    Args:
        config: says what to do.
        tools: the models where they are loaded already; they stay in this process.
    """

    def __init__(self, config: PlanConfig, tools: PlanTools | None = None) -> None:
        self.config = config
        self._tools = tools

    def __getstate__(self) -> dict[str, Any]:
        """Workers load their own."""
        return {"config": self.config, "_tools": None}

    def __call__(self, items: Sequence[NumberedEpisode]) -> Iterator[Outcome]:
        """One outcome for each episode, in order."""
        if self._tools is None:
            self._tools = self.config.make_tools()
        options = self.config.options
        for item in items:
            try:
                episode = item.pending.load()
                records, counts = plan_records(
                    episode, self.config.format, item.where, item.number, self._tools, options
                )
            except RecordError as error:
                yield Outcome(where=item.where, error=error)
                continue
            yield Outcome(where=item.where, records=records, counts=counts)


def plan(config: PlanConfig) -> Planned:
    """Make planning records of a set of episodes; a run that was stopped goes on with its finished parts.

    Args:
        config: what and how.

    Raises:
        ConfigError: no such format or input, or `out` exists.
        RecordError: too many episodes failed, or none gives a record.
        CheckpointError: a model cannot be loaded.
    """
    if config.format not in READERS:
        raise unknown_name("format of episodes", config.format, READERS)
    if not config.episodes.exists():
        raise ConfigError(f"{config.episodes} does not exist; give the file or folder of the episodes.")
    # Loaded here too, so that a checkpoint that cannot be read is one error before any work; where others work, not
    # on a GPU that a worker needs, and not kept.
    own = config.engine.in_this_process
    tools = config.make_tools(None if own else "cpu")
    detector = tools.detector.origin if tools.detector else None
    origins = [tools.namer.origin, detector, tools.tracker.origin]
    step = PlanEpisodes(config, tools if own else None)
    del tools
    stated = to_dict(config)
    for name in ("engine", "device", "max_error_fraction", "out"):
        del stated[name]
    job = Job(
        title="planning",
        unit="episode",
        step=step,
        description={"plan": stated, "tools": origins},
        out=config.out,
        items_per_part=EPISODES_PER_PART,
        max_error_fraction=config.max_error_fraction,
    )
    found = islice(READERS[config.format](config.episodes, config.split), config.limit)
    items = (NumberedEpisode(number=n, pending=pending) for n, pending in enumerate(found))
    manifest, result = run_job(items, job, config.engine)
    return Planned(
        manifest=manifest,
        episodes=result.items,
        failed=len(result.errors),
        counts=dict(result.counts),
        looked=detector is not None,
    )
