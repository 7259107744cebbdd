"""Sources of robot episodes: each episode becomes planning records with its key frames.

`egem.data_engine.episodes` reads the files, `episode_questions` decides what is asked; here frames are fetched and both
are put together. The questions about one view of a sub-task are one group.
"""

import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from egem.core.errors import RecordError
from egem.data_engine.episodes.pending import PendingEpisode
from egem.data_engine.episodes.readers import READERS
from egem.data_engine.sources.conversation import ask, evenly
from egem.data_engine.sources.episode_questions import EpisodeQuestion, ViewName, parts_of, questions
from egem.data_engine.sources.source import ImportOptions, Row
from egem.episodes import CameraStream, Episode, Subtask
from egem.media import encode_depth, encode_jpeg, image_size
from egem.records import DepthFile, ImageFile, Intrinsics, Record

LICENCE = "of the dataset"
DEPTH_UNIT_M = 0.001


def rows(path: Path, options: ImportOptions, *, source: str) -> Iterator[Row]:
    """A row for each episode of a set in the format that `source` names in `READERS`; raises what its reader does."""
    for number, pending in enumerate(READERS[source](path, options.split)):
        load = partial(_load, pending, source, number, options)
        yield Row(where=pending.where, load=load, num_bytes=pending.num_bytes)


def _load(pending: PendingEpisode, source: str, number: int, options: ImportOptions) -> list[Record]:
    try:
        episode = pending.load()
        return episode_records(episode, source, pending.where, number, options)
    except RecordError as error:
        message = str(error)
        raise RecordError(message if pending.where in message else f"{pending.where}: {message}") from None


def episode_records(
    episode: Episode, source: str, where: str, number: int, options: ImportOptions
) -> list[Record]:
    """The records of one episode.

    Args:
        episode: with at least one camera.
        source: the source's name.
        where: for messages and provenance.
        number: place in the set.
        options: `camera` and `num_frames` say what is shown, at most `num_questions` are asked, `seed` decides which.

    Returns:
        Empty where nothing is annotated and nothing was said to be done.

    Raises:
        RecordError: no such camera, or a frame cannot be read.
    """
    if not parts_of(episode):
        return []
    name, stream = episode.camera(options.camera)
    # The name counts, not the place: an episode is asked the same whatever else is imported.
    rng = np.random.default_rng([options.seed, zlib.crc32(f"{source}/{episode.id}".encode())])
    views = _Views(episode, stream, options.num_frames)
    asked = questions(episode, name, views.size, rng)
    chosen = sorted(rng.permutation(len(asked))[: options.num_questions].tolist())
    # Questions about one view stand together.
    order = ("start", "half", "clip")
    chosen.sort(key=lambda i: (asked[i].part, order.index(asked[i].view)))
    records = []
    for place, index in enumerate(chosen):
        question = asked[index]
        records.append(
            views.record(
                question,
                id=f"{source}/{episode.id}/{place:02d}",
                source=source,
                meta=_meta(episode, where, number, name, views, question),
            )
        )
    return records


class _Views:
    """Frames of an episode's parts, fetched once for all questions about them."""

    def __init__(self, episode: Episode, stream: CameraStream, num_frames: int) -> None:
        self.episode, self.stream, self.num_frames = episode, stream, num_frames
        self.parts = parts_of(episode)
        self._kept: dict[int, ImageFile] = {}
        height, width = image_size(self._images([0])[0])
        self.size = (width, height)

    def steps(self, part: Subtask, view: ViewName) -> list[int]:
        """The steps that a view shows."""
        if view == "start":
            return [part.start]
        end = part.start + max(1, (part.end - part.start) // 2) if view == "half" else part.end
        return [part.start + i for i in evenly(end - part.start, self.num_frames)]

    def record(self, question: EpisodeQuestion, *, id: str, source: str, meta: dict[str, object]) -> Record:
        part = self.parts[question.part]
        steps = self.steps(part, question.view)
        times = self.episode.timestamps
        matrix = self.stream.intrinsics
        camera = (
            None
            if matrix is None
            else Intrinsics(
                fx=float(matrix[0, 0]), fy=float(matrix[1, 1]), cx=float(matrix[0, 2]), cy=float(matrix[1, 2])
            )
        )
        return Record(
            id=id,
            source=source,
            category="planning",
            skill=question.skill,
            group=f"{source}/{self.episode.id}/{question.part}/{question.view}",
            images=tuple(self._images(steps)),
            timestamps=None if times is None else tuple(round(float(times[i]), 3) for i in steps),
            depths=self._depths(steps),
            intrinsics=() if camera is None else (camera,) * len(steps),
            messages=ask(question.text, question.reply, len(steps)),
            answer=question.answer,
            meta=meta,
        )

    def _images(self, steps: Sequence[int]) -> list[ImageFile]:
        missing = [i for i in dict.fromkeys(steps) if i not in self._kept]
        stored = {i: self.stream.frames.encoded(i) for i in missing}
        wanted = [i for i in missing if stored[i] is None]
        pixels = self.stream.frames.read(wanted) if wanted else []
        stored |= {i: encode_jpeg(image) for i, image in zip(wanted, pixels, strict=True)}
        self._kept |= {i: ImageFile(data=data) for i, data in stored.items()}
        return [self._kept[i] for i in steps]

    def _depths(self, steps: Sequence[int]) -> tuple[DepthFile | None, ...]:
        """Depth where the camera has it; a map of another size than its frame is left out."""
        if self.stream.depth is None:
            return ()
        maps = self.stream.depth.read(steps)
        if any(found.shape[::-1] != self.size for found in maps):
            return ()
        return tuple(
            DepthFile(data=encode_depth(found, DEPTH_UNIT_M), unit_m=DEPTH_UNIT_M, origin="sensor")
            for found in maps
        )


def _meta(
    episode: Episode, where: str, number: int, camera: str, views: _Views, question: EpisodeQuestion
) -> dict[str, object]:
    part = views.parts[question.part]
    given = {
        **episode.meta,
        "licence": episode.meta.get("licence") or LICENCE,
        "file": Path(where.split(", ")[0]).name,
        "row": number + 1,
        "episode": episode.id,
        "instruction": episode.instruction or None,
        "camera": camera,
        "steps": views.steps(part, question.view),
        "subtask": {"text": part.text, "start": part.start, "end": part.end, "skill": part.skill},
        "subtasks_annotated": bool(episode.subtasks),
    }
    return {key: value for key, value in given.items() if value is not None}
