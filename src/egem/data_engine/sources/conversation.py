"""LLaVA's conversations: turns to messages, marks to images, videos to frames."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from egem.core.errors import RecordError
from egem.media import encode_jpeg
from egem.records import IMAGE_MARK, ImageFile, Message

VIDEO_MARK = "<video>"
_KEPT_CLIPS = 32

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def read_messages(turns: Any, where: str) -> list[Message]:
    """Turns {"from": human | gpt | system, "value"} as messages.

    Raises:
        RecordError: none, or one of another form.
    """
    if not isinstance(turns, list):
        raise RecordError(f"{where}: an object with a list 'conversations' expected.")
    messages = []
    for turn in turns:
        role = _ROLES.get(str(turn.get("from", turn.get("role")))) if isinstance(turn, dict) else None
        text = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        if role is None or not isinstance(text, str):
            raise RecordError(
                f"{where}: a turn needs 'from' (human or gpt) and 'value', got {str(turn)[:60]!r}."
            )
        messages.append(Message(role=role, content=text))
    if not messages:
        raise RecordError(f"{where}: 'conversations' is empty.")
    return messages


def ask(question: str, answer: str, num_images: int) -> tuple[Message, Message]:
    """One question and its answer; the images come first where the question has no marks."""
    return (
        Message(role="user", content=_opened(question, num_images)),
        Message(role="assistant", content=answer),
    )


def with_marks(messages: Sequence[Message], num_images: int) -> list[Message]:
    """Messages without any mark get one for each image, at the start of the user's first."""
    if num_images == 0 or any(IMAGE_MARK in message.content for message in messages):
        return list(messages)
    first = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    opened = Message(role=messages[first].role, content=_opened(messages[first].content, num_images))
    return [*messages[:first], opened, *messages[first + 1 :]]


def single_turns(messages: Sequence[Message], num_images: int, where: str) -> list[tuple[Message, Message]]:
    """Each question with its answer alone, each with all images: for rows of questions that do not build on each other.

    Raises:
        RecordError: turns do not alternate.
    """
    talk = [message for message in messages if message.role != "system"]
    if len(talk) % 2 or [m.role for m in talk] != ["user", "assistant"] * (len(talk) // 2):
        raise RecordError(f"{where}: turns must alternate user, assistant; got {[m.role for m in talk]}.")
    return [
        ask(question.content.strip(), answer.content.strip(), num_images)
        for question, answer in zip(talk[::2], talk[1::2], strict=True)
    ]


def with_frames(messages: Sequence[Message], lengths: Sequence[int], where: str) -> list[Message]:
    """Each video's mark (<video>, or <image> where there is none) replaced by one image mark a frame.

    Args:
        messages: with one mark a video, or none at all.
        lengths: frames of each video.
        where: for messages.

    Raises:
        RecordError: another number of marks than of videos.
    """
    if not any(VIDEO_MARK in message.content for message in messages):
        marked = with_marks(messages, len(lengths))
        messages = [Message(role=m.role, content=m.content.replace(IMAGE_MARK, VIDEO_MARK)) for m in marked]
    marks = sum(message.content.count(VIDEO_MARK) for message in messages)
    if marks != len(lengths):
        raise RecordError(
            f"{where}: {marks} {VIDEO_MARK} marks for {len(lengths)} videos; one each is needed."
        )
    remaining = iter(lengths)
    return [
        Message(
            role=m.role,
            content=re.sub(re.escape(VIDEO_MARK), lambda _: IMAGE_MARK * next(remaining), m.content),
        )
        for m in messages
    ]


class Clips:
    """Frames of videos, as JPEG with their seconds; the last few videos stay, as rows about one often follow.

    Args:
        num_frames: taken of each, evenly from the first to the last.
    """

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self._kept: OrderedDict[Path, list[tuple[ImageFile, float]]] = OrderedDict()

    def read(self, path: Path, where: str) -> list[tuple[ImageFile, float]]:
        """The frames of a video.

        Raises:
            RecordError: missing or not decodable.
        """
        if path not in self._kept:
            from egem.video import read_frames  # only rows with videos need the decoder

            try:
                frames, seconds = read_frames(path, num=self.num_frames)
            except RecordError as error:
                raise RecordError(f"{where}: {error}") from None
            files = [ImageFile(data=encode_jpeg(frame)) for frame in frames]
            self._kept[path] = list(zip(files, (round(s, 3) for s in seconds), strict=True))
            while len(self._kept) > _KEPT_CLIPS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(path)
        return self._kept[path]


def evenly(total: int, num: int) -> list[int]:
    """At most `num` of `total` indices, from the first to the last."""
    return np.unique(np.linspace(0, total - 1, min(num, total)).round().astype(int)).tolist()


def _opened(question: str, num_images: int) -> str:
    if num_images == 0 or IMAGE_MARK in question:
        return question
    return f"{IMAGE_MARK * num_images}\n{question}"
