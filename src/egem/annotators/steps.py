"""One pass of an annotator over groups of records: a function of the groups alone, whichever process runs it.

What was added is said in `meta.annotated.<kind>`, with the model's name and licence. Masks and tracks also become
questions of their own, behind the others of their group; they replace those that an earlier pass asked about the same
names.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from egem.annotators.depth import DepthEstimator, to_file
from egem.annotators.grounding import Shown, box_question, path_question, point_question
from egem.annotators.masks import (
    ClipDetector,
    Detection,
    MaskDetector,
    bare,
    box_in_thousandths,
    spread_points,
    to_runs,
)
from egem.annotators.masks import centre as centre_of
from egem.annotators.objects import ModelNamer, ObjectNamer
from egem.annotators.tracks import PointTracker, path_of
from egem.core.errors import ProtocolError, RecordError
from egem.data_engine.formats.coco_rle import decode_segmentation
from egem.data_engine.sources.masks import interior_point
from egem.media import decode_image
from egem.records import COORDINATE_RANGE, Record

Group = Sequence[Record]
Outcome = list[Record] | str
"""The group's new records, or why it failed."""

ANNOTATED: Final = "annotated"
NUM_POINTS: Final = 24
"""Points that are followed on each thing."""


@dataclass(kw_only=True)
class Clock:
    """Seconds spent on each kind of work."""

    decode: float = 0.0
    model: float = 0.0
    write: float = 0.0
    images: int = 0
    """How many a model has seen."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - start)


@runtime_checkable
class Step(Protocol):
    """Annotates groups."""

    def describe(self) -> dict[str, Any]:
        """JSON values that decide the result, `origin` among them: an unfinished run goes on only with the same."""
        ...

    def annotate(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        """The records of each group with what was added, in the same order."""
        ...


@dataclass(frozen=True, kw_only=True)
class DepthStep:
    """Depth for images that have none."""

    estimator: DepthEstimator
    focal: float | None = None
    """Pixels; for images whose records have no intrinsics."""
    renew: bool = False
    """Also replaces the depth that is there."""

    def describe(self) -> dict[str, Any]:
        """See `Step`."""
        return {
            "kind": "depth",
            "origin": self.estimator.origin,
            "licence": self.estimator.licence,
            "focal": self.focal,
            "renew": self.renew,
        }

    def annotate(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        """See `Step`."""
        return _batched(groups, self._groups, clock)

    def _groups(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        wanted: list[tuple[int, int]] = []
        images, focals = [], []
        with clock.timed("decode"):
            for number, group in enumerate(groups):
                first = group[0]
                for i, image in enumerate(first.images):
                    if first.depths and first.depths[i] is not None and not self.renew:
                        continue
                    wanted.append((number, i))
                    images.append(decode_image(image, where=_where(group)))
                    camera = first.intrinsics[i] if first.intrinsics else None
                    focals.append(self.focal if camera is None else (camera.fx + camera.fy) / 2)
        with clock.timed("model"):
            estimates = self.estimator.estimate(images, focals) if images else []
        clock.images += len(images)
        found: list[Outcome] = []
        with clock.timed("write"):
            for number, group in enumerate(groups):
                first = group[0]
                depths = list(first.depths or (None,) * len(first.images))
                mine = [(i, e) for (n, i), e in zip(wanted, estimates, strict=True) if n == number]
                for i, estimate in mine:
                    depths[i] = to_file(estimate, self.estimator.origin, _where(group))
                note = {
                    "origin": self.estimator.origin,
                    "licence": self.estimator.licence,
                    "images": [i for i, _ in mine],
                }
                found.append(
                    [
                        _noted(replace(record, depths=tuple(depths)), "depth", note) if mine else record
                        for record in group
                    ]
                )
        return found


@dataclass(frozen=True, kw_only=True)
class ObjectsStep:
    """Names: the thing that the sentence of a robot's record is about, and what can be seen."""

    namer: ObjectNamer
    nouns: bool = False
    """Also asks a model that sees for the things in the first image."""
    requests: int = 8
    """Asked at the same time."""

    def describe(self) -> dict[str, Any]:
        """See `Step`."""
        return {"kind": "objects", "origin": self.namer.origin, "nouns": self.nouns}

    def annotate(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        """See `Step`."""
        with clock.timed("model"), ThreadPoolExecutor(max(1, min(self.requests, len(groups)))) as pool:
            found = list(pool.map(self._group, groups))
        clock.images += sum(self.nouns and not isinstance(outcome, str) for outcome in found)
        return found

    def _group(self, group: Group) -> Outcome:
        note: dict[str, Any] = {"origin": self.namer.origin}
        sentence = sentence_of(group)
        try:
            if sentence is not None:
                note |= {"sentence": sentence, "manipulated": self.namer.manipulated(sentence)}
            if self.nouns and isinstance(self.namer, ModelNamer) and group[0].images:
                image = decode_image(group[0].images[0], where=_where(group))
                note["nouns"] = list(self.namer.nouns(image, _where(group)))
        except RecordError as error:
            return _reason(group, error)
        return [_noted(record, "objects", note) for record in group] if len(note) > 1 else list(group)


@dataclass(frozen=True, kw_only=True)
class MasksStep:
    """Masks of named things, and questions about them."""

    detector: MaskDetector | ClipDetector
    phrases: tuple[str, ...] = ()
    """Looked for in every group; else what the groups' own names say."""
    questions: bool = True

    def describe(self) -> dict[str, Any]:
        """See `Step`."""
        clips = not isinstance(self.detector, MaskDetector)
        return {
            "kind": "masks",
            "origin": self.detector.origin,
            "licence": self.detector.licence,
            "clips": clips,
            "phrases": list(self.phrases),
            "questions": self.questions,
        }

    def annotate(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        """See `Step`."""
        return _batched(groups, self._groups, clock)

    def _groups(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        # A record may be text alone: there is nothing to look at then.
        phrases = [_distinct(self.phrases or names_of(group)) if group[0].images else () for group in groups]
        with clock.timed("decode"):
            images = [
                [decode_image(image, where=_where(group)) for image in group[0].images] if wanted else []
                for group, wanted in zip(groups, phrases, strict=True)
            ]
        clock.images += sum(map(len, images))
        with clock.timed("model"):
            detections = self._detect(images, phrases)
        with clock.timed("write"):
            return [
                self._written(group, found, wanted) if wanted else list(group)
                for group, found, wanted in zip(groups, detections, phrases, strict=True)
            ]

    def _detect(self, images: Sequence[Sequence[Any]], phrases: Sequence[tuple[str, ...]]) -> list[Any]:
        if not isinstance(self.detector, MaskDetector):
            return [
                self.detector.detect_clip(shown, wanted) if shown else []
                for shown, wanted in zip(images, phrases, strict=True)
            ]
        flat = [image for shown in images for image in shown]
        wanted = [words for shown, words in zip(images, phrases, strict=True) for _ in shown]
        found = iter(self.detector.detect(flat, wanted) if flat else [])
        return [[next(found) for _ in shown] for shown in images]

    def _written(
        self, group: Group, found: Sequence[Sequence[Detection]], wanted: tuple[str, ...]
    ) -> list[Record]:
        note = {
            "origin": self.detector.origin,
            "licence": self.detector.licence,
            "detections": [_detection_json(i, each) for i, frame in enumerate(found) for each in frame],
        }
        records: list[Record] = []
        by_phrase: dict[str, list[Detection]] = {}
        for each in found[0] if self.questions else ():
            by_phrase.setdefault(each.phrase, []).append(each)
        shown = Shown.of(group[0])
        made = {"origin": self.detector.origin, "licence": self.detector.licence}
        for phrase, each in by_phrase.items():
            # A box is asked for only where one thing can be meant; a point on any of several is right.
            if len(each) == 1:
                records.append(box_question(shown, phrase, each[0], meta={ANNOTATED: {"masks": made}}))
            records.append(point_question(shown, phrase, each, meta={ANNOTATED: {"masks": made}}))
        return _with_questions(group, "masks", note, ("object_box", "object_point"), wanted, records)


@dataclass(frozen=True, kw_only=True)
class TracksStep:
    """Ways of the things that masks were found of in the first frame of a clip."""

    tracker: PointTracker
    questions: bool = True

    def describe(self) -> dict[str, Any]:
        """See `Step`."""
        return {
            "kind": "tracks",
            "origin": self.tracker.origin,
            "licence": self.tracker.licence,
            "questions": self.questions,
        }

    def annotate(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        """See `Step`."""
        return _batched(groups, self._groups, clock)

    def _groups(self, groups: Sequence[Group], clock: Clock) -> list[Outcome]:
        return [self._group(group, clock) for group in groups]

    def _group(self, group: Group, clock: Clock) -> list[Record]:
        first = group[0]
        masks = first.meta.get(ANNOTATED, {}).get("masks", {}).get("detections", ())
        starts = [each for each in masks if each["image"] == 0]
        if first.timestamps is None or len(first.images) < 2 or not starts:
            return list(group)
        with clock.timed("decode"):
            frames = [decode_image(image, where=_where(group)) for image in first.images]
        height, width = frames[0].shape[:2]
        if any(frame.shape != frames[0].shape for frame in frames):
            raise RecordError("the frames of a clip differ in size.")
        found = []
        with clock.timed("model"):
            for each in starts:
                mask = decode_segmentation(each["mask"], height, width, _where(group))
                tracks = self.tracker.track(frames, spread_points(mask, NUM_POINTS))
                path = path_of(tracks, centre_of(mask)) / (width, height)
                inside: list[bool] = np.all((path >= 0) & (path <= 1), axis=1).tolist()
                points = [
                    [round(x * COORDINATE_RANGE), round(y * COORDINATE_RANGE)] if seen else None
                    for (x, y), seen in zip(path.tolist(), inside, strict=True)
                ]
                found.append({"phrase": each["phrase"], "points": points})
        clock.images += len(frames)
        made = {"origin": self.tracker.origin, "licence": self.tracker.licence}
        records: list[Record] = []
        names = [bare(each["phrase"]) for each in found]
        shown = Shown.of(first)
        for each in found if self.questions else ():
            if names.count(bare(each["phrase"])) == 1:
                records += path_question(
                    shown, each["phrase"], each["points"], meta={ANNOTATED: {"tracks": made}}
                )
        note = {**made, "tracks": found}
        return _with_questions(group, "tracks", note, ("object_path",), names, records)


def sentence_of(group: Group) -> str | None:
    """What the robot does in a group's images: its sub-task, else its instruction; None where nothing says it."""
    for record in group:
        part = record.meta.get("subtask")
        text = part.get("text") if isinstance(part, dict) else None
        text = text or record.meta.get("instruction")
        if isinstance(text, str) and text.strip():
            return text
    return None


def names_of(group: Group) -> tuple[str, ...]:
    """Names that an earlier pass has found: the manipulated thing first."""
    found = group[0].meta.get(ANNOTATED, {}).get("objects", {})
    names = [found.get("manipulated"), *found.get("nouns", ())]
    return tuple(dict.fromkeys(name for name in names if name))


def _batched(
    groups: Sequence[Group], run: Callable[[Sequence[Group], Clock], list[Outcome]], clock: Clock
) -> list[Outcome]:
    """All groups at once; where one is bad, each alone, so that only the bad ones fail."""
    try:
        return run(groups, clock)
    except (RecordError, ProtocolError) as error:
        if len(groups) == 1:
            return [_reason(groups[0], error)]
    return [outcome for group in groups for outcome in _batched([group], run, clock)]


def _distinct(phrases: Sequence[str]) -> tuple[str, ...]:
    """Phrases that name different things: of "mug" and "the mug" the first."""
    return tuple({bare(phrase): phrase for phrase in reversed(phrases)}.values())[::-1]


def _with_questions(
    group: Group,
    kind: str,
    note: dict[str, Any],
    skills: tuple[str, ...],
    names: Sequence[str],
    asked: Sequence[Record],
) -> list[Record]:
    """A group with a note in its first record, and new questions in place of older ones about the same names.

    Args:
        group: as it was.
        kind: of annotation.
        note: for `meta.annotated.<kind>`.
        skills: of the questions that the pass asks.
        names: of all things it was about, whether or not they were found.
        asked: the new questions.

    Returns:
        Empty only if the whole group was such questions and none is asked now.
    """
    about = set(map(bare, names))
    kept = [r for r in group if r.skill not in skills or bare(str(r.meta.get("phrase", ""))) not in about]
    records = [*kept, *asked]
    if records:
        # What earlier passes noted stays with the group, also where its first record was such a question.
        annotated = {**group[0].meta.get(ANNOTATED, {}), kind: note}
        records[0] = replace(records[0], meta={**records[0].meta, ANNOTATED: annotated})
    return records


def _noted(record: Record, kind: str, note: dict[str, Any]) -> Record:
    annotated = {**record.meta.get(ANNOTATED, {}), kind: note}
    return replace(record, meta={**record.meta, ANNOTATED: annotated})


def _detection_json(image: int, found: Detection) -> dict[str, Any]:
    height, width = found.mask.shape
    written = {
        "image": image,
        "phrase": found.phrase,
        "score": round(found.score, 4),
        "box": list(box_in_thousandths(found.box, height, width)),
        "point": list(interior_point(found.mask, found.phrase)),
        "mask": to_runs(found.mask),
    }
    return written if found.object_id is None else {**written, "object_id": found.object_id}


def _where(group: Group) -> str:
    return f"record '{group[0].id}'"


def _reason(group: Group, error: Exception) -> str:
    text = str(error)
    return text if group[0].id in text else f"{_where(group)}: {text}"
