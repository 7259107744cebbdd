"""The videos of one camera: episodes one after the other in a file, a new file once it is large."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from egem.core.errors import RecordError
from egem.episodes import Frames

MAX_FILES = 1000
"""In a chunk."""
_BATCH = 32
"""Frames decoded at a time."""


class VideoSeries:
    """Writes `<folder>/chunk-000/file-000.mp4` and so on.

    Args:
        folder: of the camera.
        size: height and width of its frames, both even.
        fps: frames a second.
        codec: FFmpeg's name of the encoder.
        options: of the encoder.
        file_mb: a file is closed once it is this large; an episode is never split.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        *,
        fps: float,
        codec: str,
        options: dict[str, str],
        file_mb: int,
    ) -> None:
        self.folder, self.size, self.fps = folder, size, fps
        self.codec, self.options, self.file_mb = codec, options, file_mb
        self.place = (0, 0)
        self._open: tuple[Any, Any] | None = None
        self._frames = 0

    def append(self, frames: Frames, num: int, where: str) -> tuple[tuple[int, int], float, float]:
        """Write the first `num` frames.

        Returns:
            Chunk and file they came to lie in, and the seconds at which they begin and end there.

        Raises:
            RecordError: a frame of another size.
        """
        container, stream = self._open or self._begin()
        place, start = self.place, self._frames
        for begin in range(0, num, _BATCH):
            for image in frames.read(range(begin, min(begin + _BATCH, num))):
                if image.shape[:2] != self.size:
                    raise RecordError(
                        f"{where}: a frame of {image.shape[1]} x {image.shape[0]} pixels, "
                        f"the first has {self.size[1]} x {self.size[0]}."
                    )
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        self._frames += num
        end = self._frames
        # An encoder that looks far ahead has written nothing yet, not even the file.
        size = self._path().stat().st_size if self._path().exists() else 0
        if size >= self.file_mb << 20:
            self.close()
            self.place = following(*self.place)
        return place, start / self.fps, end / self.fps

    def close(self) -> None:
        """Finish the file that is open, if any."""
        if self._open is None:
            return
        container, stream = self._open
        if self._frames:
            container.mux(stream.encode())
        container.close()
        self._open, self._frames = None, 0

    def _path(self) -> Path:
        return self.folder / f"chunk-{self.place[0]:03d}" / f"file-{self.place[1]:03d}.mp4"

    def _begin(self) -> tuple[Any, Any]:
        self._path().parent.mkdir(parents=True, exist_ok=True)
        container: Any = av.open(str(self._path()), "w")
        stream = container.add_stream(
            self.codec, rate=Fraction(self.fps).limit_denominator(1000), options=self.options
        )
        stream.height, stream.width = self.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        self._open = (container, stream)
        return self._open


def following(chunk: int, file: int) -> tuple[int, int]:
    """Chunk and file after these."""
    return (chunk, file + 1) if file + 1 < MAX_FILES else (chunk + 1, 0)


def sampled(frames: Frames, num: int, count: int) -> Sequence[UInt8[np.ndarray, "height width 3"]]:
    """At most `count` of the first `num` frames, evenly."""
    return frames.read(np.unique(np.linspace(0, num - 1, count).astype(int)).tolist())
