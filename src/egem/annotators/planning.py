"""From an episode to planning questions: sub-tasks, key frames, the thing that is moved, its mask, its track.

For each sub-task: the thing is named from the sub-task's sentence, found in the key frame (the sub-task's first), and
it and the gripper are followed through the sub-task's frames. What is asked then:

    RoboVQA's kinds   `egem.data_engine.sources.episode_questions`, with the gripper's way where only tracking gives it
    object_box        where the thing is in the key frame
    object_point      a point on it
    object_path       its way through the sub-task, eight points 0 to 1000
    drawn_path        the way drawn into the key frame: which sub-task is it

A step that fails leaves out what builds on it and is counted; it never guesses.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from egem.annotators.grounding import Shown, box_question, point_question, record_of
from egem.annotators.masks import Detection, MaskDetector, centre, spread_points
from egem.annotators.objects import ObjectNamer
from egem.annotators.steps import ANNOTATED, NUM_POINTS
from egem.annotators.tracks import PointTracker, path_of
from egem.data_engine.sources.choices import with_options
from egem.data_engine.sources.coordinates import written_list
from egem.data_engine.sources.episode_questions import image_tracks, longest_path, parts_of, path_points
from egem.data_engine.sources.robot_episodes import episode_records
from egem.data_engine.sources.source import ImportOptions
from egem.episodes import CameraStream, Episode, Subtask
from egem.media import encode_jpeg
from egem.records import COORDINATE_RANGE, Answer, ImageFile, Record

MAX_OPTIONS: Final = 4
_LETTERS: Final = "ABCD"


@dataclass(frozen=True, kw_only=True)
class PlanTools:
    """What does the work."""

    namer: ObjectNamer
    detector: MaskDetector | None
    """None asks only what needs no detection: of the episode's sub-tasks, and the gripper's way where it is known."""
    tracker: PointTracker
    gripper: str = "robot gripper"
    """What the detector is asked for where nothing else says how the gripper moves."""
    max_frames: int = 200
    """Of a sub-task that are tracked; of a longer one every second, third, ... frame."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found out about one sub-task."""

    part: Subtask
    name: str | None
    """Of the thing; None where the sentence names none."""
    thing: Detection | None
    """In the key frame."""
    thing_path: Float[np.ndarray, "step 2"] | None
    """Fractions of the image, one row a step of the sub-task; NaN where it is lost."""
    gripper_path: Float[np.ndarray, "step 2"] | None
    """Tracked; None where the episode knows it or the gripper is not found."""
    key_frame: UInt8[np.ndarray, "height width 3"]


