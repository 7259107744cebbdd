"""Where the files of a record folder lie: on a local disk, or at any address that fsspec knows.

`s3://`, `gs://`, `hf://`, `https://` and so on are read by byte ranges. Every wait has a time limit, so that an
address nobody answers at ends in one error and not in a run that hangs.
"""

import fcntl
import io
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from egem.core.errors import RecordError

TIME_LIMIT_S = 60.0
"""For one read from a remote folder, retries included."""

_ATTEMPTS = 3
_COPIED_AT_ONCE = 16 << 20
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,2}(?!/)", re.IGNORECASE)
_LOCAL_SCHEME = re.compile(r"^(file|local):/+", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a storage knows of a file without reading it."""

    size: int
    """Bytes."""
    stamp: str
    """Changes when the file is written again."""


@runtime_checkable
class Storage(Protocol):
    """What reading records asks of the place that they are in; names are relative to the folder."""

    address: str
    """The folder as the user gave it, for messages."""
    is_remote: bool
    """Whether the files can only be read through this."""

    def stat(self, names: Sequence[str]) -> dict[str, FileInfo]:
        """Of those of the files that exist.

        Raises:
            RecordError: the storage does not answer.
        """
        ...

    def names(self, folder: str) -> list[str]:
        """What a sub-folder holds; empty if there is no such folder."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file, or of a part of it.

        Raises:
            RecordError: it cannot be read.
        """
        ...

    def open(self, name: str, *, digest: str) -> "str | RangeFile":
        """What pyarrow can read the file from.

        Args:
            name: of the file.
            digest: sha256 of its content; a local copy is kept under this name.

        Raises:
            RecordError: it cannot be read.
        """
        ...

    def join(self, name: str) -> str:
        """Address of a file."""
        ...


def storage(
    location: Path | str, *, cache: Path | None = None, time_limit_s: float = TIME_LIMIT_S
) -> Storage:
    """The storage behind a folder's path or address.

    Args:
        location: `pathlib` drops one slash of an address; it is put back here.
        cache: local folder into which files of remote folders are copied when they are first opened.
        time_limit_s: for one read from a remote folder.
    """
    text = str(location)
    if _LOCAL_SCHEME.match(text):
        return LocalFolder(Path(_LOCAL_SCHEME.sub("/", text)))
    found = _SCHEME.match(text)
    if found is None:
        return LocalFolder(Path(text))
    return RemoteFolder(f"{found[1]}://{text[found.end() :]}", cache=cache, time_limit_s=time_limit_s)


class LocalFolder:
    """A folder of a mounted disk."""

    is_remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = str(path)

    def stat(self, names: Sequence[str]) -> dict[str, FileInfo]:
        """See `Storage`; the stamp is the time of the last change."""
        found = {name: (self.path / name).stat() for name in names if (self.path / name).is_file()}
        return {name: FileInfo(info.st_size, str(info.st_mtime_ns)) for name, info in found.items()}

    def names(self, folder: str) -> list[str]:
        """See `Storage`."""
        path = self.path / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `Storage`."""
        try:
            with (self.path / name).open("rb", buffering=0) as file:
                if start == 0 and stop is None:
                    return file.readall()
                return os.pread(file.fileno(), (stop or os.fstat(file.fileno()).st_size) - start, start)
        except OSError as error:
            raise RecordError(
                f"{self.path / name} cannot be read: {error.strerror}; check the path."
            ) from error

    def open(self, name: str, *, digest: str) -> str:
        """The path."""
        return str(self.path / name)

    def join(self, name: str) -> str:
        """See `Storage`; an absolute path stays as it is."""
        return str(self.path / name)


class RemoteFolder:
    """A folder behind an address, read through fsspec.

    The connection is made in the process that uses it: connections do not survive a fork.
    """

    is_remote = True

    def __init__(self, url: str, *, cache: Path | None, time_limit_s: float) -> None:
        self.address = url.rstrip("/")
        self.cache = cache
        self.time_limit_s = time_limit_s
        self._connection: tuple[int, Any, str] | None = None

    def stat(self, names: Sequence[str]) -> dict[str, FileInfo]:
        """See `Storage`; the stamp is what the service tells of content or time, which may be nothing."""
        wanted = set(names)
        found: dict[str, FileInfo] = {}
        if len(wanted) > 1:
            # One listing in place of a question about each file. Plain web servers have none.
            for entry in self._ask("", self._listing("")) or ():
                name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
                if name in wanted and entry.get("size") is not None:
                    found[name] = _file_info(entry)
        for name in wanted - found.keys():
            entry = self._ask(name, self._info(name))
            if entry is not None and entry.get("size") is not None:
                found[name] = _file_info(entry)
        return found

    def names(self, folder: str) -> list[str]:
        """See `Storage`."""
        entries = self._ask(folder, self._listing(folder)) or ()
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `Storage`."""

        def content() -> bytes:
            filesystem, root = self._connect()
            whole = start == 0 and stop is None
            return filesystem.cat_file(f"{root}/{name}", **({} if whole else {"start": start, "end": stop}))

        data = self._ask(name, content)
        if data is None:
            raise self._missing(name)
        return data

    def open(self, name: str, *, digest: str) -> "str | RangeFile":
        """The path of the local copy if there is a cache, else a file that fetches ranges."""
        if self.cache is not None:
            return str(self._copied(name, digest, self.cache))
        return RangeFile(self, name, self._size(name))

    def join(self, name: str) -> str:
        """See `Storage`; an absolute path or another address stays as it is."""
        return name if name.startswith("/") or _SCHEME.match(name) else f"{self.address}/{name}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    def _connect(self) -> tuple[Any, str]:
        if self._connection is None or self._connection[0] != os.getpid():
            import fsspec

            try:
                filesystem, root = fsspec.url_to_fs(self.address)
            except (ImportError, ValueError) as error:
                raise RecordError(
                    f"{self.address} cannot be read: {str(error).rstrip('.')}; "
                    "install the package that it needs, or copy the folder to a local disk."
                ) from error
            self._connection = (os.getpid(), filesystem, root.rstrip("/"))
        return self._connection[1:]

    def _listing(self, folder: str) -> Callable[[], list[dict[str, Any]]]:
        def listing() -> list[dict[str, Any]]:
            filesystem, root = self._connect()
            filesystem.invalidate_cache()
            return filesystem.ls(f"{root}/{folder}".rstrip("/"), detail=True)

        return listing

    def _info(self, name: str) -> Callable[[], dict[str, Any]]:
        def info() -> dict[str, Any]:
            filesystem, root = self._connect()
            return filesystem.info(f"{root}/{name}")

        return info

    def _ask(self, name: str, function: Callable[[], T]) -> T | None:
        """The function's result, after some attempts, within the time limit; None where nothing is found."""
        end = time.monotonic() + self.time_limit_s
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _within(max(0.0, end - time.monotonic()), function)
            except RecordError:
                raise
            except (FileNotFoundError, NotADirectoryError):
                return None
            # Each service raises classes of its own, and the packages that define them are optional.
            except Exception as error:
                last = attempt == _ATTEMPTS or isinstance(error, PermissionError | TimeoutError)
                if last or time.monotonic() + 2**attempt / 4 >= end:
                    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                    raise RecordError(
                        f"{self.join(name)} cannot be read ({reason}); check the address, the credentials and "
                        "the network, or copy the folder to a local disk."
                    ) from error
                time.sleep(2**attempt / 4)
        raise AssertionError("unreachable")

    def _size(self, name: str) -> int:
        found = self.stat([name])
        if name not in found:
            raise self._missing(name)
        return found[name].size

    def _missing(self, name: str) -> RecordError:
        return RecordError(f"{self.join(name)} does not exist; copy the folder again, with all its files.")

    def _copied(self, name: str, digest: str, cache: Path) -> Path:
        target = cache / f"{digest}{Path(name).suffix}"
        if target.is_file():
            return target
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{target.name}.lock"):
            if target.is_file():
                return target
            size = self._size(name)
            temporary = cache / f".{target.name}.{os.getpid()}.tmp"
            try:
                with temporary.open("wb") as file:
                    for start in range(0, size, _COPIED_AT_ONCE):
                        file.write(self.read(name, start, min(start + _COPIED_AT_ONCE, size)))
                temporary.rename(target)
            except OSError as error:
                raise RecordError(
                    f"{target} cannot be written: {error.strerror}; free some space or choose another cache."
                ) from error
            finally:
                temporary.unlink(missing_ok=True)
        return target


class RangeFile(io.RawIOBase):
    """A remote file for pyarrow: ranges that were announced are in memory, others are fetched when read."""

    def __init__(self, folder: RemoteFolder, name: str, size: int) -> None:
        super().__init__()
        self._folder, self._name, self._size = folder, name, size
        self._position = 0
        self._parts: list[tuple[int, bytes]] = []

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Hold these (start, stop) parts, and no others."""
        self._parts = [(start, self._folder.read(self._name, start, stop)) for start, stop in ranges]

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place counted from the start, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        start = self._position
        stop = self._size if size is None or size < 0 else min(start + size, self._size)
        for first, data in self._parts:
            if first <= start and stop <= first + len(data):
                self._position = stop
                return data[start - first : stop - first]
        data = self._folder.read(self._name, start, stop) if stop > start else b""
        self._position = start + len(data)
        return data


def _file_info(entry: dict[str, Any]) -> FileInfo:
    keys = ("ETag", "etag", "md5Hash", "sha256", "LastModified", "last_modified", "mtime", "created")
    return FileInfo(int(entry["size"]), next((str(entry[key]) for key in keys if entry.get(key)), ""))


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Run a function in a thread that is left behind if it takes too long."""
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, function()))
        except BaseException as error:  # noqa: BLE001  it is raised again where the answer is awaited
            answers.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        done, value = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("no answer in time") from None
    if done:
        return value
    raise value


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
