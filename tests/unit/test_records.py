import copy
from dataclasses import replace

import pyarrow as pa
import pytest
from tests.record_sets import group

from egem.core.errors import RecordError
from egem.records import (
    SCHEMA,
    Answer,
    DepthFile,
    ImageFile,
    Intrinsics,
    Message,
    Record,
    from_row,
    to_row,
    validate,
)

USER = Message(role="user", content="<image>\nWhich is nearer?")
ASSISTANT = Message(role="assistant", content="the mug")


@pytest.fixture
def record() -> Record:
    return Record(
        id="a/1",
        source="test",
        category="spatial",
        skill="nearest",
        group="a",
        images=(ImageFile(data=b"x"),),
        timestamps=(0.5,),
        depths=(DepthFile(data=b"y", unit_m=0.0002, kind="relative", origin="depth-anything-3/large"),),
        intrinsics=(Intrinsics(fx=1.0, fy=2.0, cx=3.0, cy=4.0),),
        messages=(Message(role="system", content="Be brief."), USER, ASSISTANT),
        answer=Answer(kind="choice", text="the mug", choices=("the mug", "the bowl")),
        meta={"distance": 1.5, "names": ["mug", "bowl"]},
    )


ANSWERS = [
    Answer(kind="text", text="yes"),
    Answer(kind="number", text="12 cm", number=12.0, unit="cm"),
    Answer(kind="point", text="[1, 2]", points=((1, 2),), region=ImageFile(data=b"r")),
    Answer(kind="trajectory", text="[1, 2], [3, 4]", points=((1, 2), (3, 4))),
    Answer(kind="box", text="[1, 2, 3, 4]", box=(1, 2, 3, 4)),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.kind)
def test_row_round_trip(record, answer):
    record = replace(record, answer=answer)
    validate(record)
    table = pa.Table.from_pylist([to_row(record)], SCHEMA)
    assert from_row(table.to_pylist()[0]) == record


def test_round_trip_without_optional_parts(record):
    for changed in (
        replace(record, timestamps=None, depths=(), intrinsics=(), meta={}),
        replace(record, depths=(None,), intrinsics=(None,)),
        replace(record, images=(ImageFile(path="a.png"),)),
    ):
        validate(changed)
        table = pa.Table.from_pylist([to_row(changed)], SCHEMA)
        assert from_row(table.to_pylist()[0]) == changed


def messages(*contents: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(role=roles[i % 2], content=content) for i, content in enumerate(contents))


def test_complete_records_are_valid(record):
    for other in (record, *group(0)):
        validate(other)


def forced(value, **changes):
    """A changed copy that the types checked in tests would refuse: data from files knows no types."""
    changed = copy.copy(value)
    for name, content in changes.items():
        object.__setattr__(changed, name, content)
    return changed


BAD = {
    "empty id, source": {"group": ""},
    "category 'colour' is none of": {"category": "colour"},
    "an image has neither bytes nor path": {"images": (ImageFile(),)},
    "2 timestamps for 1 images; give one each or none": {"timestamps": (0.0, 1.0)},
    "2 depths for 1 images": {"depths": (None, None)},
    "a depth map has neither bytes nor path": {"depths": (DepthFile(),)},
    "depth unit 0.0 m is not positive": {"depths": (DepthFile(data=b"y", unit_m=0.0),)},
    "depth kind 'sparse' is none of": {"depths": (forced(DepthFile(data=b"y"), kind="sparse"),)},
    "2 <image> marks for 1 images": {"messages": messages("<image><image>?", "yes")},
    "0 <image> marks for 1 images": {"messages": messages("?", "yes")},
    "turns must alternate user, assistant": {"messages": messages("<image>?")},
    "empty assistant message": {"messages": messages("<image>?", " ")},
    "a system message must come first": {
        "messages": (USER, ASSISTANT, Message(role="system", content="Late."))
    },
    "empty answer": {"answer": Answer(kind="text", text="")},
    "answer kind 'guess' is none of": {"answer": forced(Answer(kind="text", text="a"), kind="guess")},
    "answer 'c' is none of the choices": {"answer": Answer(kind="choice", text="c", choices=("a", "b"))},
    "a number answer needs its number": {"answer": Answer(kind="number", text="3")},
    "a point answer needs its points": {"answer": Answer(kind="point", text="[1, 2]")},
    "point \\(1001, 5\\) is outside 0..1000": {"answer": Answer(kind="point", text="a", points=((1001, 5),))},
    "point \\(5, -1\\) is outside": {"answer": Answer(kind="trajectory", text="a", points=((1, 1), (5, -1)))},
    "a box answer needs its box": {"answer": Answer(kind="box", text="a")},
    "box \\(3, 2, 1, 4\\) is not left < right": {"answer": Answer(kind="box", text="a", box=(3, 2, 1, 4))},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_records_are_named(record, message):
    with pytest.raises(RecordError, match=f"record 'a/1': .*{message}"):
        validate(forced(record, **BAD[message]))
