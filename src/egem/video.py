"""Video files to frames with their times, by PyAV. No torch."""

from pathlib import Path

import av
import av.container
import av.error
import numpy as np
from jaxtyping import UInt8

from egem.core.errors import RecordError


def read_frames(path: Path, *, num: int) -> tuple[list[UInt8[np.ndarray, "height width 3"]], list[float]]:
    """Frames spread evenly from the first to the last, as Qwen3-VL and GEM sample them.

    Args:
        path: any container and codec that FFmpeg reads.
        num: how many frames; a shorter video gives all it has.

    Returns:
        RGB frames, and the second at which each is shown.

    Raises:
        RecordError: the file is missing, damaged or holds no video.
    """
    if num < 1:
        raise RecordError(f"{path}: {num} frames asked for; ask for at least 1.")
    times = _frame_times(path)
    wanted = np.unique(np.linspace(0, len(times) - 1, num).round().astype(int)).tolist()
    frames = {}
    try:
        with _opened(path) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    frames[index] = frame.to_ndarray(format="rgb24")
                if index == wanted[-1]:
                    break
    except av.error.FFmpegError as error:
        raise _unreadable(path, error) from error
    if len(frames) < len(wanted):
        raise _unreadable(path, f"it ends before frame {wanted[len(frames)] + 1} of {len(times)}")
    return [frames[index] for index in wanted], [times[index] for index in wanted]


def _frame_times(path: Path) -> list[float]:
    """Seconds of every frame in display order, from the packets where that is possible."""
    try:
        with _opened(path) as container:
            stream = container.streams.video[0]
            base = stream.time_base
            stamps = sorted(p.pts for p in container.demux(stream) if p.pts is not None and p.size)
    except (av.error.FFmpegError, IndexError) as error:
        raise _unreadable(path, error) from error
    if not stamps or base is None:
        raise _unreadable(path, "it holds no video frame")
    return [float((stamp - stamps[0]) * base) for stamp in stamps]


def _opened(path: Path) -> av.container.InputContainer:
    if not path.is_file():
        raise RecordError(f"video {path} does not exist; check the path.")
    try:
        return av.open(str(path))
    except av.error.FFmpegError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, reason: object) -> RecordError:
    return RecordError(f"video {path} cannot be read: {reason}; it is damaged or not a video.")
