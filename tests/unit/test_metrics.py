import json
import logging
import sys
from dataclasses import replace

import pytest
from tests.training_runs import three_stages

from egem.core.errors import ConfigError
from egem.training.config import TrainConfig
from egem.training.metrics import METRICS_FILE, Metrics, MetricsFile, read_metrics

FAKE_TRACKER = """
calls = []
def init(**options): calls.append(("init", options))
def log(values, step): calls.append(("log", step, values))
def finish(): calls.append(("finish",))
"""


@pytest.fixture
def config(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    return TrainConfig(run=run, data=(tmp_path,), stages=three_stages(), trackers=(), log_every=2)


def write_steps(config, steps, *, after=0):
    with Metrics(config, after=after, num_steps=10) as metrics:
        for step in steps:
            metrics.write(step=step, stage="joint", stage_step=step, values={"loss/total": float(step)})


def test_every_step_is_one_line(config):
    write_steps(config, range(1, 6))
    rows = read_metrics(config.run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2] == {"step": 3, "stage": "joint", "stage_step": 3, "loss/total": 3.0}


def test_lines_are_there_before_the_run_ends(config):
    file = MetricsFile(config.run, after=0)
    file.write({"step": 1})
    assert read_metrics(config.run) == [{"step": 1}]
    file.close()


def test_resuming_cuts_the_steps_that_will_be_repeated(config):
    write_steps(config, range(1, 8))
    write_steps(config, range(5, 9), after=4)
    assert [row["step"] for row in read_metrics(config.run)] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("torn", ['{"step": 4, "loss', '{"step": 4}', "4"])
def test_a_line_that_a_crash_cut_short_is_left_out(config, torn):
    write_steps(config, range(1, 4))
    with (config.run / METRICS_FILE).open("a") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(config.run)] == [1, 2, 3]
    write_steps(config, [4], after=3)
    assert [row["step"] for row in read_metrics(config.run)] == [1, 2, 3, 4]


def test_damaged_metrics_are_named(config, tmp_path):
    write_steps(config, [1])
    with (config.run / METRICS_FILE).open("a") as file:
        file.write('not json\n{"step": 2}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl line 2 is not a JSON object"):
        read_metrics(config.run)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_metrics(tmp_path / "nothing")


def test_numbers_come_back_bit_for_bit(config):
    value = 0.1 + 0.2
    with Metrics(config, after=0, num_steps=1) as metrics:
        metrics.write(step=1, stage="joint", stage_step=1, values={"loss/total": value})
    write_steps(config, [], after=1)
    assert read_metrics(config.run)[0]["loss/total"] == value


def test_log_lines_tell_the_mean_since_the_last(config, caplog):
    caplog.set_level(logging.INFO)
    write_steps(config, range(1, 5))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("  ")[:2] for line in lines] == [
        ["joint step 2/10", "loss/total 1.5000"],
        ["joint step 4/10", "loss/total 3.5000"],
    ]


def test_other_processes_write_nothing(config):
    with Metrics(config, after=0, num_steps=1, enabled=False) as metrics:
        metrics.write(step=1, stage="joint", stage_step=1, values={})
        metrics.sync()
    assert list(config.run.iterdir()) == []


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_trackers_share_one_adapter(config, package, tmp_path, monkeypatch):
    (tmp_path / f"{package}.py").write_text(FAKE_TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    config = replace(config, trackers=(package,), project="depth")
    write_steps(config, range(1, 5))
    write_steps(config, range(5, 7), after=4)
    calls = sys.modules[package].calls
    inits = [options for kind, *rest in calls if kind == "init" for options in rest]
    assert [kind for kind, *_ in calls] == ["init", "log", "log", "finish", "init", "log", "finish"]
    assert calls[1] == ("log", 2, {"loss/total": 1.5})
    assert inits[0]["project"] == "depth"
    assert inits[0]["name"] == "run"
    assert json.dumps(inits[0]["config"])
    # A resumed run continues the same chart.
    assert inits[0] == inits[1]
    assert inits[0]["resume"] == "allow"
    assert ("id" in inits[0]) == (package == "wandb")
    del sys.modules[package]


def test_missing_tracker_names_the_extra(config):
    for package in ("wandb", "trackio"):
        with pytest.raises(ConfigError) as error:
            write_steps(replace(config, trackers=(package,)), [1])
        assert str(error.value) == (
            f"tracker '{package}' is not installed; pip install 'egem[{package}]', or leave it out of trackers."
        )


def test_tensorboard_hides_what_is_repeated(config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(config, trackers=("tensorboard",), log_every=1)
    write_steps(config, range(1, 8))
    write_steps(config, range(5, 7), after=4)
    events = EventAccumulator(str(config.run / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/total")] == [(n, float(n)) for n in range(1, 7)]
