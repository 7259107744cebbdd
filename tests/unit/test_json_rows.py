"""JSON read one row at a time: the same rows as reading it whole, at every place where a chunk may end."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from egem.core.errors import RecordError
from egem.data_engine.formats import json_rows
from egem.data_engine.formats.json_rows import read_json_object, read_json_rows


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randrange(-(10**6), 10**6)
    if kind == 2:
        return rng.uniform(-1, 1)
    if kind <= 4:
        return "".join(rng.choice('ab"\\[]{},:é\n 漢') for _ in range(rng.randrange(12)))
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(i): value(rng, depth + 1) for i in range(rng.randrange(4))}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
def test_any_list_in_chunks_of_any_size(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    rng = random.Random(chunk)
    path = tmp_path / "a.json"
    for number in range(40):
        wanted = [value(rng) for _ in range(rng.randrange(6))]
        text = json.dumps(wanted, ensure_ascii=bool(number % 2), indent=rng.choice([None, 1]))
        path.write_text(rng.choice(["", " \n"]) + text + rng.choice(["", "\n"]))
        assert list(read_json_rows(path)) == wanted


@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_every_truncation_is_an_error(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    wanted = [{"a": [1, 2.5]}, {"b": "x"}, 17]
    text = json.dumps(wanted)
    path = tmp_path / "a.json"
    for size in range(len(text)):
        path.write_text(text[:size])
        rows = read_json_rows(path)
        for number in range(text[:size].count("}")):
            assert next(rows) == wanted[number]
        with pytest.raises(RecordError, match=r"a\.json is not valid JSON"):
            list(rows)


@pytest.mark.parametrize("text", ["[1 2]", "[1,,2]", "[{]", "[1,]x", "nonsense", "", "  "])
def test_what_is_not_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"a\.json is not valid JSON"):
        list(read_json_rows(path))


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{broken\n[2]\n')
    first, bad, last = read_json_rows(path)
    assert (first, last) == ({"a": 1}, [2])
    assert isinstance(bad, RecordError)
    assert "a.jsonl, line 3: not valid JSON" in str(bad)
    # Some sets name files of lines .json.
    path.rename(tmp_path / "a.json")
    assert next(iter(read_json_rows(tmp_path / "a.json"))) == {"a": 1}
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(RecordError, match="not UTF-8"):
        list(read_json_rows(tmp_path / "b.jsonl"))


def test_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json_object(path) == {"a": 1}
    for text, message in (("[1]", "an object expected, found a list"), ('{"a": ', "truncated or damaged")):
        path.write_text(text)
        with pytest.raises(RecordError, match=message):
            read_json_object(path)
