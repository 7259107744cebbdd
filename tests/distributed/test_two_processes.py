"""Two gloo processes on one machine: a sharded model's curve is that of one process that reads the same samples."""

import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.processes import run_together
from tests.tiny import build_micro, random_batch, random_sample
from tests.training_runs import assert_close, die_at, micro_config, numbers, three_stages, write_records
from torch.distributed.fsdp import register_fsdp_forward_method

from egem.core.config import load_json, save_json
from egem.core.errors import TrainingError
from egem.data.collate import collate
from egem.models.gem import GEM
from egem.models.key_values import KeyValueTap, keep_reachable
from egem.records import IMAGE_MARK, Message
from egem.training.checkpoints import checkpoint_folders, find_damage, load_tensors, stored_tensors
from egem.training.config import StageConfig, TrainConfig
from egem.training.distributed import World, current_world
from egem.training.loop import train
from egem.training.optimizer import freeze
from egem.training.probes import Probe, held_out_losses
from egem.training.sharding import settle, shard
from egem.training.step import Clock, accumulate_gradient

STEPS = (4, 4, 12)
EVERYTHING = {"backbone": 1e-3, "connector": 1e-3, "depth_head": 1e-3}


def train_stored(config_file: Path, resume: bool) -> None:
    config = load_json(TrainConfig, config_file)
    train(config, resume=resume, probes=probes(config))


def probes(config: TrainConfig) -> list[Probe]:
    """One that runs the model through `forward`, one through its other methods."""
    return [
        held_out_losses(config.data, every=100, num_groups=4, batch_size=2),
        Probe(name="look", every=10, run=look, stages=("joint",)),
    ]


