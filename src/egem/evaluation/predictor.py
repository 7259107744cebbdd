"""A checkpoint that answers questions and draws depth, batch by batch.

What comes out for one question or image does not depend on what else is in its batch or on what was asked
before: answers are greedy, and the noise a depth map starts from is a function of the seed and the image.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from egem.batch import Sample
from egem.core.errors import CheckpointError, RecordError
from egem.core.files import hash_of_files
from egem.data.depth import decode, encode, target_size
from egem.data.prepare import Preparer
from egem.device import device_of, inference_dtype
from egem.media import decode_image
from egem.models.gem import GEM
from egem.records import IMAGE_MARK, Message, Record

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedDepth:
    """A depth map drawn from an image."""

    values: Float[np.ndarray, "height width"]
    """Metres (`metric`), or inverse depth from 0, far, to 1, near (`inverse_relative`)."""
    kind: Literal["metric", "inverse_relative"]
    scale: float | None
    shift: float | None
    """1 / depth = scale * value + shift, where both are known."""
    encoded: Float[np.ndarray, "channel height width"]
    """As the depth codec gave it, in [-1, 1]."""


@runtime_checkable
class Answering(Protocol):
    """What a benchmark run needs of a model that answers: a local checkpoint, or anything else that can."""

    name: str
    """Shown in tables: the checkpoint's folder."""

    @property
    def fingerprint(self) -> str:
        """Equal only for models that give equal answers; a run is resumed by it."""
        ...

    def answer(self, records: Sequence[Record], *, batch_size: int, max_new_tokens: int) -> list[str]:
        """The text each record's last turn is answered with."""
        ...


@runtime_checkable
class Drawing(Protocol):
    """What a depth evaluation needs."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Equal only for models that draw equal maps."""
        ...

    def draw_depth(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        *,
        num_steps: int | None,
        guidance: float | None,
        seed: int,
        batch_size: int,
    ) -> list[GeneratedDepth]:
        """One map an image."""
        ...

    def round_trip(
        self, depth: Float[np.ndarray, "height width"], image_size: tuple[int, int]
    ) -> GeneratedDepth:
        """True depth through encoding and codec and back: the best that could be drawn."""
        ...


