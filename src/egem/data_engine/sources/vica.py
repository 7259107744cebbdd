"""ViCA-322K (nkkbr/ViCA): questions about indoor videos of ARKitScenes, ScanNet and ScanNet++.

    {arkitscenes,scannet,scannetpp}/{base,complex}/<task>.json: lists of LLaVA rows {"conversations", "video"}
A task is a skill. The videos are not part of the release; `--media` names their folder.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.data_engine.sources.video_questions import VideoQuestions
from egem.records import Record

NAME = "vica-322k"
LICENCE = "not stated in its repository (videos keep the licences of ARKitScenes, ScanNet and ScanNet++)"
PATTERNS = tuple(
    f"{prefix}{part}/*.json{lines}"
    for part in ("base", "complex")
    for prefix in ("*/", "")
    for lines in ("", "l")
)


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each row.

    Raises:
        ConfigError: the folder holds no base/*.json and no complex/*.json.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    root = folder_of(path)
    reader = VideoQuestions(options, [options.media or root, root, files[0].parent.parent])
    load = partial(_records, reader=reader)
    yield from file_rows(files, read_json_rows, load, root=root, source=NAME, licence=LICENCE)


def _records(row: Any, place: Place, reader: VideoQuestions) -> list[Record]:
    return [reader.load(row, place, place.file.stem)]
