"""`egem bench train`: our joint step, the same without the depth head, and the straightforward loop, in one run."""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from egem.batch import Batch
from egem.benchmarking.baseline import DEPTH_WEIGHT, Baseline
from egem.benchmarking.flops import TRAINING_PASSES, Flops, forward_flops
from egem.benchmarking.machine import forget_peak, machine_name, peak_memory_gb, peak_tflops
from egem.benchmarking.parts import clock_of, parts_timed
from egem.benchmarking.workload import preset_to_time, write_checkpoint, write_records
from egem.core.errors import ConfigError
from egem.core.machine import commit
from egem.data.latents import LatentRecipe, open_latents
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.device import compute_dtype, device_of
from egem.models.blocks import Checkpointing
from egem.models.presets import build
from egem.recipes.latents import LatentsConfig, annotate_latents
from egem.shards import RecordGroups
from egem.training.config import StageConfig, TrainConfig
from egem.training.distributed import World
from egem.training.host import keep_freed_memory
from egem.training.model_options import apply_model_options
from egem.training.optimizer import freeze, gradient_norm, make_optimizer, trained_parameters
from egem.training.step import Clock, accumulate_gradient, draw_seed

Loop = Literal["joint", "language", "baseline"]

_WARM_UP = 2
_SHARED_MODULES = {"backbone": 1e-4, "connector": 1e-4, "depth_head": 1e-4}


@dataclass(frozen=True, kw_only=True)
class BenchTrainConfig:
    """Time training against a straightforward Hugging Face loop at the same sizes, weights random."""

    preset: str = "tiny"
    """Sizes of the model."""
    image_size: int | None = None
    """Pixels a side; 128 for `tiny` and 448 for the others if not given."""
    batch_size: int = 16
    """Samples a step."""
    max_turns: int = 16
    """Questions about one image at most; their number is mixed."""
    row_tokens: int | None = None
    """Tokens of one forward pass at most; see `egem train`."""
    steps: int = 8
    """Timed steps of a round; the baseline does a quarter of them."""
    rounds: int = 3
    """In each round all loops run in turn; ratios are taken within rounds."""
    baseline: bool = True
    """Also run the straightforward loop."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation; weights are float32. `auto` takes bfloat16 where the processor has it."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`."""
    workers: int = 1
    """Processes that prepare our batches."""
    compile_blocks: bool = False
    """As in `egem train`."""
    activation_checkpointing: Checkpointing = "none"
    """As in `egem train`."""
    cached_latents: bool = False
    """Compute depth latents before, as `egem data annotate latents` does; the baseline encodes in each step anyway."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """As in `egem train`."""
    peak_tflops: float | None = None
    """What the device can do at best; from a table or measured if not given."""

    def __post_init__(self) -> None:
        """Refuse numbers that time nothing.

        Raises:
            ConfigError: names the field.
        """
        for name in ("image_size", "batch_size", "max_turns", "row_tokens", "steps", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One loop in one round."""

    samples_per_second: float
    tokens_per_second: float
    images_per_second: float
    step_seconds: float
    peak_memory_gb: float | None
    """Of the GPU, or of this process in CPU memory."""
    tflops_per_second: float | None = None
    """Counted as in `flops`, with `TRAINING_PASSES`."""
    text_tflops_per_second: float | None = None
    """Text layers and output layer alone."""
    loader_wait: float | None = None
    """Share of the time in which the step waited for its batch."""
    shares: dict[str, float] = field(default_factory=dict)
    """Share of a step's time by part, from steps of their own."""


def bench_train(config: BenchTrainConfig) -> dict[str, Any]:
    """Time the loops; returns what `table` shows and JSON can hold.

    Raises:
        ConfigError: no such preset or device.
    """
    preset, device = preset_to_time(config.preset), device_of(config.device)
    native = compute_dtype(config.dtype, device) == torch.bfloat16
    config = replace(config, dtype="bfloat16" if native else "float32")
    size = config.image_size or (128 if config.preset == "tiny" else 448)
    keep_freed_memory()
    loops: list[Loop] = ["joint", "language", *(["baseline"] if config.baseline else [])]
    with tempfile.TemporaryDirectory(prefix="egem-bench-") as temporary:
        folder = Path(temporary)
        write_records(
            folder / "data", num_images=6 * config.batch_size, size=size, max_turns=config.max_turns
        )
        write_checkpoint(folder / "checkpoint", preset, size)
        if config.cached_latents:
            annotate_latents(
                LatentsConfig(data=folder / "data", checkpoint=folder / "checkpoint", device=str(device))
            )
        rounds: list[dict[Loop, Timing]] = [
            {
                loop: _baseline(config, folder, device)
                if loop == "baseline"
                else _ours(config, folder, device, depth=loop == "joint")
                for loop in loops
            }
            for _ in range(config.rounds)
        ]
    peak, source = (
        peak_tflops(device, config.dtype) if config.peak_tflops is None else (config.peak_tflops, "given")
    )
    return _summary(config, rounds, peak, source, device) | {"image_size": size}