def find(episode: Episode, stream: CameraStream, part: Subtask, tools: PlanTools) -> Finding:
    """Name, detect and follow.

    Args:
        episode: the sub-task's.
        stream: of the camera that is looked at.
        part: the sub-task.
        tools: what does it.

    Raises:
        RecordError: a frame cannot be decoded, or a name is not to be had.
    """
    stride = max(1, -(-(part.end - part.start) // tools.max_frames))
    steps = list(range(part.start, part.end, stride))
    if steps[-1] != part.end - 1:
        steps.append(part.end - 1)
    frames = stream.frames.read(steps)
    height, width = frames[0].shape[:2]
    name = tools.namer.manipulated(part.text)
    knows_gripper = bool(image_tracks(stream, episode, part, (width, height)))
    wanted = ([name] if name else []) + ([] if knows_gripper else [tools.gripper])
    best: dict[str, Detection] = {}
    detections = tools.detector.detect([frames[0]], [wanted])[0] if tools.detector and wanted else ()
    for each in detections:
        if each.phrase not in best or each.score > best[each.phrase].score:
            best[each.phrase] = each

    def follow(phrase: str | None) -> Float[np.ndarray, "step 2"] | None:
        if phrase is None or phrase not in best:
            return None
        mask = best[phrase].mask
        tracked = path_of(tools.tracker.track(frames, spread_points(mask, NUM_POINTS)), centre(mask))
        return _every_step(tracked / (width, height), steps)

    return Finding(
        part=part,
        name=name,
        thing=best.get(name) if name else None,
        thing_path=follow(name),
        gripper_path=None if knows_gripper else follow(tools.gripper),
        key_frame=frames[0],
    )


def plan_records(
    episode: Episode, source: str, where: str, number: int, tools: PlanTools, options: ImportOptions
) -> tuple[list[Record], Counter[str]]:
    """All planning records of one episode.

    Args:
        episode: with at least one camera.
        source: the source's name.
        where: for messages and provenance.
        number: place in the set.
        tools: what names, finds and follows.
        options: `camera`, `num_frames`, `num_questions` and `seed`, as for an import.

    Returns:
        The records, groups together; and counts of what was found and what not.

    Raises:
        RecordError: no such camera, or a frame cannot be read.
    """
    counts: Counter[str] = Counter()
    parts = parts_of(episode)
    if not parts:
        return [], Counter(without_instruction=1)
    camera, stream = episode.camera(options.camera)
    findings = [find(episode, stream, part, tools) for part in parts]
    for found in findings:
        counts.update(_counted(found, looked=tools.detector is not None))
    tracked = _with_tracks(episode, camera, findings)
    records = episode_records(tracked, source, where, number, options)
    made: dict[str, Any] = {"objects": {"origin": tools.namer.origin}}
    if tools.detector is not None:
        made["masks"] = {"origin": tools.detector.origin, "licence": tools.detector.licence}
        made["tracks"] = {"origin": tools.tracker.origin, "licence": tools.tracker.licence}
    by_bounds = {(found.part.start, found.part.end): found for found in findings}
    noted = [
        replace(r, meta={**r.meta, ANNOTATED: made})
        if r.skill == "gripper_path" and by_bounds[_bounds(r)].gripper_path is not None
        else r
        for r in records
    ]
    for index, found in enumerate(findings):
        shown = _shown(tracked, source, where, number, camera, index, found, made)
        noted += _thing_questions(found, shown)
        noted += _drawn(tracked, camera, found, shown, [part.text for part in parts], options.seed)
    counts["records"] += len(noted)
    return noted, counts


def draw_path(
    image: UInt8[np.ndarray, "height width 3"], points: Sequence[tuple[int, int]]
) -> UInt8[np.ndarray, "height width 3"]:
    """A way drawn into an image: from a green circle along a line that turns from yellow to red.

    Args:
        image: RGB; stays as it is.
        points: 0 to 1000, at least two.
    """
    height, width = image.shape[:2]
    canvas = Image.fromarray(image.copy())
    pen = ImageDraw.Draw(canvas)
    places = [(x * width / COORDINATE_RANGE, y * height / COORDINATE_RANGE) for x, y in points]
    thick = max(1, round(min(height, width) / 120))
    for i, (here, there) in enumerate(pairwise(places)):
        share = i / max(1, len(places) - 2)
        pen.line([here, there], fill=(255, round(220 * (1 - share)), 0), width=thick)
    radius = 2 * thick
    (x, y), (u, v) = places[0], places[-1]
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=(0, 255, 0), width=thick)
    pen.rectangle([u - radius / 2, v - radius / 2, u + radius / 2, v + radius / 2], fill=(255, 0, 0))
    return np.asarray(canvas)


def _thing_questions(found: Finding, shown: Shown) -> list[Record]:
    if found.name is None or found.thing is None:
        return []
    records = [
        box_question(shown, found.name, found.thing, meta={}),
        point_question(shown, found.name, [found.thing], meta={}),
    ]
    points = None if found.thing_path is None else path_points(found.thing_path)
    if points is not None:
        text = written_list(points)
        asked = (
            f"The robot is to {_inner(found.part.text)}. Where does the {found.name} move? "
            f"Give its way in the image as {len(points)} points [x, y], integers 0 to 1000."
        )
        answer = Answer(kind="trajectory", text=text, points=points)
        records.append(record_of(shown, "object_path", found.name, asked, answer, {}, category="planning"))
    return records


def _drawn(
    episode: Episode, camera: str, found: Finding, shown: Shown, texts: Sequence[str], seed: int
) -> list[Record]:
    """The gripper's way on the picture, and which of the episode's sub-tasks it belongs to."""
    others = sorted(set(texts) - {found.part.text})
    height, width = found.key_frame.shape[:2]
    way = longest_path(image_tracks(episode.cameras[camera], episode, found.part, (width, height)))
    if way is None or not others:
        return []
    rng = np.random.default_rng([seed, *shown.group.encode()])
    options = [found.part.text, *(others[i] for i in rng.permutation(len(others))[: MAX_OPTIONS - 1])]
    options = [options[i] for i in rng.permutation(len(options))]
    asked = with_options(
        "The line in this image, from the green circle to the red square, is the way of the robot's gripper. "
        "Which step is it?",
        options,
    )
    letter = _LETTERS[options.index(found.part.text)]
    picture = ImageFile(data=encode_jpeg(draw_path(found.key_frame, way[1])))
    drawn = replace(shown, group=f"{shown.group}/drawn", images=(picture,), depths=(), intrinsics=())
    answer = Answer(kind="choice", text=found.part.text, choices=tuple(options))
    meta = {"path": [list(point) for point in way[1]]}
    return [record_of(drawn, "drawn_path", "way", asked, answer, meta, category="planning", reply=letter)]


def _shown(
    episode: Episode,
    source: str,
    where: str,
    number: int,
    camera: str,
    index: int,
    found: Finding,
    made: dict[str, Any],
) -> Shown:
    stored = episode.cameras[camera].frames.encoded(found.part.start)
    meta = {
        **episode.meta,
        "licence": episode.meta.get("licence") or "of the dataset",
        "file": where,
        "row": number + 1,
        "episode": episode.id,
        "instruction": episode.instruction,
        "camera": camera,
        "steps": [found.part.start],
        "subtask": {"text": found.part.text, "start": found.part.start, "end": found.part.end},
        ANNOTATED: made,
    }
    return Shown(
        group=f"{source}/{episode.id}/{index}/object",
        source=source,
        images=(ImageFile(data=stored or encode_jpeg(found.key_frame)),),
        meta=meta,
    )


def _with_tracks(episode: Episode, camera: str, findings: Sequence[Finding]) -> Episode:
    """The episode with the gripper's tracked ways in the camera, where it knew none."""
    if all(found.gripper_path is None for found in findings):
        return episode
    track = np.full((episode.num_steps, 2), np.nan)
    for found in findings:
        if found.gripper_path is not None:
            track[found.part.start : found.part.end] = found.gripper_path
    stream = replace(episode.cameras[camera], track=track)
    return replace(episode, cameras={**episode.cameras, camera: stream})


def _every_step(path: Float[np.ndarray, "frame 2"], steps: Sequence[int]) -> Float[np.ndarray, "step 2"]:
    """A way at all steps from a way at some of them, straight in between."""
    wanted = np.arange(steps[0], steps[-1] + 1)
    return np.stack([np.interp(wanted, steps, path[:, axis]) for axis in range(2)], axis=1)


def _counted(found: Finding, *, looked: bool) -> dict[str, int]:
    path = found.thing_path
    return {
        "subtasks": 1,
        "named": int(found.name is not None),
        "not_named": int(found.name is None),
        "found": int(found.thing is not None),
        "not_found": int(looked and found.name is not None and found.thing is None),
        "tracked": int(path is not None and bool(np.isfinite(path).all())),
        "lost": int(path is not None and not np.isfinite(path).all()),
        "gripper_tracked": int(
            found.gripper_path is not None and bool(np.isfinite(found.gripper_path).all())
        ),
    }


def _bounds(record: Record) -> tuple[int, int]:
    return record.meta["subtask"]["start"], record.meta["subtask"]["end"]


def _inner(text: str) -> str:
    """A sub-task as part of a sentence."""
    text = text.strip().rstrip(".")
    return text[:1].lower() + text[1:]
