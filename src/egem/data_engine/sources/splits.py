"""Which files of a published set are held out for evaluation, as their names and folders say.

A file's name is read word by word (`roborefit_testA.json`, `val-00000-of-00002.tfrecord`), a folder's as a whole
(`val/`), the folder that was named to the import among them. Sets whose names say nothing state them themselves.
"""

import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, Literal

from egem.core.errors import ConfigError

logger = logging.getLogger(__name__)

Split = Literal["train", "test", "all"]
"""What is read of a set: all but what it holds out, only that (its validation and test files), or both."""

TRAIN: Final = "train"
HELD_OUT: Final = "test"
"""What records say of themselves in `meta.split`; where the set's names say nothing, they do not either."""

_TRAIN_WORDS = frozenset(("train", "training"))
_HELD_OUT_WORDS = frozenset((
    "bench", "dev", "eval", "minival", "test", "testa", "testb", "testing", "tinybench", "val", "valid", "validation",
))  # fmt: skip


def split_of(file: Path, root: Path, held_out: Collection[str] = ()) -> str:
    """`train`, `test` for all that is held out, or nothing where no name says it.

    Args:
        file: below the input.
        root: the input's folder.
        held_out: names of files, without ending, that are for evaluation though they do not say so.
    """
    inside = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    folders = {root.absolute().name.lower(), *(part.lower() for part in inside.parent.parts)}
    words = folders | set(re.findall(r"[a-z]+", file.name.lower()))
    if file.stem in held_out or words & _HELD_OUT_WORDS:
        return HELD_OUT
    return TRAIN if words & _TRAIN_WORDS else ""


def files_of_split(
    files: Sequence[Path], root: Path, split: Split, *, source: str, held_out: Collection[str] = ()
) -> list[Path]:
    """The files of a split, in their order.

    Args:
        files: of a set, at least one.
        root: the input's folder.
        split: which to keep.
        source: for the message.
        held_out: see `split_of`.

    Raises:
        ConfigError: none is of the split; says what there is.
    """
    if split == "all":
        return list(files)
    found: list[Path] = []
    left: list[str] = []
    for file in files:
        if (split_of(file, root, held_out) == HELD_OUT) == (split == HELD_OUT):
            found.append(file)
        else:
            left.append(file.name)
    if not found:
        there = "held out for evaluation" if split == TRAIN else "not held out"
        other = "test" if split == TRAIN else "train"
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise ConfigError(
            f"'{source}': what {root} holds is {there} ({files[0].name}{more}); give the split '{split}' of the set, "
            f"or read this with --split {other}."
        )
    if split == TRAIN and left:
        names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        text = "'%s': %d of %d files are held out for evaluation and stay unread (%s); --split all reads them too."
        logger.info(text, source, len(left), len(files), names)
    return found
