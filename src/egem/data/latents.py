"""Depth latents computed once and kept beside the records, so that training needs neither codec nor depth maps.

```
records/latents/<key>/
    manifest.json                  what they were made with, and of which shards
    shard-00000.safetensors ...    the maps of one shard of records
```

`<key>` is a hash of everything that a latent depends on besides the record: the codec's weights, the depth
encoding and its size, the image sizes (a map is as large as its image allows). Several keys may lie side by side.
"""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from egem.batch import DepthMap, DepthTargets
from egem.core.config import fingerprint_of, from_dict, save_json
from egem.core.errors import CheckpointError, ConfigError, RecordError
from egem.data.depth import DepthPolicy
from egem.data.latent_files import LatentFile, LatentLayout, LatentShard, again, file_name
from egem.data.prepare import Preparer
from egem.shards import Manifest, RecordGroups
from egem.shards.groups import Shard
from egem.shards.storage import Storage

logger = logging.getLogger(__name__)

FOLDER = "latents"
MANIFEST = "manifest.json"
CODEC_FOLDER = "depth_codec"
UseLatents = Literal["auto", "off", "required"]

_VERSION = 1
_OPEN_FILES = 256


@dataclass(frozen=True, kw_only=True)
class LatentRecipe:
    """What latents are made with, besides the records."""

    version: int = _VERSION
    """Of the files' layout."""
    codec: str
    """See `codec_revision`."""
    depth: DepthPolicy
    image_factor: int
    """Image sizes are multiples of this."""
    min_pixels: int
    max_pixels: int

    @classmethod
    def from_checkpoint(cls, folder: Path, preparer: Preparer) -> "LatentRecipe":
        """The recipe that a checkpoint's training would follow.

        Args:
            folder: the checkpoint.
            preparer: of the same checkpoint.

        Raises:
            CheckpointError: the codec cannot be read.
        """
        return cls(
            codec=codec_revision(Path(folder) / CODEC_FOLDER),
            depth=preparer.depth,
            image_factor=preparer.images.factor,
            min_pixels=preparer.images.min_pixels,
            max_pixels=preparer.images.max_pixels,
        )

    @property
    def key(self) -> str:
        """Names the folder."""
        return fingerprint_of(self, digits=16)


@dataclass(frozen=True, kw_only=True)
class LatentManifest:
    """The content of `manifest.json`."""

    recipe: LatentRecipe
    layout: LatentLayout
    shards: tuple[LatentShard, ...]


class DepthLatents:
    """The stored latents of every group of some records, in the same order.

    Args:
        groups: the records.
        recipe: of the checkpoint that is trained.
        manifests: of each folder of the records; None where a folder has no depth at all.
    """

    def __init__(
        self, groups: RecordGroups, recipe: LatentRecipe, manifests: Sequence[LatentManifest | None]
    ) -> None:
        self._groups = groups
        self._folder = f"{FOLDER}/{recipe.key}"
        self._key = recipe.key
        self.layout = next(manifest.layout for manifest in manifests if manifest is not None)
        without = [
            place for place, manifest in zip(groups.places, manifests, strict=True) if manifest is None
        ]
        self._without_depth = {n for n, shard in enumerate(groups.shards) if shard.place in without}
        self._files: OrderedDict[int, LatentFile] = OrderedDict()
        self._multiple = recipe.depth.multiple

    def __getitem__(self, group: int) -> tuple[DepthMap, ...]:
        """The maps of one group.

        Raises:
            RecordError: its depth could not be used, or the latents' file is damaged.
        """
        number, within = self._groups.locate(group)
        if number in self._without_depth:
            return ()
        if number not in self._files:
            shard = self._groups.shards[number]
            self._files[number] = LatentFile(
                shard.place, f"{self._folder}/{file_name(shard.info.name)}", shard, self._key
            )
            while len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(number)
        return self._files[number].maps(within, self.layout.weight_channels)

    def placeholder(self) -> DepthTargets:
        """The map of weight 0 that stands in where a batch has no depth."""
        cells = self._multiple // self.layout.factor
        return DepthTargets(
            latents=torch.zeros(1, self.layout.channels, cells, cells),
            valid=torch.ones(1, self.layout.weight_channels, cells, cells, dtype=torch.bool),
            image_index=torch.zeros(1, dtype=torch.int64),
            weight=torch.zeros(1),
        )


