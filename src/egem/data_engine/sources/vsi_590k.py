"""VSI-590K (nyu-visionx/VSI-590K): spatial questions about videos and images of real and simulated rooms.

    vsi_590k.jsonl: {"conversations", "question_type", "video": "scannet/....mp4" or "image": "....jpg"}
`<image>` stands for the video in rows with a video. Lengths are in the unit that the question names.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.data_engine.sources.video_questions import VideoQuestions
from egem.records import Record

NAME = "vsi-590k"
LICENCE = "Apache-2.0 (videos keep the licences of their sets)"
PATTERNS = ("vsi_590k*.jsonl", "vsi_590k*.json")


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each row.

    Raises:
        ConfigError: the folder holds no `vsi_590k.jsonl`.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    root = folder_of(path)
    reader = VideoQuestions(options, [options.media or root, root])
    load = partial(_records, reader=reader)
    yield from file_rows(files, read_json_rows, load, root=root, source=NAME, licence=LICENCE)


def _records(row: Any, place: Place, reader: VideoQuestions) -> list[Record]:
    skill = fields.text(fields.mapping(row, place.where), "question_type", place.where)
    return [reader.load(row, place, skill)]
