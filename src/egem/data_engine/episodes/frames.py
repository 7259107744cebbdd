"""Frames of an episode as files hold them: encoded one by one, inside Parquet or HDF5, or in a video."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import av.container
import av.error
import numpy as np
from jaxtyping import Float, UInt8

from egem.core.errors import RecordError
from egem.episodes import Frames
from egem.media import decode_depth, decode_image
from egem.records import DepthFile, ImageFile

SEEK_AFTER_SECONDS = 2.0
"""Frames further apart than this are sought instead of decoded through."""


@dataclass(frozen=True, kw_only=True)
class EncodedFrames:
    """JPEG or PNG files, held in memory or fetched one at a time."""

    num: int
    fetch: Callable[[int], bytes]
    """The bytes of a frame; raises RecordError."""
    where: str
    """For messages."""

    def __len__(self) -> int:
        return self.num

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "height width 3"]]:
        """See `Frames`."""
        return [
            decode_image(ImageFile(data=self.fetch(i)), where=f"{self.where}, frame {i}") for i in indices
        ]

    def encoded(self, index: int) -> bytes | None:
        """See `Frames`."""
        return self.fetch(index)


@dataclass(frozen=True, kw_only=True)
class ArrayFrames:
    """Pixels in memory, as simulators give them."""

    pixels: UInt8[np.ndarray, "step height width 3"]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "height width 3"]]:
        """See `Frames`."""
        return [self.pixels[i] for i in indices]

    def encoded(self, index: int) -> bytes | None:
        """See `Frames`."""
        del index
        return None


@dataclass(frozen=True, kw_only=True)
class ArrayDepth:
    """Depth in memory."""

    metres: Float[np.ndarray, "step height width"]

    def __len__(self) -> int:
        return len(self.metres)

    def read(self, indices: Sequence[int]) -> list[Float[np.ndarray, "height width"]]:
        """See `DepthFrames`."""
        return [np.asarray(self.metres[i], np.float32) for i in indices]


@dataclass(frozen=True, kw_only=True)
class EncodedDepth:
    """16-bit PNG files."""

    num: int
    fetch: Callable[[int], bytes]
    unit_m: float
    """Metres per count."""
    where: str

    def __len__(self) -> int:
        return self.num

    def read(self, indices: Sequence[int]) -> list[Float[np.ndarray, "height width"]]:
        """See `DepthFrames`."""
        return [
            decode_depth(DepthFile(data=self.fetch(i), unit_m=self.unit_m), where=f"{self.where}, depth {i}")
            for i in indices
        ]


class OpenVideos:
    """Video files kept open between reads: finding one's key frames anew costs more than decoding a frame.

    Args:
        num: how many.
    """

    def __init__(self, num: int = 8) -> None:
        self.num = num
        self._forget()

    @contextmanager
    def open(self, path: Path) -> Iterator[av.container.InputContainer]:
        """An open file; one in which something failed is not used again."""
        if self._process != os.getpid():
            # A forked process shares the place in the file with its parent, who goes on reading.
            self._forget()
        container = self._containers.pop(path, None)
        if container is None:
            container = av.open(str(path))
            container.streams.video[0].codec_context.thread_count = 1
        try:
            yield container
        except BaseException:
            container.close()
            raise
        self._containers[path] = container
        if len(self._containers) > self.num:
            self._containers.popitem(last=False)[1].close()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._containers: OrderedDict[Path, av.container.InputContainer] = OrderedDict()

    def __reduce__(self) -> tuple[type["OpenVideos"], tuple[int]]:
        return OpenVideos, (self.num,)


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """A stretch of a video: frame i is the one shown at `start + i / fps` seconds."""

    path: Path
    num: int
    fps: float
    start: float = 0.0
    """Seconds into the file where the episode begins."""
    videos: OpenVideos = field(default_factory=lambda: OpenVideos(0), compare=False)
    """Of the dataset, which keeps files open; by default they are opened anew each time."""

    def __len__(self) -> int:
        return self.num

    def encoded(self, index: int) -> bytes | None:
        """See `Frames`."""
        del index
        return None

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "height width 3"]]:
        """See `Frames`; a frame more than half a step from its time counts as missing."""
        return self.decode(indices, "rgb24")

    def decode(self, indices: Sequence[int], pixel_format: str) -> list[np.ndarray]:
        """Like `read`, in another of FFmpeg's pixel formats.

        Raises:
            RecordError: one cannot be decoded.
        """
        if not self.path.is_file():
            raise RecordError(f"video {self.path} does not exist; the dataset is incomplete.")
        outside = [i for i in indices if not 0 <= i < self.num]
        if outside:
            raise RecordError(f"video {self.path}: no frame {outside[0]} in an episode of {self.num} steps.")
        found: dict[int, np.ndarray] = {}
        try:
            with self.videos.open(self.path) as container:
                self._decode(container, sorted(set(indices)), pixel_format, found)
        except (av.error.FFmpegError, IndexError) as error:
            raise RecordError(
                f"video {self.path} cannot be read: {error}; it is damaged or not a video."
            ) from error
        missing = [i for i in indices if i not in found]
        if missing:
            raise RecordError(
                f"video {self.path} has no frame at {self.start + missing[0] / self.fps:.3f} s "
                f"(step {missing[0]} of {self.num}); it is truncated or of another rate than {self.fps:g} a second."
            )
        return [found[i] for i in indices]

    def _decode(
        self,
        container: av.container.InputContainer,
        wanted: list[int],
        pixel_format: str,
        found: dict[int, np.ndarray],
    ) -> None:
        """Decode forwards, seeking over gaps; the nearest frame within half a step is taken."""
        stream = container.streams.video[0]
        base = stream.time_base
        if base is None:
            return
        # Half a step, and a little for time stamps rounded to the stream's unit.
        reach, zero = 0.51 / self.fps, float((stream.start_time or 0) * base)
        position = 0
        while position < len(wanted):
            target = self.start + wanted[position] / self.fps
            container.seek(max(0, int((target + zero) / base)), stream=stream, backward=True)
            before = position
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                time = frame.time - zero
                # Steps that this frame lies beyond have no frame of their own.
                while position < len(wanted) and self._time(wanted[position]) < time - reach:
                    position += 1
                if position < len(wanted) and abs(self._time(wanted[position]) - time) <= reach:
                    found[wanted[position]] = frame.to_ndarray(format=pixel_format)
                    position += 1
                if position == len(wanted):
                    break
                # What was sought may lie far behind its key frame; only after a find is it worth seeking anew.
                if position > before and self._time(wanted[position]) - time > SEEK_AFTER_SECONDS:
                    break
            if position == before:
                # Nothing came: the rest lies behind the end.
                return

    def _time(self, index: int) -> float:
        return self.start + index / self.fps


def is_blank(frames: Frames, num: int) -> bool:
    """Whether a camera is a placeholder: the first and the last frame are one plain colour."""
    return all((image == image[0, 0]).all() for image in frames.read([0, num - 1] if num > 1 else [0]))
