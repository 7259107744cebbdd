"""What a training example is: images with depth, a conversation about them, and the answer to score.

A `Record` enters as the data engine made it and leaves as one row of a Parquet shard (or the other way
round). Nothing here needs torch. `docs/record-format.md` shows every column with a real example.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa

from egem.core.errors import RecordError

SCHEMA_VERSION = 1

IMAGE_MARK = "<image>"
"""Stands in a message's text where an image belongs; the n-th mark is the n-th image."""

COORDINATE_RANGE = 1000
"""Points and boxes in text and answers are integers 0 to 1000, x then y, origin top left."""

Category = Literal["grounding", "spatial", "planning"]
AnswerKind = Literal["choice", "number", "point", "box", "text", "trajectory"]
DepthKind = Literal["metric", "relative"]

_CATEGORIES, _ANSWER_KINDS, _DEPTH_KINDS = get_args(Category), get_args(AnswerKind), get_args(DepthKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """An encoded image (PNG or JPEG): its bytes, or the path of the file that holds them."""

    data: bytes | None = None
    path: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthFile:
    """A 16-bit PNG depth map of one image, the same size as the image; 0 means no reading."""

    data: bytes | None = None
    path: str | None = None
    unit_m: float = 0.001
    """Metres (or, for `relative`, arbitrary units) per count."""
    kind: DepthKind = "metric"
    origin: str = "sensor"
    """`sensor`, `simulator`, or `<estimator>/<checkpoint>`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Intrinsics:
    """Pinhole camera in pixels of the stored image."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the last assistant message means, for scoring.

    Which fields are filled depends on `kind`: `choice` has `text` and all `choices`; `number` has
    `number` and `unit`; `point` has `points` and, where many points are right, `region`; `box` has `box`;
    `trajectory` has `points` in order; `text` has `text` alone.
    """

    kind: AnswerKind
    text: str
    """The answer as the assistant writes it."""
    choices: tuple[str, ...] = ()
    number: float | None = None
    unit: str | None = None
    """`m`, `cm` or `count`."""
    points: tuple[tuple[int, int], ...] = ()
    """0 to 1000, x then y."""
    box: tuple[int, int, int, int] | None = None
    """0 to 1000: left, top, right, bottom."""
    region: ImageFile | None = None
    """One-bit PNG as large as the first image: white where a predicted point counts as right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One question (or conversation) about one or more images: a row of a shard."""

    id: str
    source: str
    category: Category
    skill: str
    group: str
    """Records of one group share the same images, stand next to each other and train in one sequence."""
    images: tuple[ImageFile, ...]
    timestamps: tuple[float, ...] | None = None
    """Seconds of each image when they are frames of a video."""
    depths: tuple[DepthFile | None, ...] = ()
    """One per image, or empty."""
    intrinsics: tuple[Intrinsics | None, ...] = ()
    """One per image, or empty."""
    messages: tuple[Message, ...]
    answer: Answer
    meta: dict[str, Any] = field(default_factory=dict)
    """Anything else worth keeping, JSON values only: the numbers an answer came from, licence, scene."""


_FILE = [("bytes", pa.binary()), ("path", pa.string())]
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("skill", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("images", pa.list_(pa.struct(_FILE)), nullable=False),
        pa.field("timestamps", pa.list_(pa.float64())),
        pa.field(
            "depths",
            pa.list_(
                pa.struct([*_FILE, ("unit_m", pa.float64()), ("kind", pa.string()), ("origin", pa.string())])
            ),
        ),
        pa.field(
            "intrinsics",
            pa.list_(pa.struct([(name, pa.float64()) for name in ("fx", "fy", "cx", "cy")])),
        ),
        pa.field(
            "messages",
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
            nullable=False,
        ),
        pa.field(
            "answer",
            pa.struct(
                [
                    ("kind", pa.string()),
                    ("text", pa.string()),
                    ("choices", pa.list_(pa.string())),
                    ("number", pa.float64()),
                    ("unit", pa.string()),
                    ("points", pa.list_(pa.list_(pa.int32()))),
                    ("box", pa.list_(pa.int32())),
                    ("region", pa.struct(_FILE)),
                ]
            ),
            nullable=False,
        ),
        pa.field("meta", pa.string(), nullable=False),
    ],
    metadata={"egem.schema_version": str(SCHEMA_VERSION)},
)
"""The columns of a shard; `meta` is JSON text."""


def validate(record: Record) -> None:
    """Check everything about a record that can be checked without decoding its images.

    Raises:
        RecordError: names the record, the field and what is wrong with it.
    """
    for problem in _problems(record):
        raise RecordError(f"record '{record.id}': {problem}")


def _problems(record: Record) -> Iterator[str]:
    """What is wrong, the first first; a generator, so that no message is made for what is right."""
    if not (record.id and record.source and record.skill and record.group):
        yield "empty id, source, skill or group."
    if record.category not in _CATEGORIES:
        yield f"category '{record.category}' is none of {_CATEGORIES}."
    if record.depths and not record.images:
        yield "depth without an image."
    for image in record.images:
        if image.data is None and image.path is None:
            yield "an image has neither bytes nor path."
    for name, values in (
        ("timestamps", record.timestamps),
        ("depths", record.depths),
        ("intrinsics", record.intrinsics),
    ):
        if values and len(values) != len(record.images):
            yield f"{len(values)} {name} for {len(record.images)} images; give one each or none."
    for depth in record.depths:
        if depth is not None:
            yield from _problems_of_depth(depth)
    yield from _problems_of_messages(record)
    yield from _problems_of_answer(record.answer)


def _problems_of_depth(depth: DepthFile) -> Iterator[str]:
    if depth.data is None and depth.path is None:
        yield "a depth map has neither bytes nor path."
    if not depth.unit_m > 0:
        yield f"depth unit {depth.unit_m} m is not positive."
    if depth.kind not in _DEPTH_KINDS:
        yield f"depth kind '{depth.kind}' is none of {_DEPTH_KINDS}."


def _problems_of_messages(record: Record) -> Iterator[str]:
    roles = [message.role for message in record.messages if message.role != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        yield f"turns must alternate user, assistant; got {roles}."
    if any(message.role == "system" for message in record.messages[1:]):
        yield "a system message must come first."
    marks = sum(message.content.count(IMAGE_MARK) for message in record.messages)
    if marks != len(record.images):
        yield f"{marks} {IMAGE_MARK} marks for {len(record.images)} images; there must be one mark an image."
    for message in record.messages:
        if not message.content.strip():
            yield f"empty {message.role} message."


def _problems_of_answer(answer: Answer) -> Iterator[str]:
    if answer.kind not in _ANSWER_KINDS:
        yield f"answer kind '{answer.kind}' is none of {_ANSWER_KINDS}."
    if not answer.text.strip():
        yield "empty answer."
    if answer.kind == "choice" and answer.text not in answer.choices:
        yield f"answer '{answer.text}' is none of the choices {answer.choices}."
    if answer.kind == "number" and answer.number is None:
        yield "a number answer needs its number."
    if answer.kind in ("point", "trajectory") and not answer.points:
        yield f"a {answer.kind} answer needs its points."
    if answer.kind == "box" and answer.box is None:
        yield "a box answer needs its box."
    for x, y in answer.points:
        if not (0 <= x <= COORDINATE_RANGE and 0 <= y <= COORDINATE_RANGE):
            yield f"point ({x}, {y}) is outside 0..{COORDINATE_RANGE}."
    if answer.box is not None:
        left, top, right, bottom = answer.box
        if not (0 <= left < right <= COORDINATE_RANGE and 0 <= top < bottom <= COORDINATE_RANGE):
            yield f"box {answer.box} is not left < right, top < bottom inside 0..{COORDINATE_RANGE}."


def to_row(record: Record) -> dict[str, Any]:
    """The record as one row for `pa.Table.from_pylist(rows, SCHEMA)`."""
    return {
        "id": record.id,
        "source": record.source,
        "category": record.category,
        "skill": record.skill,
        "group": record.group,
        "images": [_file_row(image) for image in record.images],
        "timestamps": None if record.timestamps is None else list(record.timestamps),
        "depths": [
            None
            if depth is None
            else {**_file_row(depth), "unit_m": depth.unit_m, "kind": depth.kind, "origin": depth.origin}
            for depth in record.depths
        ],
        "intrinsics": [
            None if camera is None else {"fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy}
            for camera in record.intrinsics
        ],
        "messages": [{"role": m.role, "content": m.content} for m in record.messages],
        "answer": {
            "kind": record.answer.kind,
            "text": record.answer.text,
            "choices": list(record.answer.choices),
            "number": record.answer.number,
            "unit": record.answer.unit,
            "points": [list(point) for point in record.answer.points],
            "box": None if record.answer.box is None else list(record.answer.box),
            "region": None if record.answer.region is None else _file_row(record.answer.region),
        },
        "meta": json.dumps(record.meta, sort_keys=True),
    }


def from_row(row: dict[str, Any]) -> Record:
    """The inverse of `to_row`; rows written by other tools, or read without some columns, work too.

    Raises:
        RecordError: a value is missing or of another form; what values mean is left to `validate`.
    """
    try:
        return _from_row(row)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise RecordError(
            f"record '{row.get('id')}' has a column that is empty or of another form "
            f"({type(error).__name__}: {error}); see docs/record-format.md."
        ) from error


def _from_row(row: dict[str, Any]) -> Record:
    timestamps = row.get("timestamps")
    return Record(
        id=row["id"],
        source=row["source"],
        category=row["category"],
        skill=row["skill"],
        group=row["group"],
        images=tuple(_image_file(image) for image in row["images"]),
        timestamps=None if timestamps is None else tuple(timestamps),
        depths=tuple(None if d is None else _depth_file(d) for d in row.get("depths") or ()),
        intrinsics=tuple(None if c is None else Intrinsics(**c) for c in row.get("intrinsics") or ()),
        messages=tuple(Message(**message) for message in row["messages"]),
        answer=_answer(row["answer"]),
        meta=json.loads(row.get("meta") or "{}"),
    )


def _answer(row: dict[str, Any]) -> Answer:
    box, region = row.get("box"), row.get("region")
    return Answer(
        kind=row["kind"],
        text=row["text"],
        choices=tuple(row.get("choices") or ()),
        number=row.get("number"),
        unit=row.get("unit"),
        points=tuple((x, y) for x, y in row.get("points") or ()),
        box=None if box is None else tuple(box),
        region=None if region is None else _image_file(region),
    )


def _file_row(file: ImageFile | DepthFile) -> dict[str, Any]:
    return {"bytes": file.data, "path": file.path}


def _image_file(row: dict[str, Any]) -> ImageFile:
    return ImageFile(data=row["bytes"], path=row["path"])


def _depth_file(row: dict[str, Any]) -> DepthFile:
    return DepthFile(
        data=row["bytes"],
        path=row["path"],
        unit_m=row["unit_m"],
        kind=row["kind"],
        origin=row["origin"],
    )