def _ours(config: BenchTrainConfig, folder: Path, device: torch.device, *, depth: bool) -> Timing:
    preset = preset_to_time(config.preset)
    stage = StageConfig(
        name="joint",
        learning_rates=_SHARED_MODULES,
        steps=1,
        batch_size=config.batch_size,
        row_tokens=config.row_tokens,
        max_turns=config.max_turns,
        depth_weight=DEPTH_WEIGHT if depth else 0.0,
    )
    run = TrainConfig(
        run=folder,
        data=(folder / "data",),
        stages=(stage,),
        dtype=config.dtype,
        compile_blocks=config.compile_blocks,
        activation_checkpointing=config.activation_checkpointing,
        optimizer=config.optimizer,
    )
    model = build(preset, device=device)
    apply_model_options(model, run, World())
    freeze(model, stage)
    optimizer = make_optimizer(model, stage, run)
    parameters = trained_parameters(model)
    groups = RecordGroups([folder / "data"])
    preparer = Preparer.from_checkpoint(folder / "checkpoint")
    recipe = LatentRecipe.from_checkpoint(folder / "checkpoint", preparer)
    latents = open_latents(groups, recipe, "required" if config.cached_latents else "off")
    profiled = max(1, config.steps // 4)
    loaded = batches(
        groups,
        preparer,
        ReadingOrder(len(groups), seed=0),
        batch_size=config.batch_size,
        num_steps=_WARM_UP + config.steps + profiled,
        workers=config.workers,
        max_turns=config.max_turns,
        row_tokens=config.row_tokens,
        with_depth=depth,
        latents=latents,
    )
    now = clock_of(device)

    def gradient(parts: list[Batch], stage: StageConfig, step: int, clock: Clock) -> None:
        accumulate_gradient(
            model,
            parts,
            stage=stage,
            seeds=[draw_seed(0, "joint", step, 0)],
            device=device,
            dtype=getattr(torch, config.dtype),
            world=World(),
            clock=clock,
        )

    def update() -> None:
        torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, gradient_norm(parameters))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    clock, start = Clock(), now()
    done: list[Batch] = []
    for step in range(_WARM_UP + config.steps):
        if step == _WARM_UP:
            clock, done = Clock(), []
            forget_peak(device)
            start = now()
        with clock.time("loader"):
            batch = next(loaded)
        gradient([batch], stage, step, clock)
        update()
        done.append(replace(batch, patches=batch.patches[:0]))
    seconds = now() - start
    peak = peak_memory_gb(device)
    seen = sum((forward_flops(model, batch, depth=depth) for batch in done), Flops())

    # One pass each, because the borders between parts are those of one backward pass.
    shares: dict[str, float] = {}
    start = now()
    for step in range(profiled):
        begin = now()
        batch = next(loaded).rows()[0] if config.row_tokens is not None else next(loaded)
        shares["loader"] = shares.get("loader", 0.0) + now() - begin
        with parts_timed(model, shares, now):
            gradient([batch], replace(stage, row_tokens=None), step, Clock())
        begin = now()
        update()
        shares["optimizer"] = shares.get("optimizer", 0.0) + now() - begin
    whole = now() - start
    shares["other"] = whole - sum(shares.values())
    return Timing(
        samples_per_second=config.steps * config.batch_size / seconds,
        tokens_per_second=sum(int((batch.segment_ids > 0).sum()) for batch in done) / seconds,
        images_per_second=sum(len(batch.image_grid) for batch in done) / seconds,
        step_seconds=seconds / config.steps,
        peak_memory_gb=peak,
        tflops_per_second=TRAINING_PASSES * seen.total / seconds / 1e12,
        text_tflops_per_second=TRAINING_PASSES * seen.text / seconds / 1e12,
        loader_wait=clock.seconds["loader"] / seconds,
        shares={name: value / whole for name, value in shares.items()},
    )


