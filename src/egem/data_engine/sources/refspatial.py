"""RefSpatial (JingkunAn/RefSpatial on Hugging Face): referring to objects and places, with reasoning.

    {2D,3D}/{choice_qa,reasoning_template_qa,vacant_qa,multi_view_qa,visual_choice_qa}.json, Simulator/metadata.json:
    {"id", "image": [name], "depth": [name], "conversations": [{"from", "value"}, ... many turns], "thinking"}
    <subset>/image/, <subset>/depth/
Points are tuples of fractions. The turns of a row do not build on each other: each becomes a record, one row a group.

Depth is the picture of a Depth Anything V2 map: disparity from 0 (far) to 255 (near), without scale or shift. It is
stored as relative depth 1 / (d / 255 + OFFSET): whatever the offset, inverse depth is the same up to scale and shift.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.choices import plain_answer
from egem.data_engine.sources.conversation import read_messages, single_turns
from egem.data_engine.sources.coordinates import in_thousandths, read_answer, restated
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import Picture, Pictures
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows, same_size
from egem.media import encode_counts, encode_depth
from egem.records import IMAGE_MARK, Answer, DepthFile, Message, Record

NAME = "refspatial"
LICENCE = "Apache-2.0 (images of OpenImages and CA-1M keep their own)"
PATTERNS = ("2D/*.json", "3D/*.json", "Simulator/*.json", "*_qa.json", "metadata.json")

OFFSET = 0.1
UNIT = 0.0002
"""Of the stored depth: 1 / 0.1 is 50,000 counts, and 256 disparities stay apart."""
ORIGIN = "depth-anything-v2"

_COUNTS = np.rint(1.0 / (np.arange(256) / 255 + OFFSET) / UNIT).astype(np.uint16)
"""Stored depth of each disparity."""


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """A row gives one record for each of its questions.

    Raises:
        ConfigError: the folder holds neither 2D/, 3D/ nor Simulator/ with JSON files.
    """
    for file in find_files(path, PATTERNS, source=NAME, split=options.split):
        root = options.media or file.parent
        reader = _Reader(options, root, options.depth or root / "depth")
        yield from file_rows(
            [file], read_json_rows, reader.load, root=folder_of(path), source=NAME, licence=LICENCE
        )


class _Reader:
    def __init__(self, options: ImportOptions, root: Path, depth: Path) -> None:
        self.pictures = Pictures([root / "image", root], options.images)
        self.depth = Pictures([depth]) if depth.is_dir() else None

    def load(self, row: Any, place: Place) -> list[Record]:
        where = place.where
        row = fields.mapping(row, where)
        names = fields.texts(row, "image", where)
        if not names:
            raise fields.unknown_schema(row, "'image' (a list of names)", where)
        pictures = [self.pictures.read(name, where) for name in names]
        depths = self._depths(row, pictures, where)
        messages = [_without_marks(message) for message in read_messages(row.get("conversations"), where)]
        records = []
        for number, (question, answer) in enumerate(single_turns(messages, len(names), where)):
            asked = restated(in_thousandths(question.content, where, strict=False))
            said = in_thousandths(answer.content, where, strict=False)
            records.append(
                Record(
                    id=f"{place.id}/{number:03d}",
                    source=NAME,
                    category="spatial",
                    skill="simulator" if place.file.stem == "metadata" else place.file.stem,
                    group=place.id,
                    images=tuple(picture.file for picture in pictures),
                    depths=depths,
                    messages=(Message(role="user", content=asked), Message(role="assistant", content=said)),
                    answer=_answer(asked, said),
                    meta=place.meta(id=row.get("id"), images=names, turn=number),
                )
            )
        return records

    def _depths(
        self, row: dict[str, Any], pictures: list[Picture], where: str
    ) -> tuple[DepthFile | None, ...]:
        names = fields.texts(row, "depth", where)
        if not names or self.depth is None:
            return ()
        if len(names) != len(pictures):
            raise RecordError(
                f"{where}: {len(names)} depth maps for {len(pictures)} images; one each is needed."
            )
        return tuple(
            _relative_depth(self.depth.find(name, where, "depth map"), picture, where)
            for name, picture in zip(names, pictures, strict=True)
        )


def _relative_depth(path: Path, picture: Picture, where: str) -> DepthFile:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{where}: depth map {path} cannot be decoded: {error}; copy it again.") from error
    if pixels.ndim == 3:
        if (pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 0] != pixels[..., 2]).any():
            raise RecordError(f"{where}: depth map {path} is in colours; a grey picture is needed.")
        pixels = pixels[..., 0]
    same_size(np.empty((picture.height, picture.width)), pixels, where)
    if pixels.dtype == np.uint8:
        # All 256 are in the table; without the check of bounds that is twice as fast.
        counts = _COUNTS.take(pixels, mode="clip")
        return DepthFile(data=encode_counts(counts), unit_m=UNIT, kind="relative", origin=ORIGIN)
    depth = (1.0 / (pixels.astype(np.float32) / 65535 + OFFSET)).astype(np.float32)
    return DepthFile(data=encode_depth(depth, UNIT), unit_m=UNIT, kind="relative", origin=ORIGIN)


def _without_marks(message: Message) -> Message:
    """Every question is shown all images, first; marks of the row's first question go."""
    return Message(role=message.role, content=message.content.replace(IMAGE_MARK, "").strip())


def _answer(question: str, text: str) -> Answer:
    places = read_answer(text)
    return places if places.kind != "text" else plain_answer(question, text)
