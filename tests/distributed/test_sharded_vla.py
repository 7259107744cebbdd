"""Two gloo processes: a sharded GEM-VLA's gradients, chunks and curve are those of a whole one."""

from dataclasses import replace

import torch
from tests.processes import run_together
from tests.tiny import random_sample
from tests.tiny_vla import STATE_DIM, build_micro_vla, robot_batch, robot_samples
from tests.training_runs import assert_close, micro_config, numbers, train_in_process, write_records

from egem.core.config import save_json
from egem.data.robot_data import EpisodeOptions
from egem.data_engine.episodes.lerobot_writer import write_lerobot
from egem.training.config import StageConfig
from egem.training.distributed import current_world
from egem.training.loop import train
from egem.training.model_options import checkpoint_activations
from egem.training.sharding import shard
from robot_episodes import episode


def test_gradients_and_chunks(tmp_path):
    run_together(check, tmp_path)


def check() -> None:
    """The action loss alone, which reaches the layers only through what is tapped, and with the depth loss."""
    world = current_world()
    batches = [robot_batch(robot_samples(1 + rank), seed=rank) for rank in range(world.size)]

    def total(model, rank, depth):
        losses = model(
            batches[rank], language=False, depth=depth, generator=torch.Generator().manual_seed(rank)
        )
        return losses.action_sum + (0.1 * losses.depth_sum if depth else 0.0)

    for conditioning, depth, checkpointing in (
        ("keys_values", False, "none"),
        ("keys_values", False, "full"),
        ("hidden_states", True, "full"),
    ):
        whole, sharded = build_micro_vla(conditioning), build_micro_vla(conditioning)
        sum(total(whole, rank, depth) for rank in range(world.size)).backward()
        shard(sharded, world, device=torch.device("cpu"), dtype=torch.float32)
        checkpoint_activations(sharded, checkpointing)  # pyright: ignore
        total(sharded, world.rank, depth).backward()
        expected = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
        found = {name: p.grad.full_tensor() for name, p in sharded.named_parameters() if p.grad is not None}
        assert sum("action_expert" in name for name in expected) > 30
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-4, atol=1e-5, msg=f"{conditioning} {name}"
            )
    # The last one projects hidden states by itself, block by block, once before all flow steps.
    sample, state = random_sample(prompt_only=True), torch.ones(1, STATE_DIM)
    drawn = [
        m.sample_actions([sample], state, generator=torch.Generator().manual_seed(0))
        for m in (whole, sharded)
    ]
    torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-4, atol=1e-5)


def test_learning_from_episodes_and_records_is_one_process_s(tmp_path):
    """Noise, times and turns of both kinds: two processes, then one that takes two batches of each a step."""
    write_lerobot((episode(seed, steps=8) for seed in range(2)), tmp_path / "demos")
    stage = StageConfig(
        name="together",
        learning_rates={"action_expert": 1e-3, "backbone": 1e-3, "depth_head": 1e-3},
        steps=2,
        batch_size=2,
        language_batch_size=1,
        language_weight=0.5,
        action_weight=1.0,
    )
    config = micro_config(
        tmp_path,
        run=tmp_path / "two",
        data=(tmp_path / "demos",),
        language_data=(write_records(tmp_path / "data", num_groups=4),),
        episodes=EpisodeOptions(horizon=4),
        stages=(stage,),
        checkpoint_every=100,
    )
    save_json(config, tmp_path / "two.json")
    run_together(train_in_process, tmp_path, tmp_path / "two.json", False)
    alone = replace(config, run=tmp_path / "one", stages=(replace(stage, accumulation=2),))
    train(alone)
    rows = numbers(config.run)
    assert rows[0]["data/samples"] == 2 * (2 + 1)
    assert_close(rows, numbers(alone.run), rel=1e-5)