def _baseline(config: BenchTrainConfig, folder: Path, device: torch.device) -> Timing:
    preset = preset_to_time(config.preset)
    loop = Baseline(preset, folder / "checkpoint" / "backbone", device)
    groups = RecordGroups([folder / "data"])
    order = ReadingOrder(len(groups), seed=0)
    steps = max(1, config.steps // 4)
    now = clock_of(device)
    tokens, start = 0, now()
    for step in range(-1, steps):
        if step == 0:
            forget_peak(device)
            tokens, start = 0, now()
        chosen = [groups[group] for group in order.groups(step + 1, config.batch_size)]
        tokens += loop.step(chosen, getattr(torch, config.dtype))
    seconds = now() - start
    return Timing(
        samples_per_second=steps * config.batch_size / seconds,
        tokens_per_second=tokens / seconds,
        images_per_second=steps * config.batch_size / seconds,
        step_seconds=seconds / steps,
        peak_memory_gb=peak_memory_gb(device),
    )


def _summary(
    config: BenchTrainConfig,
    rounds: Sequence[dict[Loop, Timing]],
    peak: float,
    peak_source: str,
    device: torch.device,
) -> dict[str, Any]:
    """Medians over rounds, ratios within rounds, and what it ran on."""
    loops = {loop: _median([each[loop] for each in rounds]) for loop in rounds[0]}
    for values in loops.values():
        for name, of in (("mfu", "tflops_per_second"), ("mfu_text_only", "text_tflops_per_second")):
            if values.get(of) is not None:
                values[name] = values[of] / peak
    ratios = {}
    if config.baseline:
        found = [each["joint"].samples_per_second / each["baseline"].samples_per_second for each in rounds]
        ratios["speedup_over_baseline"] = {"median": statistics.median(found), "rounds": found}
    found = [each["joint"].step_seconds / each["language"].step_seconds - 1 for each in rounds]
    ratios["extra_time_of_depth_branch"] = {"median": statistics.median(found), "rounds": found}
    return {
        **ratios,
        "loops": loops,
        "peak_tflops": peak,
        "peak_tflops_source": peak_source,
        "machine": machine_name(device),
        "commit": commit(),
        "config": asdict(config),
    }


def _median(timings: Sequence[Timing]) -> dict[str, Any]:
    rows = [asdict(timing) for timing in timings]
    values: dict[str, Any] = {
        name: statistics.median(row[name] for row in rows)
        for name, value in rows[0].items()
        if isinstance(value, float)
    }
    shares = {
        name: statistics.median(row["shares"].get(name, 0.0) for row in rows) for name in rows[0]["shares"]
    }
    return values | {"shares": shares}


_ROWS: tuple[tuple[str, str, float, str], ...] = (
    ("samples/s", "samples_per_second", 1.0, ".2f"),
    ("tokens/s", "tokens_per_second", 1.0, ",.0f"),
    ("images/s", "images_per_second", 1.0, ".2f"),
    ("seconds a step", "step_seconds", 1.0, ".3f"),
    ("TFLOP/s", "tflops_per_second", 1.0, ".3f"),
    ("MFU, text layers only (%)", "mfu_text_only", 100.0, ".1f"),
    ("MFU, all that is trained (%)", "mfu", 100.0, ".1f"),
    ("peak memory (GB)", "peak_memory_gb", 1.0, ".2f"),
    ("waiting for the loader (%)", "loader_wait", 100.0, ".1f"),
)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    loops: dict[str, dict[str, Any]] = result["loops"]

    def line(title: str, cells: Sequence[str]) -> str:
        return f"| {title} | {' | '.join(cells)} |"

    def cell(values: dict[str, Any], name: str, scale: float, form: str) -> str:
        value = values.get(name)
        return "" if value is None else format(value * scale, form)

    lines = [line("", list(loops)), "|---" * (len(loops) + 1) + "|"]
    lines += [
        line(title, [cell(values, name, scale, form) for values in loops.values()])
        for title, name, scale, form in _ROWS
    ]
    parts = list(dict.fromkeys(part for values in loops.values() for part in values["shares"]))
    lines += [
        line(f"share of {part} (%)", [cell(v["shares"], part, 100.0, ".1f") for v in loops.values()])
        for part in parts
    ]
    for name, text in (
        ("speedup_over_baseline", "samples/s of joint over baseline"),
        ("extra_time_of_depth_branch", "extra time of the depth branch"),
    ):
        if name in result:
            values = ", ".join(f"{value:.2f}" for value in result[name]["rounds"])
            lines.append(f"\n{text}: {result[name]['median']:.2f} (rounds: {values})")
    lines.append(
        f"\n{result['machine']}; peak {result['peak_tflops']:.2f} TFLOP/s ({result['peak_tflops_source']})"
    )
    return "\n".join(lines)
