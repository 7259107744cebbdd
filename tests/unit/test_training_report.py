"""What `egem train` measures on held-out data, and the page that it leaves."""

from dataclasses import replace

import pytest
from PIL import Image
from tests.training_runs import micro_config, numbers, three_stages, write_records

from egem.cli import main
from egem.core.config import save_json
from egem.core.errors import ConfigError
from egem.data.robot_data import EpisodeOptions
from egem.recipes.pages import make_report, run_of
from egem.recipes.probes import configured_probes
from egem.report.page import render


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A run by the command line, with held-out data."""
    folder = tmp_path_factory.mktemp("probed")
    config = micro_config(
        folder,
        stages=three_stages(steps=(1, 1, 1)),
        probe_data=write_records(folder / "held_out", num_groups=2, seed=7),
    )
    config.run.mkdir()
    save_json(config, config.run / "config.json")
    main(["train", "--resume", str(config.run)])
    return config


def test_each_probe_runs_in_the_stages_that_train_what_it_measures(probed):
    rows = numbers(probed.run)
    assert [row["step"] for row in rows if "held_out/depth" in row] == [1, 2, 3]
    assert [row["step"] for row in rows if "drawn_depth/delta1" in row] == [1, 2, 3]
    assert [row["step"] for row in rows if "accuracy/mean" in row] == [3]
    assert configured_probes(replace(probed, probe_data=None)) == ()
    without = tuple(replace(stage, depth_weight=0.0, language_weight=1.0) for stage in probed.stages)
    names = [probe.name for probe in configured_probes(replace(probed, stages=without))]
    assert names == ["held_out", "accuracy"]


def test_training_leaves_a_page_with_curves_and_the_last_depth(probed):
    page = (probed.run / "report.html").read_text()
    for shown in ("held out", "mean score", "Drawn depth after alignment", str(probed.probe_data)):
        assert shown in page
    with Image.open(probed.run / "probes" / "drawn_depth" / "step-000003.png") as panel:
        assert f'width="{panel.width}" height="{panel.height}"' in page


def test_a_page_of_scores_finds_the_run_of_its_model(probed, tmp_path):
    assert run_of(probed.run / "model") == probed.run
    assert run_of(tmp_path / "model") is None


def test_a_run_that_has_not_come_far_has_a_page(probed):
    (probed.run / "trainable-joint.json").rename(probed.run / "trainable-joint.json.away")
    stages = [stage.name for stage in make_report("t", run=probed.run).stages]
    (probed.run / "trainable-joint.json.away").rename(probed.run / "trainable-joint.json")
    assert stages == ["connector", "depth_head"]
    assert "Losses and probes" in render(make_report("t", run=probed.run))


def test_a_policy_is_not_asked_about_records(probed):
    policy = tuple(replace(stage, language_weight=0.0, action_weight=1.0) for stage in probed.stages)
    with pytest.raises(ConfigError, match="probe_data asks questions about records"):
        replace(probed, episodes=EpisodeOptions(horizon=2), stages=policy)