class Predictor:
    """A GEM checkpoint behind both protocols.

    Args:
        model: put into evaluation mode.
        preparer: of the same checkpoint.
        folder: the checkpoint, or None for a model that exists in memory only.
    """

    def __init__(self, model: GEM, preparer: Preparer, *, folder: Path | None = None) -> None:
        self.model = model.eval()
        self.preparer = preparer
        self.folder = folder
        self.name = "(in memory)" if folder is None else str(folder)
        self._fingerprint: str | None = None

    @classmethod
    def from_checkpoint(
        cls, folder: Path, *, device: str = "auto", dtype: torch.dtype | None = None
    ) -> "Predictor":
        """Load a checkpoint folder.

        Args:
            folder: with config.json and backbone/.
            device: see `device_of`.
            dtype: of the weights; see `inference_dtype`.

        Raises:
            CheckpointError: incomplete, or of another kind.
            ConfigError: no such device here.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is not a folder; give a checkpoint folder with config.json in it."
            )
        place = device_of(device)
        model = GEM.from_pretrained(folder, dtype=inference_dtype(dtype, place), device=place)
        return cls(model, Preparer.from_checkpoint(folder), folder=folder)

    @property
    def fingerprint(self) -> str:
        """Hash of every file of the checkpoint and of the numbers' format it runs in.

        Raises:
            CheckpointError: the model exists in memory only.
        """
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def answer(
        self, records: Sequence[Record], *, batch_size: int = 8, max_new_tokens: int = 64
    ) -> list[str]:
        """Answer each record's last turn, given its images and its earlier turns.

        Args:
            records: in any order; images are decoded as they are needed.
            batch_size: questions at a time; changes speed and memory, not answers.
            max_new_tokens: longest answer.

        Raises:
            RecordError: an image cannot be read.
        """
        answers = []
        for samples in _batches(map(self.prompt, records), batch_size):
            tokens = self.model.generate_text(samples, max_new_tokens=max_new_tokens)
            answers += [self.preparer.tokenizer.decode(ids).strip() for ids in tokens]
        return answers

    def prompt(self, record: Record) -> Sample:
        """What the model reads before it answers a record's last turn."""
        images = [decode_image(file, where=f"record '{record.id}'") for file in record.images]
        return self.preparer.prompt(
            record.messages[:-1], images, timestamps=record.timestamps, record_ids=(record.id,)
        )

    def draw_depth(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        batch_size: int = 8,
    ) -> list[GeneratedDepth]:
        """Draw the depth of each image from its visual tokens, each image by itself.

        Args:
            images: any sizes; those of one size share a batch.
            num_steps: of the sampler; the checkpoint's default when None.
            guidance: classifier-free guidance; the checkpoint's default when None.
            seed: of the noise that maps start from.
            batch_size: images at a time.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        drawn: dict[int, GeneratedDepth] = {}
        for indices in by_size.values():
            for chunk in _batches(iter(indices), batch_size):
                samples = [self._look(images[index]) for index in chunk]
                noise = [[self._noise(images[i], s, seed)] for i, s in zip(chunk, samples, strict=True)]
                maps = self.model.sample_depth(samples, num_steps=num_steps, guidance=guidance, noise=noise)
                drawn.update((i, self._decoded(m[0])) for i, m in zip(chunk, maps, strict=True))
        return [drawn[index] for index in range(len(images))]

    def round_trip(
        self, depth: Float[np.ndarray, "height width"], image_size: tuple[int, int]
    ) -> GeneratedDepth:
        """True depth through encoding and codec and back, as if it had been drawn without any error.

        Args:
            depth: 0 = no reading.
            image_size: (height, width) of its image.

        Raises:
            RecordError: the depth map has no reading.
        """
        if not (depth > 0).any():
            raise RecordError("a depth map without a single reading has no round trip.")
        seen = self._seen_size(self._look(np.zeros((*image_size, 3), np.uint8)))
        policy, codec = self.model.config.depth, self.model.depth_codec
        encoded = encode(depth, target_size(*seen, policy), policy, image_size=seen)
        pixels = torch.from_numpy(encoded.pixels)[None].to(self.model.device)
        with torch.no_grad():
            return self._decoded(codec.decode(codec.encode(pixels))[0])

    def _hash(self) -> str:
        if self.folder is None:
            raise CheckpointError("a model that is in memory only cannot be told apart; save it first.")
        dtype = next(self.model.parameters()).dtype
        return hashlib.sha256(f"{dtype} {hash_of_files(self.folder)}".encode()).hexdigest()

    def _look(self, image: UInt8[np.ndarray, "height width 3"]) -> Sample:
        # Visual tokens see only what stands before them, so no question is needed to draw depth.
        return self.preparer.prompt([Message(role="user", content=IMAGE_MARK)], [image])

    def _seen_size(self, sample: Sample) -> tuple[int, int]:
        """Height and width of the image as the vision tower sees it."""
        _, rows, columns = sample.image_grid[0].tolist()
        patch = self.model.backbone.patch_size
        return rows * patch, columns * patch

    def _noise(self, image: UInt8[np.ndarray, "height width 3"], sample: Sample, seed: int) -> Tensor:
        key = hashlib.sha256(
            f"{seed} {image.shape}".encode() + np.ascontiguousarray(image).tobytes()
        ).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        height, width = target_size(*self._seen_size(sample), self.model.config.depth)
        codec = self.model.depth_codec
        shape = (codec.latent_channels, height // codec.factor, width // codec.factor)
        return torch.randn(shape, generator=generator)

    def _decoded(self, pixels: Float[Tensor, "channel height width"]) -> GeneratedDepth:
        encoded = pixels.float().cpu().numpy()
        depth = decode(encoded, self.model.config.depth)
        return GeneratedDepth(
            values=depth.values, kind=depth.kind, scale=depth.scale, shift=depth.shift, encoded=encoded
        )


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
