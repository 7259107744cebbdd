"""Every recipe builds and round-trips, the help is quick, and the examples in the pages work as they stand."""

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from egem.cli import COMMANDS, main
from egem.core.config import from_dict, to_dict
from egem.recipes import RECIPES
from egem.training.config import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_round_trips(name):
    config = RECIPES[name]()
    assert from_dict(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize("name", ["tiny", "gem-2b", "gem-8b"])
def test_the_paper_s_stages_train_what_the_paper_says(name):
    stages = {stage.name: stage for stage in RECIPES[name]().stages}
    assert stages["connector"].trainable == ("connector",)
    assert set(stages["depth_head"].trainable) == {"connector", "depth_head"}
    assert set(stages["joint"].trainable) == {"backbone", "connector", "depth_head"}
    for first in ("connector", "depth_head"):
        assert stages[first].language_weight == 0
    if name != "tiny":
        assert (stages["connector"].steps, stages["depth_head"].steps) == (500, 4000)
        assert (stages["joint"].epochs, stages["joint"].depth_weight) == (1.0, 0.1)


def test_help_comes_within_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "egem", "--help"], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert all(f"egem {name}" in done.stdout for name in COMMANDS)
    assert min(seconds) < 1.0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name, capsys):
    code = 0
    try:
        main([*name.split(), "--help"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 0
    assert "egem" in capsys.readouterr().out or name == "data sources"


def test_commands_named_in_the_pages_exist():
    words = {name.split()[0] for name in COMMANDS}
    for page in ("README.md", "CONTRIBUTING.md", "docs/reproduction.md"):
        for line in re.findall(
            r"^\s*(?:\|[^`]*)?`?egem ([a-z-]+)", (ROOT / page).read_text(), flags=re.MULTILINE
        ):
            assert line in words, f"{page}: egem {line}"


def test_the_skill_of_contributing_works():
    from egem.data_engine.skills.skill import Skill
    from egem.data_engine.symbolic import block_scene
    from egem.data_engine.view import View

    page = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n(\"\"\"Whether a thing.*?)```", page, flags=re.DOTALL)
    line = re.search(r"    (Skill\(name=\"taller_than_wide\".*\)),\n", page)
    assert code is not None
    assert line is not None
    names: dict = {"Skill": Skill}
    exec(code.group(1), names)
    names["proportion"] = type(
        "proportion", (), {"taller_than_wide": staticmethod(names["taller_than_wide"])}
    )
    skill = eval(line.group(1), names)
    asked = [
        skill.ask(View(block_scene(seed, size=(96, 96))), np.random.default_rng(seed)) for seed in range(40)
    ]
    found = [question for question in asked if question is not None]
    assert found
    assert all((q.meta["height_over_width"] > 1) == (q.answer.text == "yes") for q in found)
