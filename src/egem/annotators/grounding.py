"""Questions about things that a detector or tracker has found, added to the group whose images they are about."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from egem.annotators.masks import Detection, bare, box_in_thousandths
from egem.data_engine.sources.conversation import ask
from egem.data_engine.sources.coordinates import written_list
from egem.data_engine.sources.masks import interior_point
from egem.media import encode_region
from egem.records import Answer, Category, DepthFile, ImageFile, Intrinsics, Record

MIN_LENGTH: Final = 60
"""A way shorter than this in the image (0 to 1000) is not asked for."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What questions are asked about: the images of a group, and what its records say of themselves."""

    group: str
    source: str
    images: tuple[ImageFile, ...]
    timestamps: tuple[float, ...] | None = None
    depths: tuple[DepthFile | None, ...] = ()
    intrinsics: tuple[Intrinsics | None, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record) -> "Shown":
        """The group of a record."""
        return cls(
            group=record.group,
            source=record.source,
            images=record.images,
            timestamps=record.timestamps,
            depths=record.depths,
            intrinsics=record.intrinsics,
            meta={key: value for key, value in record.meta.items() if key != "annotated"},
        )


def box_question(shown: Shown, phrase: str, found: Detection, *, meta: dict[str, Any]) -> Record:
    """Where one thing is, as a box.

    Args:
        shown: its first image is asked about.
        phrase: its name.
        found: in the group's first image.
        meta: kept in the record, besides what `shown` says.
    """
    height, width = found.mask.shape
    box = box_in_thousandths(found.box, height, width)
    text = f"[{', '.join(map(str, box))}]"
    asked = (
        f"{_opening(shown)}where is the {bare(phrase)}? Give its box [x1, y1, x2, y2], integers 0 to 1000."
    )
    answer = Answer(kind="box", text=text, box=box)
    score = {"score": round(found.score, 4)}
    return record_of(shown, "object_box", phrase, asked, answer, {**meta, **score}, category="grounding")


def point_question(shown: Shown, phrase: str, found: Sequence[Detection], *, meta: dict[str, Any]) -> Record:
    """A point on a thing; where there are several of the name, a point on any of them is right.

    Args:
        shown: its first image is asked about.
        phrase: the name.
        found: in the group's first image, the best first.
        meta: see `box_question`.
    """
    point = interior_point(found[0].mask, phrase)
    region = np.any([each.mask for each in found], axis=0)
    name = bare(phrase)
    which = f"the {name}" if len(found) == 1 else f"a {name}"
    asked = f"{_opening(shown)}point to {which}: [x, y], integers 0 to 1000."
    answer = Answer(
        kind="point",
        text=f"[{point[0]}, {point[1]}]",
        points=(point,),
        region=ImageFile(data=encode_region(region)),
    )
    return record_of(shown, "object_point", phrase, asked, answer, meta, category="grounding")


def path_question(
    shown: Shown, phrase: str, points: Sequence[Sequence[int] | None], *, meta: dict[str, Any]
) -> list[Record]:
    """Where a thing goes in the frames of a clip, one point a frame; none if it is lost or hardly moves."""
    known = [(point[0], point[1]) for point in points if point is not None]
    if len(known) < len(points):
        return []
    length = np.linalg.norm(np.diff(np.array(known, float), axis=0), axis=1).sum()
    if length < MIN_LENGTH:
        return []
    text = written_list(known)
    asked = (
        f"Where is the {bare(phrase)} in each of these {len(known)} frames? Give one point [x, y] a frame, "
        "integers 0 to 1000."
    )
    answer = Answer(kind="trajectory", text=text, points=tuple(known))
    return [record_of(shown, "object_path", phrase, asked, answer, meta, category="planning")]


def _opening(shown: Shown) -> str:
    return "In this image, " if len(shown.images) == 1 else "In the first image, "


def record_of(
    shown: Shown,
    skill: str,
    name: str,
    asked: str,
    answer: Answer,
    meta: dict[str, Any],
    *,
    category: Category,
    reply: str | None = None,
) -> Record:
    """One question as a record of the group.

    Args:
        shown: what it is about.
        skill: the kind of question.
        name: of the thing; with the skill it tells the questions of a group apart.
        asked: without marks of images; all are shown before it.
        answer: to score with.
        meta: kept besides what `shown` says.
        category: of the record.
        reply: what the assistant writes; the answer's text if None.
    """
    return Record(
        id=f"{shown.group}/{skill}/{bare(name)}",
        source=shown.source,
        category=category,
        skill=skill,
        group=shown.group,
        images=shown.images,
        timestamps=shown.timestamps,
        depths=shown.depths,
        intrinsics=shown.intrinsics,
        messages=ask(asked, answer.text if reply is None else reply, len(shown.images)),
        answer=answer,
        meta={**shown.meta, **meta, "phrase": name},
    )