def look(model, preparer, step, place) -> dict[str, float]:
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    sample = preparer.prompt([Message(role="user", content=IMAGE_MARK + "Which word?")], [image])
    (tokens,) = model.generate_text([sample], max_new_tokens=4)
    ((depth,),) = model.sample_depth([sample], generator=torch.Generator().manual_seed(0))
    (place / "looked.txt").write_text(str(step))
    return {"tokens": float(sum(tokens)), "depth": float(depth.abs().mean())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def together(folder):
    """A run of two processes: batches with and without depth, of two sizes, two micro-batches in a step.

    In the last two stages samples are packed into rows of at most 170 tokens, which hold two samples or one, so that
    processes often have different numbers of passes.
    """
    write_records(folder / "data", num_groups=18)
    connector, *packed = three_stages(steps=STEPS, batch_size=2, accumulation=2)
    config = micro_config(
        folder,
        run=folder / "together",
        stages=(connector, *(replace(stage, row_tokens=170) for stage in packed)),
        weight_decay=0.01,
        checkpoint_every=6,
    )
    save_json(config, folder / "together.json")
    run_together(train_stored, folder, folder / "together.json", False)
    return config


def test_two_processes_equal_one(folder, together):
    """One process takes four forward passes a step instead; noise, times and turns are the same."""
    stages = tuple(replace(stage, accumulation=4) for stage in together.stages)
    alone = replace(together, run=folder / "alone", stages=stages)
    train(alone, probes=probes(alone))
    rows = numbers(together.run)
    assert len(rows) == sum(STEPS)
    assert_close(rows, numbers(alone.run), rel=1e-5)
    assert [row["step"] for row in rows if "look/depth" in row] == [10, 20]
    assert (together.run / "probes/look/looked.txt").read_text() == "20"
    ours, theirs = GEM.from_pretrained(together.run / "model"), GEM.from_pretrained(alone.run / "model")
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_two_processes_resume_bit_for_bit_and_on_one_and_on_four(folder, together):
    """The checkpoint of step 18 goes on by two, one and four processes (split in pairs), along the same curve."""
    expected = numbers(together.run)
    starts = {}
    for size in (2, 1, 4):
        run = folder / f"by-{size}"
        shutil.copytree(together.run, run, symlinks=True)
        (run / "checkpoints/step-20/manifest.json").write_text("{")  # torn: never picked up
        # The exported model is the finished one and must not be what goes on.
        starts[size] = replace(together, run=run, shard_size=2 if size == 4 else None)
        save_json(starts[size], folder / f"by-{size}.json")
    run_together(train_stored, folder, folder / "by-2.json", True)
    assert numbers(starts[2].run) == expected
    train_stored(folder / "by-1.json", True)
    assert_close(numbers(starts[1].run), expected, rel=1e-5)
    run_together(train_stored, folder, folder / "by-4.json", True, size=4)
    assert_close(numbers(starts[4].run), expected, rel=1e-5)
    newest = checkpoint_folders(starts[4].run)[-1]
    assert len(list(newest.glob("*.safetensors"))) == 2, "of two equal copies one is written"
    assert find_damage(newest) is None


def die_on_the_way(config_file: Path, rank: int, moment: str) -> None:
    """Go on with the run until this process, or the other, is killed."""
    if current_world().rank == rank:
        die_at(moment)
    with pytest.raises(TrainingError, match="lost contact"):
        train_stored(config_file, True)


def test_two_processes_killed_again_and_again(folder, together):
    """In a save and before an export (test_failures.py: in a step): the curve is that of a run never stopped."""
    config = replace(together, run=folder / "killed")
    save_json(config, folder / "killed.json")
    for rank, moment in (
        (0, "checkpoints.save_distributed before"),
        (0, "loop.export_model before"),
    ):
        expected = [-signal.SIGKILL if each == rank else 0 for each in range(2)]
        run_together(die_on_the_way, folder, folder / "killed.json", rank, moment, expected=expected)
    run_together(train_stored, folder, folder / "killed.json", True)
    assert numbers(config.run) == numbers(together.run)


def test_a_checkpoint_holds_every_tensor_whole(together):
    """Read by torch's own reader: as large as the model's, and equal to the exported weights."""
    folder = checkpoint_folders(together.run)[-1]
    assert len(list(folder.glob("*.safetensors"))) == 2
    tensors = {name: torch.zeros_like(t, device="cpu") for name, t in stored_tensors(folder).items()}
    load_tensors(folder, tensors)
    model = GEM.from_pretrained(together.run / "model")
    for name, parameter in model.named_parameters():
        assert torch.equal(tensors[f"model.{name}"], parameter), name
    assert tensors["optimizer.connector.layers.0.weight.exp_avg"].abs().sum() > 0
    # Tied weights are one parameter on every process, and still tied in the export.
    qwen = model.backbone.qwen
    assert qwen.lm_head.weight is qwen.model.language_model.embed_tokens.weight
    assert "model.backbone.qwen.lm_head.weight" not in tensors


def compare_gradients(arguments: dict) -> None:
    """On each rank: the gradient of a sharded model equals that of a whole one over all ranks' batches."""
    world = current_world()
    stage = StageConfig(name="joint", steps=1, learning_rates=EVERYTHING, **arguments.get("stage", {}))
    per_rank = arguments["batches"]()
    model = build_micro()
    shard(model, world, device=torch.device("cpu"), dtype=torch.float32)
    freeze(model, stage)
    settle(model)
    mine = per_rank[world.rank]
    seeds = [world.rank * 10 + micro for micro in range(len(mine))]
    losses = gradient_of(model, stage, mine, seeds, world)
    found = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None}
    whole = build_micro()
    freeze(whole, stage)
    seeds = [rank * 10 + micro for rank, batches in enumerate(per_rank) for micro in range(len(batches))]
    expected = gradient_of(whole, stage, [batch for batches in per_rank for batch in batches], seeds, World())
    assert math.isclose(losses.total, expected.total, rel_tol=1e-5)
    assert losses.num_samples == expected.num_samples
    gradients = {n: p.grad for n, p in whole.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def gradient_of(model, stage, batches, seeds, world):
    return accumulate_gradient(
        model,
        batches,
        stage=stage,
        seeds=seeds,
        device=torch.device("cpu"),
        dtype=torch.float32,
        world=world,
        clock=Clock(),
    )


def uneven_depth():
    """Rank 0 has maps of two sizes, rank 1 has none in its first pass and no image at all in its second."""
    two_sizes = random_batch(2, image_sizes=((32, 32), (32, 48)), depth_sizes=[(32, 32), (32, 48)])
    none = random_batch(2, seed=5, depth_sizes=[None])
    no_image = random_batch(1, seed=7, image_sizes=(), depth_sizes=[])
    return [[two_sizes, random_batch(1, seed=3)], [none, no_image]]


def uneven_rows():
    """Rank 0 has four rows, rank 1 one row whose draws must not be shifted by what is added to it."""
    long = collate_rows(
        [random_sample(seed=n, num_turns=2, depth_sizes=[(32, 32)] if n % 2 else None) for n in range(4)]
    )
    short = collate_rows([random_sample(seed=9)])
    return [[long], [short]]


def collate_rows(samples):
    return collate(
        samples, pad_id=0, depth_placeholder=random_batch(1, depth_sizes=[None]).depth[0], row_tokens=16
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"batches": uneven_depth, "stage": {"accumulation": 2}},
        {"batches": uneven_depth, "stage": {"accumulation": 2, "accumulate_whole": False}},
        {"batches": uneven_rows, "stage": {"row_tokens": 16}},
    ],
    ids=["depth", "depth-reduced-each-pass", "rows"],
)
def test_ranks_with_other_modules_to_run_neither_hang_nor_differ(folder, arguments):
    run_together(compare_gradients, folder, arguments)


