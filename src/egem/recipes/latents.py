"""Depth latents of a record folder, computed once: `egem data annotate latents`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm
from tyro.conf import OmitArgPrefixes

from egem.batch import DepthMap
from egem.core.errors import ConfigError, RecordError
from egem.data.latent_files import LatentLayout, LatentMap, LatentShard, LatentWriter
from egem.data.latents import CODEC_FOLDER, FOLDER, LatentManifest, LatentRecipe, find_written, write_manifest
from egem.data.prepare import Preparer
from egem.data_engine.engine import EngineConfig, open_engine
from egem.device import device_of
from egem.media import image_size
from egem.models.depth_codec import DepthCodec, load_codec
from egem.shards import RecordGroups

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """How depth latents are computed and stored."""

    data: Path
    """Folder of records on a local disk; the latents go into it."""
    checkpoint: Path
    """Checkpoint whose depth codec, depth encoding and image sizes are used (`egem init` makes one)."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored latents. `float16` halves them and changes a latent by at most 1 part in 2,000."""
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=lambda: EngineConfig(workers=1))
    """Who computes; each worker takes whole shards, so there are no parts of other sizes."""
    batch_size: int = 16
    """Maps that the codec encodes at once."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; several processes are spread over all GPUs."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the option.
        """
        if self.batch_size < 1:
            raise ConfigError(f"batch_size {self.batch_size} must be at least 1.")
        if self.engine.items_per_part:
            raise ConfigError(
                "items_per_part has no meaning here: latents are written shard by shard; leave it out."
            )


def annotate_latents(config: LatentsConfig) -> LatentManifest:
    """Compute what is missing of a folder's depth latents, shard by shard.

    Each shard's file appears whole; whatever a stopped run has finished is kept, and shards that have changed
    since are computed again. Training takes latents once all shards have them.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        RecordError: the records cannot be read, or lie behind an address.
    """
    groups = RecordGroups([config.data])
    if groups.places[0].is_remote:
        raise RecordError(f"{config.data}: latents are written beside the records; copy the folder first.")
    recipe = LatentRecipe.from_checkpoint(config.checkpoint, Preparer.from_checkpoint(config.checkpoint))
    # Opened here too, so that a checkpoint that cannot be read is one error and not one of each process.
    worker = _Worker.open(config, recipe, process=0)
    shards: dict[int, LatentShard] = {}
    for number, shard in enumerate(groups.shards):
        written = find_written(shard, recipe, config.dtype)
        if written is not None:
            shards[number] = written
    todo = [number for number in range(len(groups.shards)) if number not in shards]
    if shards:
        logger.info("%d of %d shards have their latents already", len(shards), len(groups.shards))
    with tqdm(total=len(todo), desc="latents", unit="shard", disable=None) as progress:
        for number, shard in _computed(worker, todo):
            shards[number] = shard
            progress.update()
            logger.info("%s: %d maps, %d groups unreadable", shard.shard, shard.maps, shard.unreadable)
    ordered = tuple(shards[number] for number in range(len(groups.shards)))
    manifest = LatentManifest(recipe=recipe, layout=worker.layout, shards=ordered)
    write_manifest(worker.folder, manifest)
    return manifest


def _computed(worker: "_Worker", todo: Sequence[int]) -> Iterator[tuple[int, LatentShard]]:
    """Numbers of shards with what was written, as they are done."""
    config = worker.config
    if config.engine.in_this_process or (config.engine.engine == "local" and len(todo) <= 1):
        yield from ((number, worker.compute(number)) for number in todo)
        return
    yield from open_engine(config.engine).map(_ShardLatents(config, worker.recipe), enumerate(todo))


class _ShardLatents:
    """What a process does: the latents of shards, with a codec that is opened once."""

    def __init__(self, config: LatentsConfig, recipe: LatentRecipe) -> None:
        self.config, self.recipe = config, recipe
        self.worker: _Worker | None = None

    def __call__(self, shard: tuple[int, int]) -> tuple[int, LatentShard]:
        place, number = shard
        torch.set_num_threads(1)
        if self.worker is None:
            # The place of its first shard decides which GPU a process has.
            self.worker = _Worker.open(self.config, self.recipe, process=place)
        return number, self.worker.compute(number)


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """What computes the latents of a shard."""

    config: LatentsConfig
    recipe: LatentRecipe
    layout: LatentLayout
    preparer: Preparer
    codec: DepthCodec
    groups: RecordGroups
    device: torch.device

    @classmethod
    def open(cls, config: LatentsConfig, recipe: LatentRecipe, *, process: int) -> "_Worker":
        codec = load_codec(config.checkpoint / CODEC_FOLDER)
        side = recipe.depth.multiple
        weight = codec.latent_weight(torch.ones(1, side, side, dtype=torch.bool))
        return cls(
            config=config,
            recipe=recipe,
            layout=LatentLayout(
                channels=codec.latent_channels,
                factor=codec.factor,
                weight_channels=weight.shape[1],
                dtype=config.dtype,
            ),
            preparer=Preparer.from_checkpoint(config.checkpoint),
            codec=codec,
            groups=RecordGroups([config.data]),
            device=_device(config.device, process),
        )

    @property
    def folder(self) -> Path:
        return self.config.data / FOLDER / self.recipe.key

    def compute(self, number: int) -> LatentShard:
        """Compute and write the latents of one shard."""
        shard = self.groups.shards[number]
        results: list[list[LatentMap] | str] = []
        waiting: dict[torch.Size, list[tuple[int, DepthMap]]] = {}
        for group in range(shard.num_groups):
            try:
                maps = self._maps(shard.first_group + group)
            except RecordError as error:
                results.append(str(error))
                continue
            results.append([])
            for depth in maps:
                members = waiting.setdefault(depth.valid.shape, [])
                members.append((group, depth))
                if len(members) >= self.config.batch_size:
                    self._encode(waiting.pop(depth.valid.shape), results)
        for members in waiting.values():
            self._encode(members, results)
        writer = LatentWriter(layout=self.layout, recipe_key=self.recipe.key, shard=shard)
        for result in results:
            if isinstance(result, str):
                writer.add_unreadable(result)
            else:
                writer.add(sorted(result, key=lambda each: each.image_index))
        return writer.write(self.folder)

    def _maps(self, group: int) -> tuple[DepthMap, ...]:
        records = self.groups[group]
        if not any(any(record.depths) for record in records):
            return ()
        where = f"record '{records[0].id}'"
        sizes = [image_size(image, where=where) for image in records[0].images]
        return self.preparer.depth_maps(records, sizes)

    def _encode(
        self, members: Sequence[tuple[int, DepthMap]], results: Sequence[list[LatentMap] | str]
    ) -> None:
        """Encode maps of one size and put each where it belongs."""
        pixels = torch.stack([depth.pixels for _, depth in members if depth.pixels is not None])
        valid = torch.stack([depth.valid for _, depth in members])
        with torch.inference_mode():
            latents = self.codec.encode(pixels.to(self.device)).float().cpu().numpy()
            weight = self.codec.latent_weight(valid)
        if not bool(((weight == 0) | (weight == 1)).all()):
            raise RuntimeError("latents are stored with weights of 0 and 1; this codec has others.")
        for (group, depth), values, mask in zip(members, latents, weight.bool().numpy(), strict=True):
            found = results[group]
            assert isinstance(found, list)
            found.append(LatentMap(image_index=depth.image_index, latents=values, valid=mask))


def _device(name: str, process: int) -> torch.device:
    if name == "auto" and torch.cuda.is_available():
        return torch.device("cuda", process % torch.cuda.device_count())
    return device_of(name)
