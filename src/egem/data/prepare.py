"""Records of one group to one `Sample`: the images once, every turn about them in one sequence."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from egem.batch import IGNORE_LABEL, DepthMap, Sample
from egem.core.config import from_dict
from egem.core.errors import CheckpointError, RecordError
from egem.data.chat import ChatTokenizer, positions
from egem.data.depth import DepthPolicy, Size, encode, target_size
from egem.data.images import ImagePolicy, patchify, smart_resize
from egem.media import check_depth, decode_depth, decode_image
from egem.records import IMAGE_MARK, DepthFile, Message, Record

logger = logging.getLogger(__name__)


RELATIVE_UNDER_LOG = "relative depth under the metric encoding 'log'"


class Preparer:
    """Turns records into samples, the same way in training, evaluation and use.

    Args:
        images: how the backbone wants images.
        depth: how the depth head wants depth.
        tokenizer: of the backbone.
        max_length: of one sequence, in tokens; later turns that do not fit are dropped whole and counted.
        fast_resize: see `patchify`.
    """

    def __init__(
        self,
        images: ImagePolicy,
        depth: DepthPolicy,
        tokenizer: ChatTokenizer,
        *,
        max_length: int = 16_384,
        fast_resize: bool = False,
    ) -> None:
        self.images = images
        self.depth = depth
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.fast_resize = fast_resize
        self._patch_scale = images.patch_scale()
        self.counts: Counter[str] = Counter()
        """What this process left out, by reason; the first of each kind is logged."""

    @classmethod
    def from_checkpoint(
        cls, folder: Path, *, max_length: int = 16_384, fast_resize: bool = False
    ) -> "Preparer":
        """The preparer that belongs to a checkpoint folder.

        Args:
            folder: holds `config.json` with a "depth" section, and `backbone/` with tokenizer and processor.
            max_length: see the class.
            fast_resize: likewise.

        Raises:
            CheckpointError: a part is missing or is not Qwen3-VL's.
        """
        path = Path(folder) / "config.json"
        try:
            values = json.loads(path.read_text())["depth"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} has no readable 'depth' section ({error!r}); not a checkpoint."
            ) from None
        backbone = Path(folder) / "backbone"
        return cls(
            ImagePolicy.from_folder(backbone),
            from_dict(DepthPolicy, values, f"{path}: depth"),
            ChatTokenizer.from_folder(backbone),
            max_length=max_length,
            fast_resize=fast_resize,
        )

    def sample(
        self,
        records: Sequence[Record],
        *,
        max_turns: int | None = None,
        with_depth: bool = True,
        depth_maps: Sequence[DepthMap] | None = None,
        rng: np.random.Generator | None = None,
        root: Path | None = None,
    ) -> Sample:
        """All turns about one group of images as one sequence.

        The first record brings the images; of the others the leading marks are dropped. Every answer is
        supervised.

        Args:
            records: of one group, at least one.
            max_turns: use this many turns at most: the first, or with `rng` those of any records.
            with_depth: also encode the depth maps.
            depth_maps: take these instead of the records'.
            rng: puts the records in random order.
            root: folder that relative file paths start from.

        Raises:
            RecordError: a file is unreadable, depth has another size or an implausible unit, records of the
                group disagree about their images, or not even one turn fits into `max_length`.
        """
        chosen = _choose(records, max_turns, rng)
        first = chosen[0]
        where = f"record '{first.id}'"
        turns = _merge(chosen)[:max_turns]
        images = [decode_image(file, root=root, where=where) for file in first.images]
        patches, grid = self._patches(images, where)
        if depth_maps is None and with_depth:
            depth_maps = self.depth_maps(records, [image.shape[:2] for image in images], root=root)
        while True:
            messages = [message for _, turn in turns for message in turn]
            num_images = sum(message.content.count(IMAGE_MARK) for message in messages)
            try:
                counts = self._token_counts(grid[:num_images])
                timestamps = first.timestamps[:num_images] if first.timestamps else None
                ids, labels = self.tokenizer.encode(messages, counts, timestamps=timestamps)
            except RecordError as error:
                raise RecordError(f"{where}: {error}") from error
            if len(ids) <= self.max_length:
                break
            if len(turns) == 1:
                raise RecordError(
                    f"{where}: one turn has {len(ids)} tokens ({sum(counts)} of images), a sequence at most "
                    f"{self.max_length}; give smaller images, fewer frames or a larger max_length."
                )
            self._count("turn beyond max_length", where)
            turns = turns[:-1]
        num_patches = int(grid[:num_images].prod(axis=1).sum())
        return self._sample(
            tuple(dict.fromkeys(record_id for record_id, _ in turns)),
            ids,
            labels,
            patches[:num_patches],
            grid[:num_images],
            tuple(depth for depth in depth_maps or () if depth.image_index < num_images),
        )

    def depth_maps(
        self, records: Sequence[Record], image_sizes: Sequence[Size], *, root: Path | None = None
    ) -> tuple[DepthMap, ...]:
        """The encoded depth of a group's images; maps without a reading are left out.

        Args:
            records: of one group; the first that has depth brings it for all.
            image_sizes: height and width of each image as it is stored.
            root: folder that relative file paths start from.

        Raises:
            RecordError: a file is unreadable, or depth has another size or an implausible unit.
        """
        record = next((record for record in records if any(record.depths)), records[0])
        maps = []
        for index, file in enumerate(record.depths):
            if file is None or not self._usable(file, record):
                continue
            where = f"record '{record.id}'"
            depth = decode_depth(file, root=root, where=where)
            if depth.shape != tuple(image_sizes[index]):
                height, width = image_sizes[index]
                raise RecordError(
                    f"{where}: depth map {index} has {depth.shape[1]} x {depth.shape[0]} pixels, its image "
                    f"{width} x {height}; they must be of one size."
                )
            check_depth(depth, file.kind, where=f"{where}, depth map {index}", unit_m=file.unit_m)
            made = self.depth_map(depth, index, where=where)
            if made is not None:
                maps.append(made)
        return tuple(maps)

    def depth_map(
        self, depth: Float[np.ndarray, "height width"], image_index: int, *, where: str
    ) -> DepthMap | None:
        """One depth map as the depth codec sees it; None, counted, where it has no reading.

        Args:
            depth: metres, 0 = no reading, of its image's size as stored.
            image_index: which image of the sample it belongs to.
            where: what it belongs to, for the message.

        Raises:
            RecordError: negative or non-finite values.
        """
        height, width = depth.shape
        image_size = smart_resize(height, width, self.images)
        encoded = encode(depth, target_size(*image_size, self.depth), self.depth, image_size=image_size)
        if not encoded.valid.any():
            self._count("depth map without a reading", where)
            return None
        return DepthMap(
            image_index=image_index,
            pixels=torch.from_numpy(encoded.pixels),
            valid=torch.from_numpy(encoded.valid),
        )

    def prompt(
        self,
        messages: Sequence[Message],
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        *,
        timestamps: Sequence[float] | None = None,
        record_ids: tuple[str, ...] = (),
    ) -> Sample:
        """A conversation for the assistant to continue; nothing is supervised.

        Args:
            messages: ends with the user's; one `<image>` mark an image.
            images: RGB.
            timestamps: seconds of each image, where the images are frames of a video.
            record_ids: to find the answer's question again.

        Raises:
            RecordError: marks and images do not match, or it is longer than `max_length`.
        """
        if timestamps is not None and len(timestamps) != len(images):
            raise RecordError(
                f"{len(timestamps)} timestamps for {len(images)} images; give one each or none."
            )
        patches, grid = self._patches(images, "prompt")
        ids = self.tokenizer.encode_prompt(messages, self._token_counts(grid), timestamps=timestamps)
        if len(ids) > self.max_length:
            raise RecordError(f"a prompt of {len(ids)} tokens is over the {self.max_length} of a sequence.")
        return self._sample(record_ids, ids, np.full_like(ids, IGNORE_LABEL), patches, grid, ())

    def _sample(
        self,
        record_ids: tuple[str, ...],
        ids: np.ndarray,
        labels: np.ndarray,
        patches: np.ndarray,
        grid: np.ndarray,
        depth_maps: tuple[DepthMap, ...],
    ) -> Sample:
        place = positions(ids, grid, self.tokenizer.image_token_id, self.images.merge_size)
        return Sample(
            record_ids=record_ids,
            input_ids=torch.from_numpy(ids),
            labels=torch.from_numpy(labels),
            position_ids=torch.from_numpy(place),
            patches=torch.from_numpy(patches),
            image_grid=torch.from_numpy(grid),
            patch_scale=self._patch_scale,
            depth_maps=depth_maps,
        )

    def _patches(self, images: Sequence[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
        if not images:
            return np.zeros((0, self.images.patch_bytes), np.uint8), np.zeros((0, 3), np.int64)
        try:
            cut = [patchify(image, self.images, fast_resize=self.fast_resize) for image in images]
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from error
        patches = cut[0][0] if len(cut) == 1 else np.concatenate([patches for patches, _ in cut])
        return patches, np.stack([grid for _, grid in cut])

    def _token_counts(self, grid: np.ndarray) -> list[int]:
        return (grid.prod(axis=1) // self.images.merge_size**2).tolist()

    def _usable(self, file: DepthFile, record: Record) -> bool:
        """`log` states metres, so relative depth cannot be written in it."""
        if self.depth.encoding == "log" and file.kind == "relative":
            self._count(RELATIVE_UNDER_LOG, f"record '{record.id}'")
            return False
        return True

    def _count(self, reason: str, where: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] == 1:
            logger.warning("%s: %s; left out (further ones are only counted).", where, reason)


def _choose(
    records: Sequence[Record], max_turns: int | None, rng: np.random.Generator | None
) -> list[Record]:
    """The records to use, in order; one whose marks stand inside its text must come first."""
    if not records:
        raise RecordError("a group without records.")
    chosen = list(records) if rng is None else [records[i] for i in rng.permutation(len(records))]
    chosen = chosen[: max_turns or len(chosen)]
    if len(chosen) > 1:
        chosen.sort(key=lambda record: _without_leading_marks(record) is not None)
    return chosen


def _merge(records: Sequence[Record]) -> list[tuple[str, list[Message]]]:
    """All turns with the id of their record: a turn is a user's and an assistant's message."""
    first = records[0]
    turns = _turns(first, first.messages)
    for record in records[1:]:
        if record.images != first.images or record.timestamps != first.timestamps:
            raise RecordError(
                f"record '{record.id}' is in group '{record.group}' with '{first.id}' but has other images; "
                "records of one group must share all of them."
            )
        if _system(record) != _system(first):
            raise RecordError(
                f"record '{record.id}' is in group '{record.group}' with '{first.id}' but has another system "
                "message; records of one group must share it."
            )
        messages = _without_leading_marks(record)
        if messages is None:
            raise RecordError(
                f"record '{record.id}': an {IMAGE_MARK} mark inside the text, in a group of several records; "
                "put the marks first or give the record a group of its own."
            )
        turns += _turns(record, [message for message in messages if message.role != "system"])
    return turns


def _turns(record: Record, messages: Sequence[Message]) -> list[tuple[str, list[Message]]]:
    turns: list[tuple[str, list[Message]]] = []
    pending: list[Message] = []
    for message in messages:
        pending.append(message)
        if message.role == "assistant":
            turns.append((record.id, pending))
            pending = []
    if pending or not turns:
        raise RecordError(f"record '{record.id}': the last message must be the assistant's.")
    return turns


def _system(record: Record) -> str | None:
    return next((message.content for message in record.messages if message.role == "system"), None)


def _without_leading_marks(record: Record) -> list[Message] | None:
    """The messages without the marks at the start of the first user message; None if there are others."""
    messages = list(record.messages)
    user = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if user is not None:
        content = messages[user].content
        while content.lstrip().startswith(IMAGE_MARK):
            content = content.lstrip()[len(IMAGE_MARK) :]
        if content != messages[user].content:
            messages[user] = replace(messages[user], content=content.strip())
    return None if any(IMAGE_MARK in message.content for message in messages) else messages
