"""From a frozen dataclass to a command's options, by tyro."""

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


def parse(kind: type[T], name: str, arguments: Sequence[str], default: Any = None) -> T:
    """The options of `egem NAME`; a wrong one ends with exit code 2 and the nearest known one.

    Args:
        kind: dataclass whose fields are the options and whose docstrings are the help.
        name: the command, for the usage line.
        arguments: what follows the command's name.
        default: values that the fields have unless given.
    """
    defaults = {} if default is None else {"default": default}
    # A part that may be absent (`episodes`) is what the default says, not a command of its own.
    marks = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(kind, prog=f"egem {name}", args=list(arguments), config=marks, **defaults)
