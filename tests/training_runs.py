"""Small training runs for tests: records of random pictures, a micro checkpoint, three short stages."""

import importlib
import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import write_checkpoint

from egem.core.config import load_json
from egem.media import encode_depth
from egem.records import Answer, DepthFile, ImageFile, Message, Record
from egem.shards import ShardWriter
from egem.training.config import StageConfig, TrainConfig
from egem.training.loop import train
from egem.training.metrics import TIMING_PREFIXES, read_metrics

WORDS = ("red", "green", "blue", "left", "right", "near", "far")


def write_records(folder: Path, *, num_groups: int = 24, turns: int = 3, seed: int = 0) -> Path:
    """Groups of 2 to `turns` questions about one random picture; two in three pictures have depth."""
    rng = np.random.default_rng(seed)
    with ShardWriter(folder) as writer:
        for group in range(num_groups):
            height, width = ((32, 32), (32, 48))[group % 2]
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(picture, "PNG")
            depth = rng.uniform(0.5, 3.0, (height, width)).astype(np.float32)
            depth[rng.random((height, width)) < 0.1] = 0
            depth_file = DepthFile(data=encode_depth(depth, 0.001))
            for turn in range(int(rng.integers(2, turns + 1))):
                answer = str(rng.choice(WORDS))
                writer.add(
                    Record(
                        id=f"{group:04d}/{turn}",
                        source="random",
                        category="spatial",
                        skill="word",
                        group=f"{group:04d}",
                        images=(ImageFile(data=picture.getvalue()),),
                        depths=(depth_file,) if group % 3 else (),
                        messages=(
                            Message(role="user", content=f"<image>Which word, question {turn}?"),
                            Message(role="assistant", content=answer),
                        ),
                        answer=Answer(kind="text", text=answer),
                    )
                )
    return folder


def three_stages(*, steps: tuple[int, int, int] = (3, 3, 4), **fields: Any) -> tuple[StageConfig, ...]:
    """Connector, depth head and joint, in the paper's order; `fields` go to all of them."""
    rates = {"connector": 1e-3}
    head_rates = {**rates, "depth_head": 1e-3}
    flow_alone = {"language_weight": 0.0, "depth_weight": 1.0}
    common = {"batch_size": 4, **fields}
    return (
        StageConfig(name="connector", learning_rates=rates, steps=steps[0], **flow_alone, **common),
        StageConfig(name="depth_head", learning_rates=head_rates, steps=steps[1], **flow_alone, **common),
        StageConfig(name="joint", learning_rates={**head_rates, "backbone": 1e-3}, steps=steps[2], **common),
    )


def micro_config(folder: Path, **fields: Any) -> TrainConfig:
    """A run in `folder/run` on `folder/data` from `folder/checkpoint`; what is missing is written first."""
    torch.set_num_threads(1)
    if not (folder / "data").exists():
        write_records(folder / "data")
    if not (folder / "checkpoint").exists():
        write_checkpoint(folder / "checkpoint")
    config = TrainConfig(
        run=folder / "run",
        data=(folder / "data",),
        checkpoint=folder / "checkpoint",
        stages=three_stages(),
        checkpoint_every=2,
        trackers=(),
    )
    return replace(config, **fields)


def numbers(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what depends on the machine's speed."""
    return [
        {name: value for name, value in row.items() if not name.startswith(TIMING_PREFIXES)}
        for row in read_metrics(run)
    ]


def assert_close(rows: list[dict[str, Any]], expected: list[dict[str, Any]], *, rel: float) -> None:
    """Equal names, stages and steps; numbers equal to a relative tolerance."""
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            assert row[name] == (value if isinstance(value, str) else pytest.approx(value, rel=rel)), name


def train_in_process(config_file: Path, resume: bool, suicide: str = "") -> None:
    """For child processes: train what a stored configuration says.

    Args:
        config_file: JSON of a `TrainConfig`.
        resume: see `train`.
        suicide: kill this process (SIGKILL) at that moment of its second save or export; see `die_at`.
    """
    torch.set_num_threads(1)
    if suicide:
        die_at(suicide)
    train(load_json(TrainConfig, config_file), resume=resume)


def die_at(moment: str) -> None:
    """Arrange for death: module.function of egem.training whose second call kills, before or after its work."""
    place, when = moment.split(" ")
    module_name, function = place.split(".")
    module = importlib.import_module(f"egem.training.{module_name}")
    original, calls = getattr(module, function), []

    def deadly(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) >= 2 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if len(calls) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, function, deadly)
