"""Checkpoints of a run: written beside training, committed whole, found again after any crash.

Tensors are saved by torch.distributed.checkpoint in its safetensors format (its own default would pickle),
position and file list are JSON. A save goes to a temporary folder, every file is forced to disk, and a
rename makes it a checkpoint; a folder whose files do not match its manifest is never used.
"""

import hashlib
import logging
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from egem.core.config import load_json, save_json
from egem.core.errors import CheckpointError, ConfigError, EgemError, TrainingError
from egem.core.files import disk_errors_named, new_folder

logger = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"
POSITION_FILE = "position.json"
MANIFEST_FILE = "manifest.json"
LAST_LINK = "last"


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come; with the configuration it decides all that follows, random draws included."""

    step: int
    """Optimizer steps finished in the whole run."""
    stage: str
    """Stage that the last of them belongs to."""
    stage_step: int
    """Steps finished in that stage."""
    seed: int
    """Random draws are a function of it, the stage and the step; no generator's state is needed."""
    data: str
    """Fingerprint of the data."""
    world_size: int
    """Processes that trained together."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All files of a checkpoint; written last."""

    files: dict[str, FileEntry]


class CheckpointWriter:
    """Saves in a background thread, one at a time; used as a context manager, it waits for the last one."""

    def __init__(self, run: Path, *, keep: int) -> None:
        self._run = run
        self._keep = keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        """Nothing happens before the first save."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for a save under way; if training failed, a failed save is logged beside it."""
        try:
            self.wait()
        except EgemError as failure:
            if error is None:
                raise
            logger.error("%s", failure)
        finally:
            self._pool.shutdown()

    def save(self, tensors: Mapping[str, Tensor], position: Position) -> None:
        """Copy the tensors and write them in the background, after a save under way has ended.

        Raises:
            TrainingError: the save before this one failed.
        """
        self.wait()
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._pending = self._pool.submit(self._write, copies, position)

    def check(self) -> None:
        """Raise the error of a save that has failed in the meantime; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last save is on disk.

        Raises:
            TrainingError: it failed; what was saved before is intact.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (EgemError, OSError) as error:
            raise TrainingError(f"checkpoint not saved: {error} Earlier checkpoints are intact.") from error

    def _write(self, tensors: dict[str, Tensor], position: Position) -> None:
        folder = self._run / CHECKPOINTS_FOLDER / f"step-{position.step}"
        write_checkpoint(folder, tensors, position)
        point_to(self._run / LAST_LINK, folder)
        # Only now that the new one is committed may an old one go.
        for old in checkpoint_folders(self._run)[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        logger.info("saved %s", folder)


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], position: Position) -> None:
    """Write one checkpoint; the folder appears whole or not at all.

    Raises:
        EgemError: full disk, or a folder that cannot be written.
    """
    with new_folder(folder) as temporary:
        _ignore_single_process_warning()
        try:
            writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
            save_distributed(tensors, storage_writer=writer, no_dist=True)
        except CheckpointException as error:
            # torch wraps what happened; a full disk must stay recognisable.
            raise next(iter(error.failures.values()))[0] from error
        save_json(position, temporary / POSITION_FILE)
        files = {
            str(path.relative_to(temporary)): FileEntry(bytes=path.stat().st_size, sha256=_sha256(path))
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        save_json(Manifest(files=files), temporary / MANIFEST_FILE)


def checkpoint_folders(run: Path) -> list[Path]:
    """Every `checkpoints/step-N` of a run, oldest first, valid or not."""
    folders = (run / CHECKPOINTS_FOLDER).glob("step-*")
    return sorted((f for f in folders if re.fullmatch(r"step-\d+", f.name)), key=_step)


def find_latest(run: Path) -> Path | None:
    """The newest checkpoint whose files are all what its manifest says; None if the run has none yet.

    Raises:
        CheckpointError: there are checkpoints, and every one of them is damaged.
    """
    folders = checkpoint_folders(run)
    for folder in reversed(folders):
        problem = find_damage(folder)
        if problem is None:
            return folder
        logger.warning("%s is damaged (%s); the checkpoint before it is used.", folder, problem)
    if folders:
        raise CheckpointError(
            f"{run}: none of its {len(folders)} checkpoints is whole; start again in a new run folder, "
            f"or restore {folders[-1]} from a backup."
        )
    return None


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        manifest = load_json(Manifest, folder / MANIFEST_FILE)
        load_json(Position, folder / POSITION_FILE)
    except ConfigError as error:
        return str(error)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry.bytes:
            return f"{name} has {path.stat().st_size} of {entry.bytes} bytes"
        if _sha256(path) != entry.sha256:
            return f"the content of {name} has changed"
    return None


def load_position(folder: Path) -> Position:
    """How far the run had come at this checkpoint."""
    return load_json(Position, folder / POSITION_FILE)


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Name, shape and dtype of every tensor in a checkpoint, as empty tensors without memory."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    found = {}
    for name, entry in metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        found[name] = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
    return found


def load_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill the given tensors in place with what the checkpoint holds under their names.

    Raises:
        CheckpointError: a name or shape of `into` is not in the checkpoint, or the other way round.
    """
    stored = stored_tensors(folder)
    problems = [f"'{name}' is missing" for name in into.keys() - stored.keys()]
    problems += [f"'{name}' is not part of this model" for name in stored.keys() - into.keys()]
    problems += [
        f"'{name}' has shape {tuple(stored[name].shape)}, not {tuple(into[name].shape)}"
        for name in into.keys() & stored.keys()
        if stored[name].shape != into[name].shape
    ]
    if problems:
        rest = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        shown = "; ".join(sorted(problems)[:3])
        raise CheckpointError(f"{folder} is of another model or stage: {shown}{rest}.")
    _ignore_single_process_warning()
    with torch.no_grad():
        load_distributed(into, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def remove_after(run: Path, step: int) -> None:
    """Remove unfinished saves, and checkpoints of later steps: damaged, or the run would go on from them."""
    for folder in checkpoint_folders(run):
        if _step(folder) > step:
            logger.warning("removing the damaged %s", folder)
            shutil.rmtree(folder)
    for parent in (run, run / CHECKPOINTS_FOLDER):
        for path in parent.glob(".*.tmp"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def point_to(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, replacing an earlier one in one move."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    with disk_errors_named(link):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target, link.parent))
        temporary.replace(link)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ignore_single_process_warning() -> None:
    """Saving and loading without a process group is meant; torch warns about it each time."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
