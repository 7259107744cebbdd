"""Frozen dataclasses to JSON and back; a key that no field has is an error, never ignored."""

import dataclasses
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from egem.core.errors import ConfigError, unknown_name
from egem.core.files import write_atomically

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """Plain JSON values of a dataclass, recursively; tuples become lists, paths strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    return config


def from_dict(kind: Any, values: Any, where: str = "") -> Any:
    """The inverse of `to_dict`.

    Args:
        kind: the dataclass (or plain type) expected.
        values: parsed JSON.
        where: path of the value inside the file, for the message.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _from_union(arguments, values, where)
    if dataclasses.is_dataclass(kind):
        return _from_mapping(kind, values, where)
    if origin is tuple and isinstance(values, list):
        inner = [arguments[0]] * len(values) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(values):
            raise ConfigError(f"{where}: {len(inner)} values expected, {len(values)} given.")
        pairs = zip(inner, values, strict=True)
        return tuple(from_dict(t, v, f"{where}[{i}]") for i, (t, v) in enumerate(pairs))
    if origin is dict and isinstance(values, dict):
        return {k: from_dict(arguments[1], v, f"{where}.{k}") for k, v in values.items()}
    if origin is typing.Literal:
        if values not in arguments:
            raise unknown_name(where or "value", str(values), map(str, arguments))
        return values
    if kind is Path and isinstance(values, str):
        return Path(values)
    if kind is float and isinstance(values, int) and not isinstance(values, bool):
        return float(values)
    if kind is Any or (isinstance(kind, type) and isinstance(values, kind)):
        if kind is int and isinstance(values, bool):
            raise ConfigError(f"{where or 'value'}: a whole number expected, got {values!r}.")
        return values
    raise ConfigError(f"{where or 'value'}: {kind} expected, got {values!r}.")


def _from_union(kinds: tuple[Any, ...], values: Any, where: str) -> Any:
    if values is None and type(None) in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return from_dict(kind, values, where)
        except ConfigError as error:
            problems.append(error)
    raise problems[-1]


def _from_mapping(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where or kind.__name__}: an object expected, got {values!r}.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise unknown_name(f"key in {where or kind.__name__}", key, fields)
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in values:
            raise ConfigError(f"{where or kind.__name__}: '{name}' is missing.")
    prefix = f"{where}." if where else ""
    return kind(**{key: from_dict(hints[key], value, prefix + key) for key, value in values.items()})


def fingerprint_of(config: Any, digits: int = 12) -> str:
    """Equal only for configurations of equal values."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:digits]


def save_json(config: Any, path: Path) -> None:
    """Write a dataclass as indented JSON; the file appears whole or not at all."""
    write_atomically(path, (json.dumps(to_dict(config), indent=2) + "\n").encode())


def load_json(kind: type[T], path: Path) -> T:
    """Read what `save_json` wrote.

    Raises:
        ConfigError: no such file, not JSON, or not this kind of configuration.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; a {kind.__name__} was expected there.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); restore or rewrite it.") from None
    try:
        return from_dict(kind, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
