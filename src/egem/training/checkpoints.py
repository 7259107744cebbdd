"""Checkpoints of a run: written beside training, committed whole, found again after any crash.

Tensors are saved by torch.distributed.checkpoint in its safetensors format (its own default would pickle),
position and file list are JSON. Each process writes one file with its parts of the tensors, whose places are in
the file's header, so any number of processes can read them. A save goes to a temporary folder, every file is
forced to disk, and a rename makes it a checkpoint; a folder whose files do not match its manifest is never used.
"""

import hashlib
import logging
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from egem.core.config import load_json, save_json
from egem.core.errors import CheckpointError, ConfigError, EgemError, TrainingError
from egem.core.files import disk_errors_named, new_folder
from egem.training.distributed import World, failing_together, from_first, texts_of_all
from egem.training.sharding import is_first_copy

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
    """Processes for which the configuration gives batch size and accumulation: those that began the run."""
    data_stamp: str = ""
    """The data's stamp: where it differs, files were written again and their content has to be compared."""


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
    """Saves in a background thread, one at a time; used as a context manager, it waits for the last one.

    Args:
        run: folder of the run, the same for all processes.
        keep: checkpoints to keep.
        world: processes that save together, each what it holds; all must create and call it alike.
    """

    def __init__(self, run: Path, *, keep: int, world: World = World()) -> None:  # noqa: B008 - frozen
        self._run = run
        self._keep = keep
        # The thread's collectives must not meet those of training.
        self._world = world.with_own_group()
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
        copies = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in tensors.items()
            if is_first_copy(tensor)
        }
        self._pending = self._pool.submit(self._write, copies, position)

    @property
    def failed(self) -> bool:
        """Whether a save is known to have failed; never waits. Processes may know it at different times."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def wait(self) -> None:
        """Return when the last save is on disk.

        Raises:
            TrainingError: it failed, here or on another process; what was saved before is intact.
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
        write_checkpoint(folder, tensors, position, self._world)
        if not self._world.is_first:
            return
        point_to(self._run / LAST_LINK, folder)
        # Only now that the new one is committed may an old one go.
        for old in checkpoint_folders(self._run)[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        logger.info("saved %s", folder)


def write_checkpoint(
    folder: Path,
    tensors: dict[str, Tensor],
    position: Position,
    world: World = World(),  # noqa: B008 - frozen
) -> None:
    """Write one checkpoint; the folder appears whole or not at all.

    Args:
        folder: seen by all processes.
        tensors: in CPU memory; of sharded ones, this process's part is written.
        position: the same on all processes.
        world: processes that write together; all must call it.

    Raises:
        EgemError: full disk, or a folder that cannot be written, on any process.
    """
    with ExitStack() as stack:
        temporary = folder
        with failing_together(world):
            if world.is_first:
                temporary = stack.enter_context(new_folder(folder))
        if world.size > 1:
            # The first process's temporary folder, which has its process number in the name.
            temporary = temporary_of(folder, from_first(os.getpid(), world))
        entries: dict[str, FileEntry] = {}
        with failing_together(world), disk_errors_named(folder):
            path = _write_tensors(temporary, tensors, world.rank)
            if path is not None:
                entries[path.name] = _entry(path)
        for text in texts_of_all("\n".join(f"{n} {e.bytes} {e.sha256}" for n, e in entries.items()), world):
            for line in text.splitlines():
                name, size, sha256 = line.split(" ")
                entries[name] = FileEntry(bytes=int(size), sha256=sha256)
        with failing_together(world):
            if world.is_first:
                save_json(position, temporary / POSITION_FILE)
                entries[POSITION_FILE] = _entry(temporary / POSITION_FILE)
                save_json(Manifest(files=entries), temporary / MANIFEST_FILE)
                stack.close()


def _write_tensors(folder: Path, tensors: dict[str, Tensor], rank: int) -> Path | None:
    """Write a process's file and force it to disk; None if it has nothing to write."""
    if not tensors:
        return None
    _ignore_single_process_warning()
    try:
        writer = _RankWriter(folder, rank)
        save_distributed(tensors, storage_writer=writer, planner=_RankPlanner(), no_dist=True)
    except CheckpointException as error:
        # torch wraps what happened; a full disk must stay recognisable.
        raise next(iter(error.failures.values()))[0] from error
    path = folder / f"shard-{rank + 1:05}-model-00001-of-00001.safetensors"
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


class _RankWriter(HuggingFaceStorageWriter):
    """One file for each process, without asking the others."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(str(folder), save_distributed=True)
        self._rank = rank

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The file's number is the process's."""
        return [replace(plan, storage_data={"shard_index": self._rank + 1}) for plan in plans]


class _RankPlanner(DefaultSavePlanner):
    """Writes what this process holds; the parts of the others are in their files."""

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """The parent would miss the other processes' parts."""
        return all_plans, Metadata({})


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


def temporary_of(folder: Path, process: int) -> Path:
    """Where `egem.core.files.new_folder` lets that process write what is to become `folder`."""
    return folder.with_name(f".{folder.name}.{process}.tmp")


def _entry(path: Path) -> FileEntry:
    return FileEntry(bytes=path.stat().st_size, sha256=_sha256(path))


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ignore_single_process_warning() -> None:
    """Saving and loading without a process group is meant; torch warns about it each time."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
