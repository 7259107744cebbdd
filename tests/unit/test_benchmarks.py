import hashlib
import importlib

import pytest

from egem.core.errors import ConfigError, RecordError
from egem.evaluation.benchmarks import BENCHMARKS, BenchmarkOptions, open_benchmark
from egem.evaluation.benchmarks import tabletop as module
from record_sets import write_records


def test_a_folder_of_records_is_a_benchmark(tmp_path):
    folder = write_records(tmp_path / "r", 5)
    whole = open_benchmark(f"records:{folder}", BenchmarkOptions(cache=tmp_path))
    assert whole.name == f"records:{folder}"
    assert len(list(whole.records())) == 20
    assert len(list(whole.group_heads())) == 5
    part = open_benchmark(f"records:{folder}", BenchmarkOptions(cache=tmp_path, num_groups=2))
    assert [r.id for r in part.records()] == [r.id for r in whole.records()][:8]
    assert part.fingerprint != whole.fingerprint
    more = open_benchmark(f"records:{folder}", BenchmarkOptions(cache=tmp_path, num_groups=99))
    assert more.fingerprint == whole.fingerprint


def test_unknown_names_come_with_the_nearest(tmp_path):
    options = BenchmarkOptions(cache=tmp_path)
    with pytest.raises(ConfigError, match=r"unknown benchmark 'tabletop-new-camera'\. Did you mean"):
        open_benchmark("tabletop-new-camera", options)
    with pytest.raises(RecordError, match="not a folder of records"):
        open_benchmark(f"records:{tmp_path}", options)
    with pytest.raises(ConfigError, match="num_groups 0 must be at least 1"):
        BenchmarkOptions(cache=tmp_path, num_groups=0)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (
            "tabletop",
            {"rule": "vlmevalkit"},
            "benchmark tabletop is no published set.*--rule vlmevalkit means",
        ),
        (
            "depth-folder=F",
            {"frames": 8},
            "benchmark depth-folder is no published set.*--frames 8 means nothing",
        ),
        ("records:R", {"rule": "official"}, "benchmark records:R is no published set"),
        ("cv-bench=F", {"frames": 8}, "benchmark cv-bench has no videos, so --frames 8 means nothing"),
        ("tabletop=F", {}, "benchmark tabletop is rendered.*leave '=F' out"),
    ],
)
def test_an_option_that_means_nothing_is_refused(tmp_path, name, options, problem):
    with pytest.raises(ConfigError, match=problem):
        open_benchmark(name, BenchmarkOptions(cache=tmp_path, **options))


def test_every_entry_of_the_table_exists():
    for location, line in BENCHMARKS.values():
        path, function = location.split(":")
        assert callable(getattr(importlib.import_module(path), function))
        assert line


def test_the_embedded_benchmark_is_rendered_once_and_the_same_each_time(tmp_path, monkeypatch):
    options = BenchmarkOptions(cache=tmp_path / "a", num_groups=3, questions_per_group=6, image_size=(64, 64))
    first = open_benchmark("tabletop", options)
    records = list(first.records())
    assert len({r.group for r in records}) == 3
    assert all(r.group.startswith("tabletop/held_out/") for r in records)
    assert len(records) > 9
    assert all(r.depths for r in first.group_heads())

    again = BenchmarkOptions(cache=tmp_path / "b", num_groups=3, questions_per_group=6, image_size=(64, 64))
    assert open_benchmark("tabletop", again).fingerprint == first.fingerprint

    def forbidden(*_, **__):
        raise AssertionError("rendered again")

    monkeypatch.setattr(module, "_render", forbidden)
    assert open_benchmark("tabletop", options).fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="rendered again"):
        open_benchmark("tabletop", BenchmarkOptions(cache=tmp_path / "a", num_groups=4))


def test_splits_share_no_picture(tmp_path):
    options = BenchmarkOptions(cache=tmp_path, num_groups=2, questions_per_group=3, image_size=(64, 64))
    seen = set()
    for name in (name for name in BENCHMARKS if name.startswith("tabletop")):
        for head in open_benchmark(name, options).group_heads():
            digest = hashlib.sha256(head.images[0].data or b"").hexdigest()
            assert digest not in seen
            seen.add(digest)


def test_another_program_makes_another_benchmark(tmp_path, monkeypatch):
    before = module._version()
    module._version.cache_clear()
    monkeypatch.setattr(module, "PROGRAMS", ("egem.data_engine",))
    assert module._version() != before
    module._version.cache_clear()


def test_a_render_that_fails_leaves_nothing(tmp_path, monkeypatch):
    import egem.data_engine

    def broken(*_, **__):
        raise RuntimeError("broken skill")

    monkeypatch.setattr(egem.data_engine, "ask", broken)
    with pytest.raises(RuntimeError, match="broken skill"):
        open_benchmark("tabletop", BenchmarkOptions(cache=tmp_path, num_groups=1, image_size=(64, 64)))
    assert list(tmp_path.iterdir()) == []
