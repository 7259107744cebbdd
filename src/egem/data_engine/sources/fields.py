"""Fields of a row by name, with an error that says what the row holds instead."""

from typing import Any

from egem.core.errors import RecordError


def mapping(row: Any, where: str) -> dict[str, Any]:
    """The row itself, which must be an object.

    Raises:
        RecordError: it is something else.
    """
    if not isinstance(row, dict):
        raise RecordError(f"{where}: an object expected, got {_short(row)}.")
    return row


def text(row: dict[str, Any], key: str, where: str) -> str:
    """A text that is not empty.

    Raises:
        RecordError: missing, empty or no text.
    """
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(row, key, "a text", where)
    return value


def number(row: dict[str, Any], key: str, where: str) -> float:
    """One number.

    Raises:
        RecordError: missing or no number.
    """
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(row, key, "a number", where)
    return float(value)


def numbers(row: dict[str, Any], key: str, count: int, where: str) -> list[float]:
    """A list of so many numbers.

    Raises:
        RecordError: missing, of another length or no numbers.
    """
    value = row.get(key)
    if not isinstance(value, list) or len(value) != count or not all(_is_number(v) for v in value):
        raise _wrong(row, key, f"{count} numbers", where)
    return [float(v) for v in value]


def texts(row: dict[str, Any], key: str, where: str) -> list[str]:
    """A text or a list of texts; an empty list where the key is missing, null or empty.

    Raises:
        RecordError: something else.
    """
    value = row.get(key)
    values = [] if value in (None, "") else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise RecordError(f"{where}: '{key}' must be a path or a list of paths.")
    return values


def points(row: dict[str, Any], key: str, where: str) -> list[tuple[float, float]]:
    """A list of [x, y] pairs, or of {"x", "y"} objects.

    Raises:
        RecordError: missing, empty or something else.
    """
    found = []
    value = row.get(key)
    for item in value if isinstance(value, list) else ():
        pair = [item.get("x"), item.get("y")] if isinstance(item, dict) else item
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_number(v) for v in pair):
            raise _wrong(row, key, "a list of [x, y]", where)
        x, y = (float(str(v)) for v in pair)
        found.append((x, y))
    if not found:
        raise _wrong(row, key, "a list of [x, y]", where)
    return found


def unknown_schema(row: dict[str, Any], expected: str, where: str) -> RecordError:
    """The error for a row of none of the known variants."""
    return RecordError(
        f"{where}: {expected} expected; the row has the keys {', '.join(sorted(row)) or 'none'}."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(row: dict[str, Any], key: str, expected: str, where: str) -> RecordError:
    if key not in row:
        return unknown_schema(row, f"'{key}' ({expected})", where)
    return RecordError(f"{where}: '{key}' must be {expected}, got {_short(row[key])}.")


def _short(value: Any) -> str:
    return repr(value)[:60]
