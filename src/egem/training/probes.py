"""Probes: what is measured on the model now and then while it trains.

A recipe hands them to `train`. Their numbers join the metrics of the step they ran after.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from egem.core.errors import ConfigError
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.models.gem import GEM
from egem.shards import RecordGroups
from egem.training.distributed import World, failing_together
from egem.training.sharding import free_gathered

ProbeFunction = Callable[[GEM, Preparer, int, Path], dict[str, float]]
"""(model in evaluation mode, its preparer, steps finished, folder for pictures) -> finite numbers by name."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Something to measure every so many steps."""

    name: str
    """Prefix of its metrics, and its folder's name below `probes/` in the run folder."""
    every: int
    """Steps between two measurements; one is also made at the end of each stage."""
    run: ProbeFunction
    """Called without gradients. It may draw from torch's global generator: every training step seeds it anew."""
    stages: tuple[str, ...] | None = None
    """Names of the stages in which it runs; None for all."""

    def __post_init__(self) -> None:
        """Refuse an interval that never comes.

        Raises:
            ConfigError: `every` is below 1.
        """
        if self.every < 1:
            raise ConfigError(f"probe '{self.name}': every {self.every} must be at least 1.")


def run_probes(
    probes: Sequence[Probe],
    model: GEM,
    preparer: Preparer,
    *,
    step: int,
    stage: str,
    is_last: bool,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    world: World = World(),  # noqa: B008 - frozen
) -> dict[str, float]:
    """The numbers of the probes that are due, named `<probe>/<number>`.

    With several processes each runs all of them alike, because a sharded model is run by all together; what the
    first one writes is kept.

    Args:
        probes: all of the run.
        model: left in the mode it was in.
        preparer: of its checkpoint.
        step: steps finished in the run.
        stage: current stage.
        is_last: whether this was the stage's last step.
        folder: of the run.
        dtype: of the computation; below float32 it runs under autocast, as training does.
        world: all processes.
    """
    values: dict[str, float] = {}
    for probe in probes:
        if probe.stages is not None and stage not in probe.stages:
            continue
        if step % probe.every and not is_last:
            continue
        with (
            failing_together(world),
            evaluation_mode(model),
            torch.no_grad(),
            torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32),
            _place(folder, probe, world) as place,
        ):
            found = probe.run(model, preparer, step, place)
        free_gathered(model)
        values.update({f"{probe.name}/{name}": float(value) for name, value in found.items()})
    return values


@contextmanager
def _place(folder: Path, probe: Probe, world: World) -> Iterator[Path]:
    """Where a probe may write; of all processes but the first, it is thrown away."""
    if not world.is_first:
        with tempfile.TemporaryDirectory(prefix="egem-probe-") as place:
            yield Path(place)
        return
    place = folder / "probes" / probe.name
    place.mkdir(parents=True, exist_ok=True)
    yield place


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every submodule is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def held_out_losses(
    folders: Sequence[Path],
    *,
    every: int,
    num_groups: int = 64,
    batch_size: int = 16,
    max_turns: int | None = None,
    seed: int = 0,
    name: str = "held_out",
) -> Probe:
    """Language loss per token and flow-matching loss per map on records that are not trained on.

    The same groups, turns, noise and times each time, so that only the model moves the curve. Conditions are
    not dropped.

    Args:
        folders: of held-out records.
        every: see `Probe`.
        num_groups: groups to measure on, spread evenly over the data; rounded down to whole batches.
        batch_size: groups in one forward pass.
        max_turns: turns of each group; None for all.
        seed: of the noise and times.
        name: see `Probe`.
    """
    groups = RecordGroups(folders)
    batch_size = min(batch_size, num_groups, len(groups))
    num_batches = min(num_groups, len(groups)) // batch_size
    num_groups = num_batches * batch_size
    chosen = [index * len(groups) // num_groups for index in range(num_groups)]
    order = ReadingOrder(len(groups), seed, shuffle=False, subset=chosen)

    def measure(model: GEM, preparer: Preparer, step: int, folder: Path) -> dict[str, float]:
        sums = torch.zeros(4, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        for batch in batches(
            groups,
            preparer,
            order,
            batch_size=batch_size,
            num_steps=num_batches,
            workers=0,
            max_turns=max_turns,
        ):
            losses = model(batch.to(model.device), generator=generator)
            found = (losses.language_sum, losses.language_count, losses.depth_sum, losses.depth_count)
            sums += torch.stack([value.detach().double().cpu() for value in found])
        values = {}
        if sums[1] > 0:
            values["language"] = float(sums[0] / sums[1])
        if sums[3] > 0:
            values["depth"] = float(sums[2] / sums[3])
        return values

    return Probe(name=name, every=every, run=measure)
