"""The data engine: the same bytes whoever works and however often they are killed; bad items are named."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from egem.core.errors import ConfigError, EgemError, RecordError
from egem.data_engine.engine.parts import MakePart, Outcome, Part, cut
from egem.shards import fingerprint, iterate_records, verify_shards
from engine_steps import Number, Write, record, run
from ray_stand_in import StandIn


@pytest.fixture
def step(tmp_path: Path) -> Write:
    (tmp_path / "calls").mkdir()
    return Write(calls=tmp_path / "calls", bad=(7, 23))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes without interruption."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "calls").mkdir()
    run(Write(calls=folder / "calls", bad=(7, 23)), folder / "out", share=0.1, workers=1)
    return folder / "out"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_records_errors_and_counts(reference: Path) -> None:
    verify_shards(reference)
    assert [r.answer.number for r in iterate_records(reference)] == [i for i in range(40) if i not in (7, 23)]
    assert len(list(reference.glob("*.parquet"))) == 4
    lines = [json.loads(line) for line in (reference / "quarantine.jsonl").read_text().splitlines()]
    assert lines == [{"row": f"number {i}", "reason": f"number {i} is bad."} for i in (7, 23)]
    assert not (reference.parent / ".out.parts").exists()


def test_killed_in_the_middle_it_goes_on_where_it_stopped(
    step: Write, reference: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from engine_steps import Write, run\n"
        "run(Write(calls=Path(sys.argv[1]), bad=(7, 23), deadly=25), Path(sys.argv[2]), share=0.1, workers=1)"
    )
    arguments = [sys.executable, "-c", code, str(step.calls), str(tmp_path / "out")]
    tests = str(Path(__file__).parents[1])
    killed = subprocess.run(arguments, env={"PYTHONPATH": tests}, capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / ".out.parts").glob("part-*")) == [
        "part-00000",
        "part-00001",
    ]
    run(step, tmp_path / "out", share=0.1, workers=1)
    assert content(tmp_path / "out") == content(reference)
    calls = [path.name.split("-")[0] for path in step.calls.iterdir()]
    assert [calls.count(str(i)) for i in range(40)] == [1] * 20 + [2] * 6 + [1] * 14


def test_a_killed_worker_is_one_error_and_costs_one_part(
    step: Write, reference: Path, tmp_path: Path
) -> None:
    deadly = Write(calls=step.calls, bad=step.bad, deadly=15)
    with pytest.raises(EgemError, match=r"exit code -9 .*run the same command again"):
        run(deadly, tmp_path / "out", share=0.1, workers=2)
    assert not list((tmp_path / ".out.parts").glob("*.tmp"))
    manifest, result = run(deadly, tmp_path / "out", share=0.1, workers=1)
    assert fingerprint([tmp_path / "out"]) == fingerprint([reference])
    assert content(tmp_path / "out") == content(reference)
    assert manifest.rows == 38
    assert result.counts == {"odd": 18}


def test_ray_makes_the_same(step: Write, reference: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    run(step, tmp_path / "out", share=0.1, engine="ray", address="local", workers=2)
    assert content(tmp_path / "out") == content(reference)


def test_what_ray_is_asked_for_gives_the_same(
    step: Write, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn()
    monkeypatch.setitem(sys.modules, "ray", ray)
    run(step, tmp_path / "out", share=0.1, engine="ray")
    assert content(tmp_path / "out") == content(reference)
    assert sorted(ray.calls.values()) == [2, 2]
    assert ray.most_running == 4
    assert len(ray.killed) == 2
    with pytest.raises(RecordError, match=r"number \d+ is bad"):
        run(step, tmp_path / "bad", engine="ray")
    monkeypatch.setitem(sys.modules, "ray", StandIn(lost=True))
    with pytest.raises(EgemError, match=r"lost 4 times \(the actor died\); what is finished is kept"):
        run(step, tmp_path / "lost", share=0.1, engine="ray")
    with pytest.raises(ConfigError, match="has 0 GPUs, a worker needs 1"):
        run(step, tmp_path / "none", engine="ray", gpus_per_worker=1.0)


def test_without_ray_the_remedy_is_named(
    step: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'egem\[ray\]'"):
        run(step, tmp_path / "out", engine="ray")
    assert not (tmp_path / ".out.parts").exists()


def test_too_many_errors_stop_with_a_summary_and_keep_what_is_good(tmp_path: Path, step: Write) -> None:
    with pytest.raises(
        RecordError, match=r"(?s)2 of 40 numbers are bad, more than the 2\.0% allowed.*number 7 is"
    ):
        run(step, tmp_path / "out", share=0.02, workers=1)
    assert len((tmp_path / "out.errors.jsonl").read_text().splitlines()) == 2
    kept = sorted(path.name for path in (tmp_path / ".out.parts").glob("part-*"))
    assert kept == ["part-00001", "part-00003"]
    # Repaired, only what was bad is done again.
    run(Write(calls=step.calls), tmp_path / "out", workers=1)
    assert len(list(iterate_records(tmp_path / "out"))) == 40
    assert len(list(step.calls.iterdir())) == 60


def test_a_bug_is_an_error_row_or_a_traceback(tmp_path: Path, step: Write) -> None:
    broken = Write(calls=step.calls, broken=(3,))
    with pytest.raises(KeyError):
        run(broken, tmp_path / "out", workers=1)
    assert not (tmp_path / ".out.parts").exists()
    _, result = run(broken, tmp_path / "out", share=0.1, workers=1)
    assert result.errors[0][1].startswith("KeyError: 'missing' (this is a bug")


def test_other_work_is_not_mistaken_for_this(tmp_path: Path, step: Write) -> None:
    with pytest.raises(RecordError, match="more than"):
        run(step, tmp_path / "out", share=0.02, workers=1)
    with pytest.raises(ConfigError, match=r"differs from this \(items_per_part was 10, is 7\)"):
        run(step, tmp_path / "out", share=0.1, workers=1, items_per_part=7)
    part = tmp_path / ".out.parts" / "part-00001" / "part.json"
    part.write_text(part.read_text().replace('"digest": "', '"digest": "0'))
    with pytest.raises(ConfigError, match=r"the input has changed since .* was begun"):
        run(step, tmp_path / "out", share=0.1, workers=1)
    with (tmp_path / ".out.parts" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process works in"):
            run(step, tmp_path / "out", share=0.1, workers=1)


def test_parts_are_cut_by_number_and_by_size() -> None:
    sizes = [0, 0, 0, 50 << 20, 50 << 20, 0]
    items = [Number(value=value, num_bytes=size) for value, size in enumerate(sizes)]
    assert [[item.value for item in part.items] for part in cut(items, 3)] == [[0, 1, 2], [3, 4], [5]]


def test_an_id_used_twice_is_an_error_of_its_item(tmp_path: Path) -> None:
    def step(items):
        for number, names in zip(items, [(1,), (2, 2), (3, 1), (4,)], strict=True):
            yield Outcome(where=number.where, records=[record(name) for name in names])

    items = tuple(Number(value=value) for value in range(4))
    result = MakePart(step=step, work=tmp_path, stop_at_error=False)(Part(index=0, items=items))
    assert result.rows == 2
    assert [where for where, _ in result.errors] == ["number 1", "number 2"]
    assert "'n/1' was there before" in result.errors[1][1]
    with pytest.raises(RecordError, match="'n/2' was there before"):
        MakePart(step=step, work=tmp_path / "strict", stop_at_error=True)(Part(index=0, items=items))
