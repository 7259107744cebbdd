"""Rows of JSON lists and of JSON lines, one at a time: files of many gigabytes never stand in memory whole."""

import json
from collections.abc import Iterator
from io import TextIOBase
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError

_CHUNK = 1 << 20
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
_NUMBER = "+-.eE0123456789"


def read_json_rows(path: Path) -> Iterator[Any]:
    """The rows of a file: elements of a JSON list, or lines (`.jsonl`; also a `.json` that holds lines).

    A bad line of JSON lines is yielded as the `RecordError` that says so, and the lines after it follow; a list
    cannot be read beyond its first bad element.

    Raises:
        RecordError: the file cannot be read, is truncated, or is not JSON; says at which row.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = _first_character(file)
            file.seek(0)
            if path.suffix == ".jsonl" or first == "{":
                yield from _lines(file, path)
            elif first == "[":
                yield from _elements(file, path)
            else:
                found = f"it begins with {first!r}" if first else "it is empty"
                raise RecordError(f"{path} is not valid JSON: a list of rows expected, {found}.")
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not valid JSON: not UTF-8 text ({error.reason}).") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        RecordError: the file cannot be read, is truncated, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except ValueError as error:
        raise RecordError(f"{path} is not valid JSON ({error}); it is truncated or damaged.") from None
    if not isinstance(value, dict):
        raise RecordError(f"{path}: an object expected, found a {type(value).__name__}.")
    return value


def _first_character(file: TextIOBase) -> str:
    while chunk := file.read(4096):
        stripped = chunk.lstrip(_SPACE)
        if stripped:
            return stripped[0]
    return ""


def _lines(file: TextIOBase, path: Path) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            yield RecordError(f"{path}, line {number}: not valid JSON ({error}).")


def _elements(file: TextIOBase, path: Path) -> Iterator[Any]:
    """Elements of a list, parsed from a buffer that is refilled when an element does not end inside it."""
    buffer, position, row = "", 0, 0
    while not buffer.startswith("["):
        buffer = file.read(_CHUNK).lstrip(_SPACE)
    buffer = buffer[1:]
    separator = ""
    while True:
        position, character = _skip_space(buffer, position)
        if not character:
            buffer, position = file.read(_CHUNK), 0
            if not buffer:
                raise RecordError(
                    f"{path} is not valid JSON: it is truncated after row {row}; copy it again."
                )
            continue
        if character == "]" and (separator or not row):
            if (buffer[position + 1 :] + file.read()).strip(_SPACE):
                raise RecordError(f"{path} is not valid JSON: more follows its list of {row} rows.")
            return
        if separator and character != separator:
            raise RecordError(
                f"{path} is not valid JSON: after row {row} a comma expected, found {character!r}."
            )
        if separator:
            separator, position = "", position + 1
            continue
        value, buffer, position = _element(file, buffer, position, path, row)
        yield value
        row += 1
        separator = ","


def _element(file: TextIOBase, buffer: str, position: int, path: Path, row: int) -> tuple[Any, str, int]:
    chunk = _CHUNK
    while True:
        try:
            value, end = _DECODER.raw_decode(buffer, position)
            # A number at the buffer's end may go on in the next chunk.
            if not isinstance(value, int | float) or buffer[end:].lstrip(_NUMBER):
                return value, buffer, end
            problem = "its list does not end"
        except json.JSONDecodeError as error:
            problem = str(error)
        more = file.read(chunk)
        if not more:
            raise RecordError(f"{path} is not valid JSON at row {row + 1} ({problem}): truncated or damaged.")
        buffer, position = buffer[position:] + more, 0
        chunk *= 2


def _skip_space(buffer: str, position: int) -> tuple[int, str]:
    while position < len(buffer) and buffer[position] in _SPACE:
        position += 1
    return position, buffer[position : position + 1]
