"""`egem data filter`: rules that records must keep; what is rejected is counted by rule."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egem.core.config import to_dict
from egem.core.errors import ConfigError, RecordError
from egem.data_engine.curation.selection import GROUPS_PER_PART
from egem.data_engine.engine import EngineConfig, Job, JobResult, Outcome, run_job
from egem.media import check_depth, decode_depth, decode_image, decode_region
from egem.records import COORDINATE_RANGE, Record
from egem.shards import Manifest, RecordGroups

REJECTED = "rejected.json"
"""In the folder of records: {"records", "kept", "rejected": {rule: records}, "rules": {rule: text}, "options"}."""


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Where the rules draw their lines; a record is rejected by the first rule that it breaks."""

    min_side: int = 64
    """Pixels of an image's shorter side."""
    max_aspect: float = 5.0
    """Longer side over shorter side."""
    min_contrast: float = 4.0
    """Standard deviation of an image's grey values, of 255; less is a blank frame."""
    min_depth_share: float = 0.1
    """Share of a depth map's pixels with a reading."""
    min_box_area: float = 0.0001
    """Of a box answer, as a share of the image."""
    max_words: int = 400
    """In all messages of a record together."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the option.
        """
        for name in ("min_side", "max_words"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_aspect < 1:
            raise ConfigError(f"max_aspect is {self.max_aspect}; it must be at least 1.")
        for name, largest in (("min_contrast", 128), ("min_depth_share", 1), ("min_box_area", 1)):
            if not 0 <= getattr(self, name) < largest:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 to below {largest}.")


RULES: dict[str, str] = {
    "undecodable": "an image, depth map or region cannot be decoded to its last pixel",
    "small_image": "an image's shorter side is under min_side",
    "narrow_image": "an image is longer than max_aspect times its shorter side",
    "blank_image": "an image's contrast is under min_contrast",
    "depth_missing": "a depth map has readings in less than min_depth_share of its pixels",
    "depth_implausible": "a metric depth map's readings are in the wrong unit",
    "depth_of_other_size": "a depth map has another size than its image",
    "point_off_region": "an answer's point lies outside the region of right answers",
    "tiny_box": "an answer's box is smaller than min_box_area",
    "long_text": "the messages have more than max_words words",
}
"""In the order in which they are tried; the first seven concern a whole group, the others one record."""


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What came of a folder."""

    manifest: Manifest
    records: int
    """Before."""
    rejected: dict[str, int]
    """Rule -> records."""

    def table(self) -> str:
        """A line for each rule that rejected something."""
        lines = [f"  {count:>8} {rule:<20} {RULES[rule]}" for rule, count in self.rejected.items() if count]
        return "\n".join([f"{self.manifest.rows} of {self.records} records kept; rejected:", *lines])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """An item: a group by its number."""

    number: int
    num_bytes: int = 0

    @property
    def where(self) -> str:
        return f"group {self.number}"


@dataclass(frozen=True, kw_only=True)
class FilterGroups:
    """The step: the records that break no rule, and how many each rule rejected."""

    folder: Path
    config: FilterConfig

    @cached_property
    def groups(self) -> RecordGroups:
        """The folder, opened once in each worker."""
        return RecordGroups([self.folder])

    def __call__(self, items: Sequence[_Group]) -> Iterator[Outcome]:
        """One outcome for each group."""
        for item in items:
            try:
                records = self.groups[item.number]
            except RecordError as error:
                yield Outcome(where=item.where, error=error)
                continue
            counts: Counter[str] = Counter(records=len(records))
            broken = broken_by_pictures(records[0], self.config)
            kept = []
            for record in records:
                rule = broken or broken_by_record(record, self.config)
                if rule is None:
                    kept.append(record)
                else:
                    counts[f"rejected/{rule}"] += 1
            yield Outcome(where=item.where, records=kept, counts=counts)


def filter_records(
    folder: Path, out: Path, config: FilterConfig | None = None, engine: EngineConfig | None = None
) -> Filtered:
    """Write a folder without the records that break a rule.

    Args:
        folder: of records.
        out: folder to write; must not exist or be empty.
        config: where the rules draw their lines.
        engine: who looks.

    Raises:
        ConfigError: `out` exists.
        RecordError: a shard is damaged, or nothing is left.
    """
    config = config or FilterConfig()
    groups = RecordGroups([folder])

    def notes(_folder: Path, result: JobResult) -> dict[str, bytes]:
        facts: dict[str, Any] = {
            "records": result.counts["records"],
            "rejected": _rejected(result),
            "rules": RULES,
            "options": to_dict(config),
        }
        return {REJECTED: (json.dumps(facts, indent=2) + "\n").encode()}

    job = Job(
        title="filter",
        unit="group",
        step=FilterGroups(folder=Path(folder).absolute(), config=config),
        description={"filter": groups.fingerprint, "options": to_dict(config)},
        out=out,
        items_per_part=GROUPS_PER_PART,
        notes=notes,
    )
    manifest, result = run_job((_Group(number=number) for number in range(len(groups))), job, engine)
    return Filtered(manifest=manifest, records=result.counts["records"], rejected=_rejected(result))


def broken_by_pictures(record: Record, config: FilterConfig) -> str | None:
    """The rule that the images or depth maps of a group break, if any."""
    where = f"group '{record.group}'"
    try:
        images = [decode_image(image, where=where) for image in record.images]
        depths = [None if file is None else decode_depth(file, where=where) for file in record.depths]
    except RecordError:
        return "undecodable"
    for image in images:
        height, width = image.shape[:2]
        if min(height, width) < config.min_side:
            return "small_image"
        if max(height, width) > config.max_aspect * min(height, width):
            return "narrow_image"
        if float(np.asarray(Image.fromarray(image).convert("L")).std()) < config.min_contrast:
            return "blank_image"
    for depth, file, image in zip(depths, record.depths, images, strict=False):
        if depth is None or file is None:
            continue
        if depth.shape != image.shape[:2]:
            return "depth_of_other_size"
        if float((depth > 0).mean()) < config.min_depth_share:
            return "depth_missing"
        try:
            check_depth(depth, file.kind, where=where, unit_m=file.unit_m)
        except RecordError:
            return "depth_implausible"
    return None


def broken_by_record(record: Record, config: FilterConfig) -> str | None:
    """The rule that the question or answer of a record breaks, if any."""
    answer = record.answer
    if answer.region is not None:
        try:
            region = decode_region(answer.region, where=f"record '{record.id}'")
        except RecordError:
            return "undecodable"
        height, width = region.shape
        for x, y in answer.points:
            column = min(int(x * width / COORDINATE_RANGE), width - 1)
            row = min(int(y * height / COORDINATE_RANGE), height - 1)
            if not region[row, column]:
                return "point_off_region"
    if answer.box is not None:
        left, top, right, bottom = answer.box
        if (right - left) * (bottom - top) < config.min_box_area * COORDINATE_RANGE**2:
            return "tiny_box"
    if sum(len(message.content.split()) for message in record.messages) > config.max_words:
        return "long_text"
    return None


def _rejected(result: JobResult) -> dict[str, int]:
    return {rule: result.counts.get(f"rejected/{rule}", 0) for rule in RULES}
