"""Vertices of PLY meshes (text, or binary of either byte order); faces are not read."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from egem.core.errors import RecordError

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def read_vertices(path: Path) -> Float[np.ndarray, "vertex 3"]:
    """Positions of a mesh's vertices, float64.

    Raises:
        RecordError: missing, truncated, no PLY, or without x, y, z in its first element.
    """
    try:
        content = path.read_bytes()
        head, mark, body = content.partition(b"end_header\n")
        lines = [line.split() for line in head.decode("ascii", errors="replace").splitlines()]
        if not mark or not lines or lines[0] != ["ply"]:
            raise RecordError(f"{path} is no PLY file: it has no header.")
        order = next(_ORDERS[line[1]] for line in lines if line[:1] == ["format"])
        elements = [i for i, line in enumerate(lines) if line[:1] == ["element"]]
        first, after = elements[0], [*elements[1:], len(lines)][0]
        count = int(lines[first][2])
        if lines[first][1] != "vertex":
            raise RecordError(f"{path}: its first element is '{lines[first][1]}', not 'vertex'.")
        kinds = [
            (line[2], order + _TYPES[line[1]]) for line in lines[first:after] if line[:1] == ["property"]
        ]
        if order:
            table = np.frombuffer(body, np.dtype(kinds), count)
            return np.stack([table[axis].astype(np.float64) for axis in "xyz"], axis=1)
        names = [name for name, _ in kinds]
        rows = np.array([line.split() for line in body.decode().splitlines()[:count]], np.float64)
        if len(rows) < count:
            raise ValueError(f"{len(rows)} of {count} vertices")
        return rows[:, [names.index(axis) for axis in "xyz"]]
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise RecordError(
            f"{path} cannot be read ({error}): a truncated PLY, or of a kind not known here."
        ) from None
