"""Every recipe builds and round-trips, the help is quick, and the examples in the pages work as they stand."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tyro
from torch.distributed.run import get_args_parser

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
    modules = {part.split(".")[0] for part in stages["joint"].trainable}
    assert modules == {"backbone", "connector", "depth_head"}
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


def test_a_reader_that_leaves_is_no_bug_of_ours():
    command = [sys.executable, "-u", "-m", "egem", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        asked.stdout.close()
        assert asked.stderr.read() == ""
        assert asked.wait() == 141


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name, capsys):
    code = 0
    try:
        main([*name.split(), "--help"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 0
    assert "egem" in capsys.readouterr().out or name == "data sources"


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
STAND_INS = {"train": "tiny", "data import": "llava", "data annotate": "depth", "study": "tabletop"}
"""What follows these commands names something, which pages leave open: `egem data import SOURCE`."""


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_can_be_run(page, monkeypatch, capsys):
    monkeypatch.setattr(tyro, "cli", parse_only)
    wrong = []
    for command in sorted(set(commands((ROOT / page).read_text()))):
        try:
            check_command(command, capsys)
        except AssertionError as error:
            wrong.append(f"{command}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_torchrun_leaves_the_options_of_a_page_to_egem(page, capsys):
    """It would read `--run` as an option of its own, cut short."""
    for line in lines_of_code((ROOT / page).read_text()):
        words = shlex.split(line.replace("...", "")) if line.startswith("torchrun ") else []
        if "egem" not in words:
            continue
        try:
            parsed = get_args_parser().parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")
        assert parsed.training_script == "egem"
        assert parsed.training_script_args == words[words.index("--") + 1 :]


def test_a_wrong_command_is_found(monkeypatch, capsys):
    monkeypatch.setattr(tyro, "cli", parse_only)
    check_command("egem data mix --recipe R --data D1 D2 --out E", capsys)
    for command in (
        "egem data mix --recipe R --out E",
        "egem data mixx --recipe R",
        "egem train ... --no-such-field 3",
        "egem train gem-3b --data D",
        "egem data annotate depth --data D --out E",
    ):
        with pytest.raises(AssertionError):
            check_command(command, capsys)


class Parsed(Exception):  # noqa: N818 - no error
    """The command's words were understood; nothing is run."""


real_cli = tyro.cli


def parse_only(*arguments, **options):
    real_cli(*arguments, **options)
    raise Parsed


def lines_of_code(text: str) -> list[str]:
    """Lines of a page's code blocks, and what stands between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0] for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    return lines + re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands(text: str) -> list[str]:
    """Each `egem ...` of a page."""
    lines = [line.replace(" egem -- ", " egem ") for line in lines_of_code(text)]
    found = [re.match(r"\s*(?:(?:torchrun|srun)\b.*?\s)?(egem\s.*)", line, flags=re.DOTALL) for line in lines]
    return [" ".join(match.group(1).strip("' \n").split()) for match in found if match is not None]


def check_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Parse a command; of one that is only mentioned, or cut short by `...`, what is there must exist."""
    optional = re.sub(r"\[[A-Z]+\]", "", command)
    words = shlex.split(optional.replace("[", "").replace("]", ""))[1:]
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    rest = words[len(name.split()) :]
    cut_short = "..." in rest
    if name in STAND_INS and rest and (rest[0] == "..." or rest[0].isupper()):
        rest[0] = STAND_INS[name]
    options = [word for word in rest if word.startswith("--")]
    if not options or cut_short:
        assert any(known == name or known.startswith(f"{name} ") for known in COMMANDS), (
            f"no command '{name}'"
        )
        if not options:
            return
        rest = [*(rest[:1] if name in STAND_INS else ()), "--help"]
    capsys.readouterr()
    code = 0
    try:
        main([*name.split(), *rest])
    except Parsed:
        return
    except SystemExit as stopped:
        code = stopped.code
    shown = capsys.readouterr()
    assert code in (0, None), " ".join((shown.err + shown.out).split())[:300]
    assert rest[-1] != "--help" or all(option in shown.out for option in options), (
        f"one of {options} is no option"
    )


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
