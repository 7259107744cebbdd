"""HDF5 files through h5py, which is an optional extra."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from egem.core.errors import ConfigError, RecordError


def need_h5py(source: str) -> None:
    """Refuse to begin without h5py.

    Raises:
        ConfigError: it is not installed; says how to get it.
    """
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"'{source}' is read from HDF5 files and h5py is not installed: pip install 'egem[hdf5]'."
        ) from None


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An `h5py.File`, closed at the end.

    Raises:
        RecordError: missing, truncated or not HDF5.
    """
    import h5py

    if not path.is_file():
        raise RecordError(f"{path} does not exist; the episode is incomplete.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error}); it is truncated or no HDF5 file.") from error


def read_array(file: Any, key: str, where: str) -> np.ndarray:
    """A dataset as an array.

    Raises:
        RecordError: there is none of this name; says what there is.
    """
    found = file.get(key)
    if found is None or not hasattr(found, "shape"):
        names: list[str] = []
        file.visit(lambda name: names.append(name) if hasattr(file[name], "shape") else None)
        raise RecordError(f"{where}: no dataset '{key}'; the file has {', '.join(names) or 'none'}.")
    return np.asarray(found[()])


class HDF5Bytes:
    """Encoded files in a dataset (T,) of bytes or (T, N) of padded bytes; the file is opened for each."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def __call__(self, index: int) -> bytes:
        """The bytes of one.

        Raises:
            RecordError: the file is gone or damaged.
        """
        with open_hdf5(self.path) as file:
            value = file[self.key][index]
        return value if isinstance(value, bytes) else np.asarray(value, np.uint8).tobytes()
