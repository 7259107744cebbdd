"""Files that appear whole or not at all, and locks."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egem.core.errors import ConfigError, EgemError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, force it to disk, then rename it into place.

    Raises:
        EgemError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well and vanishes when it does not.

    Its files get the permissions that new files have here: safetensors makes them for the writer alone, and a server
    that runs as somebody else could not read what was trained.

    Raises:
        ConfigError: `path` exists already and is not an empty folder.
        EgemError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        permissions = temporary.stat().st_mode & 0o666
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(permissions)
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
                else:
                    sync_folder(file)
            sync_folder(temporary)
            if path.exists():
                path.rmdir()
            temporary.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Make sure that a folder can be written anew.

    Raises:
        ConfigError: `path` exists already and is not an empty folder.
    """
    with disk_errors_named(path):
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if taken:
        raise ConfigError(f"{path} exists already; choose another folder or remove it first.")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file that lets go with the process, however it ends; threads of one process share it.

    Args:
        path: of the file, which stays.
        wait: until whoever has it lets go.

    Yields:
        Whether it is held: False if another process has it and there is no waiting.

    Raises:
        EgemError: the file cannot be written, or its disk has no locks.
    """
    with disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            # A record lock, because children that outlive a killed process would inherit the other kind.
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise EgemError(
                    f"{path} cannot be locked: {error.strerror}; choose a folder on another disk."
                ) from error
            yield False
            return
        yield True


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Turn a full disk, a forbidden folder or a file in its place into an error that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left while writing {path}; free some or choose another disk."
            raise EgemError(f"{message} Nothing half-written was kept.") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise EgemError(f"{path} cannot be written: {error.strerror}.") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            place = error.filename2 or error.filename
            message = f"{path} cannot be written: {error.strerror} ({place}); choose another path."
            raise EgemError(message) from error
        raise


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_of_files(folder: Path) -> str:
    """SHA-256 of the names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(path.relative_to(folder).as_posix().encode() + content)
    return digest.hexdigest()
