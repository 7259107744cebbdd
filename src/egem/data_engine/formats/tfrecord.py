"""TFRecord files and the tf.train.Example messages inside them, without TensorFlow.

A file is a row of frames: length (8 bytes, little endian), masked CRC-32C of the length, data, masked CRC-32C
of the data. A message is protobuf (tensorflow/core/example/{example,feature}.proto):

    Example          features = 1
    SequenceExample  context = 1 (Features), feature_lists = 2 (FeatureLists)
    Features         feature = 1: map of name to Feature
    FeatureLists     feature_list = 1: map of name to FeatureList
    FeatureList      feature = 1, repeated
    Feature          one of bytes_list = 1, float_list = 2, int64_list = 3, each with value = 1, repeated
"""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from egem.core.errors import RecordError
from egem.data_engine.formats.crc32c import masked_crc32c

MAX_RECORD_BYTES = 2 << 30
"""protobuf's own limit; a longer frame is a damaged length."""

Feature = list[bytes] | Float[np.ndarray, "_"] | Int[np.ndarray, "_"]
"""What a feature holds: byte strings, float32 or int64."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceExample:
    """A clip: features of the whole, and lists of features, one for each step."""

    context: dict[str, Feature]
    steps: dict[str, list[Feature]]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRecord:
    """A record that lies in a file and is not yet read."""

    path: Path
    index: int
    position: int
    """Of its frame in the file, bytes."""
    size: int
    """Of its data, bytes."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.path}, record {self.index + 1} (byte {self.position})"

    def read(self) -> bytes:
        """Its data.

        Raises:
            RecordError: the file has become shorter, or the data's checksum differs.
        """
        with _readable(self.path), self.path.open("rb") as file:
            file.seek(self.position + 12)
            data, stored = file.read(self.size), file.read(4)
        if len(stored) < 4:
            raise RecordError(f"{self.where}: the file has become shorter while it was read; copy it again.")
        if masked_crc32c(data) != int.from_bytes(stored, "little"):
            raise RecordError(
                f"{self.where}: the checksum of its data differs; the file is damaged, copy it again."
            )
        return data


def find_tfrecords(path: Path) -> Iterator[StoredRecord]:
    """Where the records of a file lie; their data is neither read nor checked.

    Args:
        path: an uncompressed TFRecord file.

    Raises:
        RecordError: not a TFRecord file, truncated, or a length's checksum differs; says which record and byte.
    """
    with _readable(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            position, index = 0, 0
            while position < size:
                file.seek(position)
                header = file.read(12)
                where = f"{path}, record {index + 1} (byte {position})"
                length = _length(header, where, index)
                if position + 16 + length > size:
                    missing = position + 16 + length - size
                    raise RecordError(
                        f"{where}: the file is truncated, {missing} bytes are missing; copy it again."
                    )
                yield StoredRecord(path=path, index=index, position=position, size=length)
                position += 16 + length
                index += 1


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a file, one in memory at a time.

    Raises:
        RecordError: see `find_tfrecords` and `StoredRecord.read`.
    """
    for stored in find_tfrecords(path):
        yield stored.read()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; check the path.") from error


def parse_example(data: bytes, *, where: str = "") -> dict[str, Feature]:
    """The features of a tf.train.Example by name.

    Args:
        data: the serialised message.
        where: file and record, for messages.

    Raises:
        RecordError: not such a message.
    """
    try:
        features: dict[str, Feature] = {}
        for number, value in _fields(memoryview(data)):
            if number == 1:
                features.update(_features(_message(value)))
        return features
    except (IndexError, ValueError, struct.error) as error:
        raise RecordError(f"{where or 'the record'} is not a tf.train.Example ({error}).") from None


def parse_sequence_example(data: bytes, *, where: str = "") -> SequenceExample:
    """The context and the lists of a tf.train.SequenceExample.

    Raises:
        RecordError: not such a message.
    """
    try:
        context: dict[str, Feature] = {}
        steps: dict[str, list[Feature]] = {}
        for number, value in _fields(memoryview(data)):
            if number == 1:
                context.update(_features(_message(value)))
            elif number == 2:
                for key, feature_list in _entries(_message(value)):
                    steps[key] = [_feature(_message(item)) for n, item in _fields(feature_list) if n == 1]
        return SequenceExample(context=context, steps=steps)
    except (IndexError, ValueError, struct.error) as error:
        raise RecordError(f"{where or 'the record'} is not a tf.train.SequenceExample ({error}).") from None


def _length(header: bytes, where: str, index: int) -> int:
    if index == 0 and header[:2] == _GZIP:
        raise RecordError(f"{where}: the file is compressed with gzip; uncompress it first.")
    if len(header) < 12:
        raise RecordError(f"{where}: the file is truncated inside a record's header; copy it again.")
    length, stored = struct.unpack("<QI", header)
    if masked_crc32c(header[:8]) != stored or length > MAX_RECORD_BYTES:
        remedy = "the file is damaged, copy it again." if index else "is it a TFRecord file?"
        raise RecordError(f"{where}: the checksum of its length differs; {remedy}")
    return length


def _features(message: memoryview) -> dict[str, Feature]:
    return {key: _feature(value) for key, value in _entries(message)}


def _entries(message: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Keys and values of a protobuf map that is field 1 of a message."""
    for number, entry in _fields(message):
        if number == 1:
            pair = dict(_fields(_message(entry)))
            yield str(_message(pair.get(1, memoryview(b""))), "utf-8"), _message(pair.get(2, memoryview(b"")))


def _feature(message: memoryview) -> Feature:
    """The last set member of the oneof counts, as protobuf says; none is an empty list of bytes."""
    found: Feature = []
    for number, value in _fields(message):
        if number not in (1, 2, 3):
            continue
        items = [item for n, item in _fields(_message(value)) if n == 1]
        if number == 1:
            found = [bytes(_message(item)) for item in items]
        else:
            found = _floats(items) if number == 2 else _integers(items)
    return found


def _floats(items: list["int | memoryview"]) -> Float[np.ndarray, "_"]:
    """Packed runs, or single values (`[packed = true]` is a writer's choice, a reader takes both)."""
    runs = [
        np.array([item], "<u4").view("<f4") if isinstance(item, int) else np.frombuffer(item, "<f4")
        for item in items
    ]
    return np.concatenate(runs).astype(np.float32) if runs else np.zeros(0, np.float32)


def _integers(items: list["int | memoryview"]) -> Int[np.ndarray, "_"]:
    runs = [[item] if isinstance(item, int) else _varints(item) for item in items]
    values = np.array([value for run in runs for value in run], np.uint64)
    return values.view(np.int64)


def _varints(run: memoryview) -> list[int]:
    if not any(byte & 0x80 for byte in run):
        return list(run)
    values, position = [], 0
    while position < len(run):
        value, position = _varint(run, position)
        values.append(value)
    return values


def _fields(message: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """Number and value of each field; length-delimited values as views of the data."""
    position, size = 0, len(message)
    while position < size:
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        end = position + length
        if end > size:
            raise ValueError(f"a field of {length} bytes at byte {position} of {size}")
        part = message[position:end]
        yield tag >> 3, part if kind == _BYTES else int.from_bytes(part, "little")
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number longer than 64 bits at byte {position}")


def _message(value: "int | memoryview") -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value
