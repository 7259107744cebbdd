"""What reading costs: samples a second of one core by part, and opening a million rows at an exact record.

The pictures are JPEGs of 640 x 480 with four questions each, brought to a long side of 448 pixels, with stored
depth latents of the released size. One's own records and checkpoint can be given instead.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from egem.benchmarking.pictures import preparer_at_448, recipe_at_448, write_many_rows, write_pictures
from egem.core.errors import ConfigError
from egem.data.collate import collate
from egem.data.images import patchify
from egem.data.latents import DepthLatents, LatentRecipe, open_latents
from egem.data.loader import batches, depth_placeholder
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.media import decode_image
from egem.shards import RecordGroups
from egem.training.host import keep_freed_memory

PARTS = ("read records", "depth", "decode", "resize and cut", "tokenise", "collate")


@dataclass(frozen=True, kw_only=True)
class BenchDataConfig:
    """What is read."""

    data: Path | None = None
    """Folder of records to read instead of made ones; with `checkpoint`."""
    checkpoint: Path | None = None
    """Checkpoint to prepare them for."""
    num_pictures: int = 256
    """Pictures to make."""
    num_samples: int = 512
    """Samples to read in each measurement."""
    batch_size: int = 16
    """Samples of a batch."""
    rows: int = 1_000_000
    """Rows of the set that is opened and resumed; 0 leaves this out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: names the option.
        """
        if (self.data is None) != (self.checkpoint is None):
            raise ConfigError("data and checkpoint belong together: give both, or neither.")
        for name in ("num_pictures", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1.")


def bench_data(config: BenchDataConfig) -> dict[str, Any]:
    """Measure; the result is JSON.

    Seconds are those of the processor, so that other work on the machine does not count; `wall` is the clock's.

    Raises:
        RecordError: the given records cannot be read.
        CheckpointError: the given checkpoint cannot be read.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        with tempfile.TemporaryDirectory(prefix="egem-bench-") as folder:
            if config.data is not None and config.checkpoint is not None:
                data, preparer = config.data, Preparer.from_checkpoint(config.checkpoint, fast_resize=True)
                recipe = LatentRecipe.from_checkpoint(config.checkpoint, preparer)
            else:
                data, preparer, recipe = Path(folder) / "pictures", preparer_at_448(), recipe_at_448()
                write_pictures(data, num_pictures=config.num_pictures)
            groups = RecordGroups([data])
            latents = open_latents(groups, recipe, "auto")
            result = _throughput(config, groups, preparer, latents)
            if config.rows:
                result["resume"] = _resume(Path(folder) / "rows", config.rows)
            return result
    finally:
        torch.set_num_threads(threads)


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    parts = result["parts_ms"]
    lines = [f"{'part':<16}{'ms a sample':>12}{'share':>8}"]
    lines += [f"{name:<16}{ms:>12.2f}{ms / result['ms']:>8.0%}" for name, ms in parts.items()]
    lines.append(f"{'rest':<16}{result['ms'] - sum(parts.values()):>12.2f}")
    lines.append(f"{'all':<16}{result['ms']:>12.2f}")
    lines.append(
        f"\n{result['samples_per_core_second']:.0f} samples/s of a core ({result['samples_per_wall_second']:.0f} by "
        f"the clock), {result['images_per_sample']:.1f} images and {result['tokens_per_sample']:.0f} tokens a sample, "
        f"depth from {'latents' if result['stored_latents'] else 'depth maps'}"
    )
    if "resume" in result:
        resume = result["resume"]
        lines.append(
            f"{resume['rows']:,} rows: open in {resume['open_s']:.2f} s, the exact record of step "
            f"{resume['step']:,} after {resume['first_batch_s']:.2f} s"
        )
    return "\n".join(lines)


class _Stopwatch:
    """Processor seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[part] += time.process_time() - start


def _throughput(
    config: BenchDataConfig, groups: RecordGroups, preparer: Preparer, latents: DepthLatents | None
) -> dict[str, Any]:
    num_steps = -(-config.num_samples // config.batch_size)
    order = ReadingOrder(len(groups), 0)
    options = {"batch_size": config.batch_size, "workers": 0, "latents": latents}
    # The first batches pay for imports, tables and caches that all later ones share.
    for _ in batches(groups, preparer, order, start_step=num_steps, num_steps=2, **options):
        pass
    wall, processor = time.perf_counter(), time.process_time()
    tokens = images = 0
    for batch in batches(groups, preparer, order, num_steps=num_steps, **options):
        tokens += int((batch.segment_ids > 0).sum())
        images += len(batch.image_grid)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    num_samples = num_steps * config.batch_size
    watch = _Stopwatch()
    _by_part(watch, groups, preparer, latents, order, num_steps, config.batch_size)
    return {
        "samples_per_core_second": num_samples / processor,
        "samples_per_wall_second": num_samples / wall,
        "ms": processor / num_samples * 1e3,
        "parts_ms": {part: seconds / num_samples * 1e3 for part, seconds in watch.seconds.items()},
        "images_per_sample": images / num_samples,
        "tokens_per_sample": tokens / num_samples,
        "stored_latents": latents is not None,
        "num_samples": num_samples,
        "batch_size": config.batch_size,
    }


def _by_part(
    watch: _Stopwatch,
    groups: RecordGroups,
    preparer: Preparer,
    latents: DepthLatents | None,
    order: ReadingOrder,
    num_steps: int,
    batch_size: int,
) -> None:
    """What the loader does, each part timed by itself."""
    groups = groups.for_training(with_depth=latents is None)
    placeholder = depth_placeholder(preparer) if latents is None else latents.placeholder()
    for step in range(num_steps):
        samples = []
        for group in order.groups(step, batch_size):
            with watch("read records"):
                records = groups[group]
            with watch("decode"):
                pictures = [decode_image(file) for file in records[0].images]
            with watch("resize and cut"):
                for picture in pictures:
                    patchify(picture, preparer.images, fast_resize=preparer.fast_resize)
            with watch("depth"):
                sizes = [picture.shape[:2] for picture in pictures]
                maps = preparer.depth_maps(records, sizes) if latents is None else latents[group]
            with watch("tokenise"):
                samples.append(preparer.sample(records, depth_maps=maps))
        with watch("collate"):
            collate(samples, pad_id=preparer.tokenizer.pad_id, depth_placeholder=placeholder)
    # `sample` decoded and cut the pictures once more.
    watch.seconds["tokenise"] -= watch.seconds["decode"] + watch.seconds["resize and cut"]


def _resume(folder: Path, rows: int) -> dict[str, Any]:
    """Open a set of many small rows and read the batch of a step far inside."""
    write_many_rows(folder, rows)
    preparer, batch_size = preparer_at_448(), 8
    start = time.perf_counter()
    groups = RecordGroups([folder])
    opened = time.perf_counter() - start
    order = ReadingOrder(len(groups), 0)
    step = len(groups) // batch_size // 2
    batch = next(
        iter(batches(groups, preparer, order, batch_size=batch_size, start_step=step, num_steps=1, workers=0))
    )
    first = time.perf_counter() - start
    expected = [groups[group][0].group for group in order.groups(step, batch_size)]
    found = sorted({record_id.rsplit("/", 1)[0] for record_id in batch.record_ids})
    if found != sorted(set(expected)):
        raise RuntimeError(f"step {step} gave {found}, not {expected}.")
    return {"rows": rows, "groups": len(groups), "open_s": opened, "first_batch_s": first, "step": step}
