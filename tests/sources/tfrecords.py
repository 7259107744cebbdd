"""TFRecord files and their messages, written for tests from the formats' definitions, byte after byte."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def slow_crc32c(data: bytes) -> int:
    """Bit after bit, as RFC 3720 defines it."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = slow_crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def write_tfrecords(path: Path, records: Iterable[bytes]) -> Path:
    with path.open("wb") as file:
        for data in records:
            length = struct.pack("<Q", len(data))
            file.write(length + masked(length) + data + masked(data))
    return path


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def bytes_feature(values: Sequence[bytes]) -> bytes:
    return field(1, b"".join(field(1, value) for value in values))


def sequence_example(lists: Mapping[str, Sequence[bytes]]) -> bytes:
    """One value of bytes a step."""
    entries = b""
    for name, values in lists.items():
        steps = b"".join(field(1, bytes_feature([value])) for value in values)
        entries += field(1, field(1, name.encode()) + field(2, steps))
    return field(2, entries)
