"""openpi's wire format: one msgpack value a frame, NumPy arrays as small maps inside it.

An array is `{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}`, a NumPy scalar
`{b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}`. Nothing is ever unpickled. What comes in is read as if an
enemy had sent it: the limits are checked before memory is taken for an array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from egem_client.errors import MalformedMessageError, MessageTooLargeError

DTYPES = frozenset(
    ["|b1", "|u1", "|i1"]
    + [f"{order}{kind}" for order in "<>" for kind in ("u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")]
)
"""Types that arrays may have: truth values, integers and floats, in either byte order."""


@dataclass(frozen=True)
class Limits:
    """How large a frame may be and how its value may look."""

    max_bytes: int = 32 * 1024 * 1024
    max_depth: int = 6
    """Maps and lists inside each other."""
    max_items: int = 4096
    """Entries of one map or list."""
    max_text: int = 16384
    """Bytes of one string."""
    max_dimensions: int = 5
    """Of an array."""


def pack(message: Any) -> bytes:
    """One value as a frame.

    Args:
        message: None, truth values, numbers, strings, bytes, NumPy arrays and scalars, and lists and maps of them.

    Raises:
        TypeError: something else is in it, such as an array of objects.
    """
    frame = msgpack.packb(message, default=_encode)
    assert frame is not None
    return frame


def unpack(frame: bytes, limits: Limits | None = None) -> Any:
    """The value in a frame. Arrays are read-only views of it.

    Raises:
        MessageTooLargeError: more bytes than the limit.
        MalformedMessageError: anything else that the format or the limits forbid.
    """
    limits = limits or Limits()
    if len(frame) > limits.max_bytes:
        raise MessageTooLargeError(
            f"the message has {len(frame):,} bytes, at most {limits.max_bytes:,} are taken; send smaller pictures."
        )
    try:
        value = msgpack.unpackb(
            frame,
            object_hook=lambda found: _decode(found, limits),
            raw=False,
            strict_map_key=True,
            max_str_len=limits.max_text,
            max_bin_len=limits.max_bytes,
            max_array_len=limits.max_items,
            max_map_len=limits.max_items,
            max_ext_len=0,
        )
    except MalformedMessageError:
        raise
    except (
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
        msgpack.UnpackException,
    ) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise MalformedMessageError(f"the message is not msgpack within the limits: {reason}") from None
    _check_depth(value, limits)
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        _known(value.dtype)
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        _known(value.dtype)
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} cannot be sent; arrays, numbers, strings, lists and maps can.")


def _known(dtype: np.dtype) -> None:
    if dtype.str not in DTYPES:
        raise TypeError(f"arrays of type {dtype} cannot be sent; truth values, integers and floats can.")


def _decode(found: dict[Any, Any], limits: Limits) -> Any:
    if b"__ndarray__" in found:
        return _array(found, limits)
    if b"__npgeneric__" in found:
        dtype, data = _dtype(found), found.get(b"data")
        if not isinstance(data, (bool, int, float)):
            raise MalformedMessageError("a NumPy scalar holds no number.")
        try:
            return dtype.type(data)
        except (OverflowError, ValueError):
            raise MalformedMessageError(f"{data} does not fit the type {dtype.str}.") from None
    return found


def _array(found: Mapping[Any, Any], limits: Limits) -> np.ndarray:
    dtype, shape, data = _dtype(found), found.get(b"shape"), found.get(b"data")
    if not isinstance(shape, list) or len(shape) > limits.max_dimensions:
        raise MalformedMessageError(
            f"an array's shape must be a list of at most {limits.max_dimensions} sizes."
        )
    if not all(type(size) is int and size >= 0 for size in shape):
        raise MalformedMessageError("an array's shape must hold whole numbers from 0 on.")
    if not isinstance(data, bytes):
        raise MalformedMessageError("an array's data must be bytes.")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data):
        raise MalformedMessageError(
            f"an array of shape {shape} and type {dtype.str} needs {wanted} bytes, {len(data)} came."
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _dtype(found: Mapping[Any, Any]) -> np.dtype:
    name = found.get(b"dtype")
    if not isinstance(name, str) or name not in DTYPES:
        raise MalformedMessageError(f"arrays of type {str(name)[:20]!r} are not taken.")
    return np.dtype(name)


def _check_depth(value: Any, limits: Limits) -> None:
    # Not recursive: msgpack itself nests deeper than Python's stack.
    level = [value]
    for _ in range(limits.max_depth + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, (list, tuple)):
                inner.extend(item)
            elif isinstance(item, msgpack.Timestamp):
                raise MalformedMessageError("msgpack's extension types are not taken.")
        if not inner:
            return
        level = inner
    raise MalformedMessageError(f"maps and lists are nested deeper than {limits.max_depth}.")
