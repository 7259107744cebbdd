"""Finding a source's files below what the user named."""

from collections.abc import Collection, Sequence
from pathlib import Path

from egem.core.errors import ConfigError
from egem.data_engine.sources.splits import Split, files_of_split

_SHOWN = 6
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".7z")


def find_files(
    path: Path,
    patterns: Sequence[str],
    *,
    source: str,
    split: Split = "all",
    held_out: Collection[str] = (),
) -> list[Path]:
    """The files of a folder that match any of some patterns, each once, in order of their names; or the file named.

    Args:
        path: what the user named.
        patterns: relative to it, with wildcards as `Path.glob` knows them.
        source: for the message.
        split: which of the set's own splits.
        held_out: names of files, without ending, that are for evaluation though they do not say so.

    Raises:
        ConfigError: nothing matches, or nothing of the split; says what was looked for, and what is there.
    """
    if path.is_file():
        if any(path.match(Path(pattern).name) for pattern in patterns):
            return files_of_split([path], path.parent, split, source=source, held_out=held_out)
        raise ConfigError(f"{path} is no file of '{source}': looked for {_list(patterns)}.")
    found = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
    if not found:
        raise ConfigError(
            f"{path} is no folder of '{source}': looked for {_list(patterns)}; {contents(path)}"
        )
    return files_of_split(found, path, split, source=source, held_out=held_out)


def folder_of(path: Path) -> Path:
    """The folder of an input that may be a file."""
    return path if path.is_dir() else path.parent


def contents(folder: Path) -> str:
    """What a folder holds, for messages, with a hint at archives that wait to be unpacked."""
    if not folder.is_dir():
        return f"{folder} is not a folder."
    names = sorted(
        entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith(".")
    )
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = f"it holds {', '.join(names[:_SHOWN])}{more}." if names else "it is empty."
    packed = [name for name in names if name.endswith(_ARCHIVES) or ".tar" in name]
    return f"{shown} Unpack {packed[0]} first?" if packed else shown


def _list(patterns: Sequence[str]) -> str:
    return " or ".join(patterns)
