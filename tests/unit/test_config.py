"""Configuration files: round trip, and every wrong file has its message."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from egem.core.config import from_dict, load_json, save_json, to_dict
from egem.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["a", "b"]
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 2.0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    rates: dict[str, float]
    folder: Path | None = None
    parts: tuple[Inner, ...] = ()


EXAMPLE = Outer(
    name="x",
    inner=Inner(kind="a", sizes=(1, 2, 3), pair=(4, 0.5)),
    rates={"backbone": 1e-3},
    folder=Path("somewhere"),
    parts=(Inner(kind="b"),),
)


def test_round_trip(tmp_path):
    save_json(EXAMPLE, tmp_path / "deep" / "config.json")
    assert load_json(Outer, tmp_path / "deep" / "config.json") == EXAMPLE
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "x"}, r"unknown key in Outer 'nmae'\. Did you mean 'name'\?"),
        ({"inner": {"kind": "c"}}, r"unknown inner\.kind 'c'\..* Known: a, b\."),
        ({"inner": {"kind": "a", "sizes": [1, "2"]}}, r"inner\.sizes\[1\]: .*int.* expected, got '2'"),
        ({"inner": {"kind": "a", "pair": [1]}}, r"inner\.pair: 2 values expected, 1 given"),
        ({"rates": {"backbone": "fast"}}, r"rates\.backbone: .*float.* expected, got 'fast'"),
        ({"inner": 3}, r"inner: an object expected, got 3"),
    ],
)
def test_wrong_value_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, to_dict(EXAMPLE) | change)


def test_missing_key_is_named():
    values = to_dict(EXAMPLE)
    del values["inner"]["kind"]
    with pytest.raises(ConfigError, match="inner: 'kind' is missing"):
        from_dict(Outer, values)


def test_an_integer_is_a_float_but_a_truth_value_is_not():
    assert from_dict(float, 3) == 3.0
    with pytest.raises(ConfigError):
        from_dict(float, True)
    with pytest.raises(ConfigError, match="a whole number expected, got True"):
        from_dict(int, True)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json does not exist; a Outer was expected there"):
        load_json(Outer, tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"name": ')
    with pytest.raises(ConfigError, match=r"torn\.json is not valid JSON"):
        load_json(Outer, tmp_path / "torn.json")
