"""A study of seconds, on pictures that need no renderer."""

from dataclasses import replace
from pathlib import Path

from tests.record_sets import group

from egem.recipes.study.recipe import StudyRecipe
from egem.records import Intrinsics
from egem.shards import ShardWriter

SMALL = StudyRecipe(
    name="tabletop",
    size=(48, 64),
    skills=("nearer_object", "counting"),
    views=20,
    seen_views=6,
    seeing_steps=1,
    seeing_batch=2,
    connector_steps=1,
    head_steps=1,
    head_batch=2,
    joint_steps=2,
    scratch_steps=1,
    joint_batch=2,
    turns=2,
    test_views=12,
    probe_views=12,
    drawn_views=2,
    main_seeds=2,
    other_seeds=1,
)
NAMES = {"nearest": "nearer_object", "counting": "counting"}


def write_records(folder: Path, first: int, num: int) -> None:
    """Groups of two questions about one picture with depth and a camera."""
    with ShardWriter(folder) as writer:
        for seed in range(first, first + num):
            for record in group(seed):
                if record.skill in NAMES:
                    camera = Intrinsics(fx=50.0, fy=50.0, cx=32.0, cy=24.0)
                    writer.add(replace(record, skill=NAMES[record.skill], intrinsics=(camera,)))