class TappedLoss(torch.nn.Module):
    """A loss on the keys and values of two layers alone, as an action expert has it."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, batch):
        backbone, tap = self.backbone, KeyValueTap(layers=(0, 2))
        embeddings, deepstack, positions = backbone.embed(batch.input_ids, batch.patches, batch.image_grid)
        hidden = backbone.run_layers(
            embeddings, batch.position_ids, deepstack=deepstack, image_positions=positions, cache=tap
        )
        loss = sum((keys**2).sum() + (values**3).sum() for keys, values in tap.keys_values.values())
        return keep_reachable(loss, hidden)


def tapped_gradients() -> None:
    """Traps 2 and 3: sharded, with and without activation checkpointing, gradients equal a whole model's."""
    world = current_world()
    batches = [random_batch(1, seed=rank) for rank in range(world.size)]
    expected = TappedLoss(build_micro().backbone)
    sum(expected(batch) for batch in batches).backward()
    gradients = {name: p.grad for name, p in expected.named_parameters() if p.grad is not None}
    for checkpointing in ("none", "full"):
        model = build_micro()
        shard(model, world, device=torch.device("cpu"), dtype=torch.float32)
        model.backbone.checkpointing = checkpointing
        tapped = TappedLoss(model.backbone)
        model.tapped = tapped.forward
        register_fsdp_forward_method(model, "tapped")
        model.tapped(batches[world.rank]).backward()
        found = {name: p.grad.full_tensor() for name, p in tapped.named_parameters() if p.grad is not None}
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_loss_on_keys_and_values_alone(folder):
    run_together(tapped_gradients, folder)


def test_gradients_are_kept_until_the_last_pass(folder):
    run_together(count_reductions, folder)


def count_reductions() -> None:
    """Communication of gradients: once a step, or with every pass."""
    world = current_world()
    model = build_micro()
    shard(model, world, device=torch.device("cpu"), dtype=torch.float32)
    name = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
    original, calls = getattr(dist, name), []

    def counted(*arguments, **options):
        calls.append(1)
        return original(*arguments, **options)

    setattr(dist, name, counted)
    counts = {}
    for whole in (True, False):
        stage = StageConfig(
            name="joint", steps=1, learning_rates=EVERYTHING, accumulation=3, accumulate_whole=whole
        )
        freeze(model, stage)
        batches = [random_batch(1, seed=n) for n in range(3)]
        calls.clear()
        gradient_of(model, stage, batches, [0, 1, 2], world)
        counts[whole] = len(calls)
    assert counts[True] > 0
    assert counts[False] == 3 * counts[True], counts
