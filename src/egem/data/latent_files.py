"""One file of depth latents: the maps of one shard of records, each to be read by itself.

A safetensors file. `first[g]` to `first[g + 1]` are the maps of the shard's group g; map m has `image[m]`, `shape[m]`,
values `latents[offset[m]:offset[m + 1]]` and, packed into bits, where they count: `valid[valid_offset[m]:...]`.
Its metadata name the shard's sha256, the recipe's key, and the groups whose depth could not be used, with reasons.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.numpy import save

from egem.batch import DepthMap
from egem.core.errors import RecordError
from egem.core.files import write_atomically
from egem.shards.groups import Shard
from egem.shards.storage import Storage

_ABOUT = "egem"
_LONGEST_HEADER = 256 << 20
_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4")}


@dataclass(frozen=True, kw_only=True)
class LatentLayout:
    """How a codec's latents look, whatever the map."""

    channels: int
    factor: int
    """Pixels of encoded depth a side of one latent cell."""
    weight_channels: int
    """As many as `channels`, or one that stands for all."""
    dtype: Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class LatentShard:
    """The latents of one shard of records."""

    shard: str
    shard_sha256: str
    maps: int
    unreadable: int
    """Groups whose depth could not be used; training leaves them out as it would without latents."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class LatentMap:
    """One map before it is written."""

    image_index: int
    latents: Float[np.ndarray, "channel height width"]
    valid: Bool[np.ndarray, "weight_channel height width"]
    """True where readings determine the value."""


class LatentWriter:
    """Collects the maps of one shard, group after group, and writes them as one file.

    Args:
        layout: of the latents.
        recipe_key: of the recipe that they are made with.
        shard: of the records.
    """

    def __init__(self, *, layout: LatentLayout, recipe_key: str, shard: Shard) -> None:
        self.layout, self.recipe_key, self.shard = layout, recipe_key, shard
        self._counts: list[int] = []
        self._maps: list[LatentMap] = []
        self._unreadable: dict[str, str] = {}

    def add(self, maps: Sequence[LatentMap]) -> None:
        """The maps of the next group; empty where it has no depth."""
        self._maps += maps
        self._counts.append(len(maps))

    def add_unreadable(self, reason: str) -> None:
        """The next group has depth that cannot be used."""
        self._unreadable[str(len(self._counts))] = reason
        self._counts.append(0)

    def write(self, folder: Path) -> LatentShard:
        """Write the file, which appears whole or not at all.

        Args:
            folder: of this recipe's latents.

        Raises:
            RecordError: a latent does not fit into float16.
        """
        assert len(self._counts) == self.shard.num_groups
        dtype = np.dtype(self.layout.dtype)
        values = [each.latents.astype(dtype) for each in self._maps]
        if not all(np.isfinite(each).all() for each in values):
            raise RecordError(
                f"latents of {self.shard.info.name} are not finite in {dtype}; give --dtype float32."
            )
        bits = [np.packbits(each.valid) for each in self._maps]
        shapes = [each.latents.shape for each in self._maps]
        tensors = {
            "first": np.cumsum([0, *self._counts], dtype=np.int64),
            "image": np.array([each.image_index for each in self._maps], np.int32),
            "shape": np.array(shapes, np.int32).reshape(-1, 3),
            "offset": np.cumsum([0, *(each.size for each in values)], dtype=np.int64),
            "valid_offset": np.cumsum([0, *(each.size for each in bits)], dtype=np.int64),
            "latents": np.concatenate([each.ravel() for each in values]) if values else np.zeros(0, dtype),
            "valid": np.concatenate(bits) if bits else np.zeros(0, np.uint8),
        }
        about = {
            "shard_sha256": self.shard.info.sha256,
            "key": self.recipe_key,
            "unreadable": self._unreadable,
        }
        # One entry, because safetensors writes several in any order, and equal latents shall be equal files.
        data = save(tensors, metadata={_ABOUT: json.dumps(about)})
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file_name(self.shard.info.name), data)
        return LatentShard(
            shard=self.shard.info.name,
            shard_sha256=self.shard.info.sha256,
            maps=len(self._maps),
            unreadable=len(self._unreadable),
            num_bytes=len(data),
        )


class LatentFile:
    """A file that was written, of which the small tensors are in memory.

    Args:
        place: where it lies.
        name: of the file.
        shard: of records that it must belong to.
        key: of the recipe that it must have been made with.

    Raises:
        RecordError: it is damaged, or belongs to something else.
    """

    def __init__(self, place: Storage, name: str, shard: Shard, key: str) -> None:
        self._place, self._name, self._shard = place, name, shard
        try:
            length = int.from_bytes(place.read(name, 0, 8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(place.read(name, 8, 8 + length))
            about = json.loads(header.pop("__metadata__")[_ABOUT])
            self._data = {
                tensor: (8 + length + entry["data_offsets"][0], entry["dtype"])
                for tensor, entry in header.items()
            }
            self._unreadable: dict[str, str] = about["unreadable"]
            self.num_bytes = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
            same = about["shard_sha256"] == shard.info.sha256 and about["key"] == key
            self._first, self._image, self._offset, self._valid_offset = (
                self._whole(tensor, header[tensor]) for tensor in ("first", "image", "offset", "valid_offset")
            )
            self._shape = self._whole("shape", header["shape"]).reshape(-1, 3)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{place.join(name)} is damaged ({error!r}); remove it and make it again with "
                "`egem data annotate latents`."
            ) from error
        if not same or len(self._first) != shard.num_groups + 1:
            raise RecordError(f"{place.join(name)} belongs to another shard or codec; {again(place)}.")
        # safetensors has no offsets into a tensor; a slice is a range of bytes.
        self._latents_at, dtype = self._data["latents"]
        self.dtype = _DTYPES[dtype]
        self._valid_at = self._data["valid"][0]

    def maps(self, group: int, weight_channels: int) -> tuple[DepthMap, ...]:
        """The maps of one group of the shard.

        Args:
            group: counted from the shard's first.
            weight_channels: of the layout.

        Raises:
            RecordError: its depth could not be used, or the file is cut short.
        """
        reason = self._unreadable.get(str(group))
        if reason is not None:
            raise RecordError(reason)
        first, end = int(self._first[group]), int(self._first[group + 1])
        if first == end:
            return ()
        values = self._range(self._latents_at, self._offset, first, end, self.dtype)
        bits = self._range(self._valid_at, self._valid_offset, first, end, np.dtype("u1"))
        maps = []
        for item in range(first, end):
            shape = self._shape[item].tolist()
            begin, stop = (int(self._offset[i] - self._offset[first]) for i in (item, item + 1))
            mask_begin, mask_stop = (
                int(self._valid_offset[i] - self._valid_offset[first]) for i in (item, item + 1)
            )
            mask_shape = (weight_channels, *shape[1:])
            mask = np.unpackbits(bits[mask_begin:mask_stop], count=math.prod(mask_shape)).astype(bool)
            maps.append(
                DepthMap(
                    image_index=int(self._image[item]),
                    latents=torch.from_numpy(values[begin:stop].reshape(shape).astype(np.float32)),
                    valid=torch.from_numpy(mask.reshape(mask_shape)),
                )
            )
        return tuple(maps)

    def written(self) -> LatentShard:
        """What the manifest says about this file."""
        return LatentShard(
            shard=self._shard.info.name,
            shard_sha256=self._shard.info.sha256,
            maps=len(self._image),
            unreadable=len(self._unreadable),
            num_bytes=self.num_bytes,
        )

    def _range(self, at: int, offsets: np.ndarray, first: int, end: int, dtype: np.dtype) -> np.ndarray:
        start, stop = (at + int(offsets[item]) * dtype.itemsize for item in (first, end))
        data = self._place.read(self._name, start, stop)
        if len(data) != stop - start:
            raise RecordError(f"{self._place.join(self._name)} is truncated; {again(self._place)}.")
        return np.frombuffer(data, dtype)

    def _whole(self, tensor: str, entry: Mapping[str, Any]) -> np.ndarray:
        start, dtype = self._data[tensor]
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        data = self._place.read(self._name, start, start + size) if size else b""
        if len(data) != size:
            raise ValueError(f"'{tensor}' is cut short")
        return np.frombuffer(data, _DTYPES[dtype])


def file_name(shard: str) -> str:
    """Name of the latents' file of a shard of records."""
    return f"{Path(shard).stem}.safetensors"


def again(place: Storage) -> str:
    """The remedy for latents that do not fit."""
    return f"run `egem data annotate latents --data {place.address} --checkpoint CHECKPOINT`"
