"""One optimizer step's gradient: forward and backward over its micro-batches, normalised globally."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from egem.batch import IGNORE_LABEL, Batch, Losses
from egem.models.depth_codec import target_weight
from egem.models.flow_matching import Draws
from egem.models.gem import GEM
from egem.models.gem_vla import GEMVLA
from egem.training.config import StageConfig, TrainConfig, kinds_of_batches, num_micro_batches
from egem.training.distributed import World, sum_over_ranks
from egem.training.passes import Pass, even_passes
from egem.training.sharding import sync_gradients


@dataclass(kw_only=True)
class Clock:
    """Seconds spent in each part of a step."""

    seconds: dict[str, float] = field(default_factory=dict)
    begins: Callable[[str], None] | None = None
    """Told the name of each part as it begins."""

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the block's wall time to `name`."""
        if self.begins is not None:
            self.begins(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """A step's losses over all processes, and what it was computed from here."""

    total: float
    """The weighted sum that was differentiated."""
    language: float | None
    """Cross entropy per supervised token; None if not computed or without a token."""
    depth: float | None
    """Flow-matching loss per depth map; None if not computed or without a map."""
    action: float | None
    """Flow-matching loss per action; None if not computed or without an action."""
    num_tokens: int
    """Tokens of all processes' samples, padding excluded."""
    num_samples: int
    """Samples of all processes; what stands in where nothing is read counts neither here nor there."""
    num_left_out: int
    """Depth maps and turns of all processes' samples that could not be used."""
    finite_here: bool
    """Whether this process's share of the sums is finite."""


def draw_seed(seed: int, stage: str, step: int, index: int) -> int:
    """Seed of one forward pass: nothing that happened before it matters.

    Args:
        seed: of the run.
        stage: its name.
        step: of the stage.
        index: which forward pass of the step, counted over all processes.
    """
    text = f"{seed}/{stage}/{step}/{index}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def step_seeds(config: TrainConfig, stage: StageConfig, step: int, world: World) -> list[int]:
    """A seed for each of this process's micro-batches in a step of a stage.

    Places are counted within each kind of batch, so that the same samples get the same seed however many processes
    share them.
    """
    kinds, seeds = kinds_of_batches(config, stage), []
    for micro in range(num_micro_batches(config, stage)):
        place = micro // kinds * world.size + world.rank
        seeds.append(draw_seed(config.seed, stage.name, step, place * kinds + micro % kinds))
    return seeds


def count_targets(model: GEM, batch: Batch) -> tuple[int, int, int]:
    """Supervised tokens, depth maps with a reading and actions: the counts that the model's `Losses` will state.

    They are needed before the first backward pass of a step, so that each sum can be divided by the count of
    the whole step.
    """
    supervised = batch.labels[:, 1:] != IGNORE_LABEL
    same_segment = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    num_maps = 0
    for targets in batch.depth:
        readable = target_weight(model.depth_codec, targets).flatten(1).any(dim=1)
        num_maps += int((readable & (targets.weight > 0)).sum())
    num_actions = 0 if batch.actions is None else int(batch.actions.valid.sum())
    return int((supervised & same_segment).sum()), num_maps, num_actions


def accumulate_gradient(
    model: GEM,
    batches: Sequence[Batch],
    *,
    stage: StageConfig,
    seeds: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    world: World,
    clock: Clock,
) -> StepLosses:
    """Add the gradient of the step's loss to the parameters' `.grad` (this process's part of it).

    The loss is `language_weight * sum of language / tokens + depth_weight * sum of depth / maps + action_weight * sum
    of action / actions`, with sums and counts over all micro-batches of all processes, so how a batch is cut up never
    changes it. Language is learnt from records and actions from robot episodes: a batch has one of the two.

    Args:
        model: in the mode its stage needs.
        batches: this process's micro-batches, at least one.
        stage: its weights; a weight of 0 leaves that loss out altogether.
        seeds: one per micro-batch.
        device: where the model is.
        dtype: of the computation; below float32 it runs under autocast.
        world: for the global counts.
        clock: gets "forward" and "backward".
    """
    language, depth, action = stage.language_weight > 0, stage.depth_weight > 0, stage.action_weight > 0
    counts = torch.tensor([count_targets(model, batch) for batch in batches], dtype=torch.float64).sum(0)
    # An idle batch (past an epoch's end, or unreadable) is of no record.
    read = [batch for batch in batches if batch.record_ids]
    num_tokens = sum(int((batch.segment_ids > 0).sum()) for batch in read)
    num_samples = sum(int(batch.segment_ids.amax(dim=1).sum()) for batch in read)
    sizes = [float(num_tokens), float(num_samples), float(sum(batch.left_out for batch in batches))]
    totals = sum_over_ranks(torch.cat([counts, torch.tensor(sizes, dtype=torch.float64)]), world).tolist()
    language_scale = stage.language_weight / max(1.0, totals[0]) if language else 0.0
    depth_scale = stage.depth_weight / max(1.0, totals[1]) if depth else 0.0
    action_scale = stage.action_weight / max(1.0, totals[2]) if action else 0.0

    passes = even_passes(
        [batch.rows() if stage.row_tokens is not None else (batch,) for batch in batches], world
    )
    # Stays on the device until all passes are under way: reading it would wait for them.
    found = torch.zeros(6, dtype=torch.float64, device=device)
    for number, each in enumerate(passes):
        if each.begins_batch:
            # The global generator too: a layer that draws from it (dropout) must not depend on the past.
            torch.manual_seed(seeds[each.batch_index])
            generator = torch.Generator().manual_seed(seeds[each.batch_index])
        with clock.time("forward"):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                losses = _losses(model, each, generator, device, stage)
            loss = language_scale * losses.language_sum + depth_scale * losses.depth_sum
            if each.batch.actions is not None:
                loss = loss + action_scale * losses.action_sum
        with clock.time("backward"):
            sync_gradients(model, number + 1 == len(passes) or not stage.accumulate_whole)
            if loss.requires_grad:
                loss.backward()
        values = (losses.language_sum, losses.depth_sum, losses.action_sum)
        numbers = (losses.language_count, losses.depth_count, losses.action_count)
        found += torch.stack([value.detach().double() for value in (*values, *numbers)])
    sums, seen = found.cpu().split(3)
    expected = counts * torch.tensor([language, depth, action])
    if not torch.equal(seen, expected):
        raise RuntimeError(f"the model counted {seen.tolist()} targets, {expected.tolist()} were announced.")
    finite_here = bool(sums.isfinite().all())
    sum_over_ranks(sums, world)
    return StepLosses(
        total=float(sums[0]) * language_scale + float(sums[1]) * depth_scale + float(sums[2]) * action_scale,
        language=_mean(float(sums[0]), totals[0]) if language else None,
        depth=_mean(float(sums[1]), totals[1]) if depth else None,
        action=_mean(float(sums[2]), totals[2]) if action else None,
        num_tokens=int(totals[3]),
        num_samples=int(totals[4]),
        num_left_out=int(totals[5]),
        finite_here=finite_here,
    )


def _losses(
    model: GEM, each: Pass, generator: torch.Generator, device: torch.device, stage: StageConfig
) -> Losses:
    """What a pass asks of the model: actions of robot episodes, language of records, depth of both."""
    batch, robot = each.batch.to(device), each.batch.actions is not None
    language, depth = stage.language_weight > 0 and not robot, stage.depth_weight > 0
    draws = _draws(model, each, generator, device) if depth else None
    if isinstance(model, GEMVLA):
        return model(
            batch,
            language=language,
            depth=depth,
            action=stage.action_weight > 0 and robot,
            action_draws=stage.action_draws,
            generator=generator,
            draws=draws,
        )
    return model(batch, language=language, depth=depth, generator=generator, draws=draws)


def _draws(
    model: GEM, each: Pass, generator: torch.Generator, device: torch.device
) -> tuple[Draws, ...] | None:
    """The random numbers of a pass with added maps, so that those shift nobody else's; None lets the model draw."""
    if each.num_own_maps == len(each.batch.depth):
        return None
    own, added = each.batch.depth[: each.num_own_maps], each.batch.depth[each.num_own_maps :]
    return (
        *model.draws(own, generator=generator, device=device),
        *model.draws(added, generator=torch.Generator().manual_seed(0), device=device),
    )


def _mean(total: float, count: float) -> float | None:
    return total / count if count > 0 else None