def open_latents(groups: RecordGroups, recipe: LatentRecipe, use: UseLatents) -> DepthLatents | None:
    """The stored latents of the records, or None where depth has to be encoded in training.

    Args:
        groups: the records.
        recipe: of the checkpoint that is trained.
        use: `auto` takes them where every folder has them, `required` insists on that.

    Raises:
        RecordError: there are latents, but made with something else or of records that have changed since;
            or there are none and they are required.
    """
    if use == "off":
        return None
    found: list[LatentManifest | None] = []
    missing: list[Storage] = []
    for place, records in zip(groups.places, groups.manifests, strict=True):
        if records.depths == 0:
            found.append(None)
            continue
        manifest = read_latents(place, recipe)
        if manifest is None:
            missing.append(place)
            continue
        _check(place, records, manifest)
        found.append(manifest)
    if missing and use == "required":
        raise RecordError(f"{missing[0].address} has no depth latents; {again(missing[0])}.")
    if missing and any(manifest is not None for manifest in found):
        logger.warning(
            "%s has no depth latents, so none are used; make them with `egem data annotate latents`",
            missing[0].address,
        )
    if missing or not any(manifest is not None for manifest in found):
        return None
    return DepthLatents(groups, recipe, found)


def _check(place: Storage, records: Manifest, latents: LatentManifest) -> None:
    """Refuse latents of other records, or with a file that is not whole."""
    made_of = {shard.shard: shard.shard_sha256 for shard in latents.shards}
    for info in records.shards:
        if made_of.get(info.name) != info.sha256:
            raise RecordError(
                f"{place.join(info.name)} has changed since its depth latents were computed; "
                f"{again(place)}, or train with latents 'off'."
            )
    folder = f"{FOLDER}/{latents.recipe.key}"
    names = {shard.shard: f"{folder}/{file_name(shard.shard)}" for shard in latents.shards}
    files = place.stat(list(names.values()))
    for shard in latents.shards:
        name = names[shard.shard]
        if name not in files or files[name].size != shard.num_bytes:
            raise RecordError(f"{place.join(name)} is missing or truncated; {again(place)}.")


def read_latents(place: Storage, recipe: LatentRecipe) -> LatentManifest | None:
    """The manifest of a folder's latents; None if it has none at all.

    Raises:
        RecordError: it has only such as were made with another codec, encoding or image size.
    """
    name = f"{FOLDER}/{recipe.key}/{MANIFEST}"
    if name in place.stat([name]):
        return _read_manifest(place, name)
    others = [f"{FOLDER}/{key}/{MANIFEST}" for key in place.names(FOLDER)]
    others = [other for other in others if other in place.stat([other])]
    if not others:
        return None
    made = _read_manifest(place, others[0]).recipe
    differences = "; ".join(
        f"{f.name} {getattr(made, f.name)} instead of {getattr(recipe, f.name)}"
        for f in fields(LatentRecipe)
        if getattr(made, f.name) != getattr(recipe, f.name)
    )
    raise RecordError(
        f"{place.join(FOLDER)} holds depth latents made with {differences}; {again(place)} for this checkpoint, "
        "or train with latents 'off'."
    )


def write_manifest(folder: Path, manifest: LatentManifest) -> None:
    """Say that the latents of a record folder are complete.

    Args:
        folder: of this recipe's latents.
        manifest: what they are.
    """
    save_json(manifest, folder / MANIFEST)


def find_written(shard: Shard, recipe: LatentRecipe, dtype: str) -> LatentShard | None:
    """What an earlier run has written for a shard, if it is whole, of the same content and precision."""
    name = f"{FOLDER}/{recipe.key}/{file_name(shard.info.name)}"
    info = shard.place.stat([name]).get(name)
    if info is None:
        return None
    try:
        file = LatentFile(shard.place, name, shard, recipe.key)
    except RecordError:
        return None
    whole = file.num_bytes == info.size and file.dtype == np.dtype(dtype)
    return file.written() if whole else None


def codec_revision(folder: Path) -> str:
    """A hash of a depth codec's configuration and weights, whatever files they are spread over.

    Args:
        folder: holds `config.json` and, if the codec has weights, `*.safetensors`.

    Raises:
        CheckpointError: they cannot be read.
    """
    digest = hashlib.sha256()
    try:
        config = json.loads((folder / "config.json").read_text())
        kept = {
            key: value for key, value in config.items() if key not in ("_diffusers_version", "_name_or_path")
        }
        digest.update(json.dumps(kept, sort_keys=True).encode())
        entries: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries |= {name: (path, 8 + length, entry) for name, entry in header.items()}
        for name, (path, at, entry) in sorted(entries.items()):
            digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
            start, stop = entry["data_offsets"]
            with path.open("rb") as file:
                file.seek(at + start)
                digest.update(file.read(stop - start))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} holds no readable depth codec ({error}); copy it again.") from error
    return digest.hexdigest()[:16]


def _read_manifest(place: Storage, name: str) -> LatentManifest:
    try:
        return from_dict(LatentManifest, json.loads(place.read(name)))
    except (ValueError, ConfigError) as error:
        raise RecordError(f"{place.join(name)} cannot be read ({error}); {again(place)}.") from error
