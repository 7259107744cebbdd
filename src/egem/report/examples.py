"""A scored question as a picture: what is right and what was answered, drawn where they mean a place."""

from egem.media import decode_image, decode_region
from egem.records import IMAGE_MARK, Answer, Record
from egem.report.contents import Example
from egem.report.drawing import Marks
from egem.scoring import parse_boxes, parse_points


def example(record: Record, given: str, score: float) -> Example:
    """The example of a question, drawn on its first image.

    Args:
        record: the question with its right answer.
        given: what the model wrote.
        score: of it.

    Raises:
        RecordError: the image or the region of right answers cannot be read.
    """
    question = next(message.content for message in reversed(record.messages) if message.role == "user")
    return Example(
        image=decode_image(record.images[0], where=f"record '{record.id}'"),
        skill=record.skill,
        question=question.replace(IMAGE_MARK, "").strip(),
        expected=record.answer.text,
        given=given,
        score=score,
        right_marks=_right_marks(record.answer),
        given_marks=_given_marks(record.answer, given),
    )


def _right_marks(answer: Answer) -> Marks:
    if answer.kind == "box" and answer.box is not None:
        return Marks(boxes=[answer.box])
    if answer.kind == "trajectory":
        return Marks(path=answer.points)
    if answer.kind == "point" and answer.region is not None:
        return Marks(region=decode_region(answer.region))
    return Marks(points=answer.points) if answer.kind == "point" else Marks()


def _given_marks(answer: Answer, given: str) -> Marks:
    if answer.kind == "box":
        boxes = parse_boxes(given)
        return Marks(boxes=[(box[0], box[1], box[2], box[3]) for box in boxes])
    if answer.kind == "trajectory":
        return Marks(path=parse_points(given))
    return Marks(points=parse_points(given)) if answer.kind == "point" else Marks()
