"""What ViCA-322K and VSI-590K share: LLaVA rows about a video or an image, answered by a letter, a number or a text."""

from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.data_engine.sources import fields
from egem.data_engine.sources.choices import plain_answer
from egem.data_engine.sources.conversation import Clips, read_messages, with_frames, with_marks
from egem.data_engine.sources.pictures import Pictures
from egem.data_engine.sources.source import ImportOptions, Place
from egem.records import Record


class VideoQuestions:
    """Rows to records.

    Args:
        options: `num_frames` of each video are taken.
        roots: folders that paths of videos and images start from.
    """

    def __init__(self, options: ImportOptions, roots: list[Path]) -> None:
        self.pictures = Pictures(roots, options.images)
        self.videos = Pictures(
            [folder for root in roots for folder in (root, root / "videos", root / "video")]
        )
        self.clips = Clips(options.num_frames)

    def load(self, row: Any, place: Place, skill: str) -> Record:
        """One row.

        Args:
            row: {"conversations", "video" or "image"}.
            place: where it stands.
            skill: the kind of question.

        Raises:
            RecordError: with the first thing that is wrong.
        """
        where = place.where
        row = fields.mapping(row, where)
        videos, names = fields.texts(row, "video", where), fields.texts(row, "image", where)
        if bool(videos) == bool(names):
            raise RecordError(
                f"{where}: one of 'video' and 'image' is needed; the row has {', '.join(sorted(row))}."
            )
        messages = read_messages(row.get("conversations"), where)
        timestamps = None
        if videos:
            clips = [self.clips.read(self.videos.find(name, where, "video"), where) for name in videos]
            messages = with_frames(messages, [len(clip) for clip in clips], where)
            images = tuple(image for clip in clips for image, _ in clip)
            timestamps = tuple(seconds for clip in clips for _, seconds in clip)
        else:
            messages = with_marks(messages, len(names))
            images = tuple(self.pictures.read(name, where).file for name in names)
        question = messages[-2].content if len(messages) > 1 else ""
        return Record(
            id=place.id,
            source=place.source,
            category="spatial",
            skill=skill,
            group=place.id,
            images=images,
            timestamps=timestamps,
            messages=tuple(messages),
            answer=plain_answer(question, messages[-1].content),
            meta=place.meta(id=row.get("id"), media=(videos or names)[0], data_source=row.get("data_source")),
        )
