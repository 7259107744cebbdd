"""Following points through frames; optical flow where no better tracker is at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from egem.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PointTracks:
    """Where points of the first frame are in every frame."""

    points: Float[np.ndarray, "frame point 2"]
    """x and y in pixels from the image's top left corner, float32; the last known place where a point is not seen."""
    visible: Bool[np.ndarray, "frame point"]


@runtime_checkable
class PointTracker(Protocol):
    """Follows points."""

    @property
    def origin(self) -> str:
        """`<tracker>/<checkpoint>`."""
        ...

    @property
    def licence(self) -> str:
        """Of the checkpoint."""
        ...

    def track(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], points: Float[np.ndarray, "point 2"]
    ) -> PointTracks:
        """Follow points of the first frame.

        Args:
            frames: RGB, of one size.
            points: x and y in pixels of the first frame; the centre of the first pixel is (0.5, 0.5).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OpticalFlow:
    """Pyramidal Lucas-Kanade from frame to frame (OpenCV), on the CPU.

    A point counts as lost once following it back misses where it came from, or its surroundings have changed: a tracker
    without memory cannot find it again.
    """

    window: int = 15
    """Pixels around a point that must move together."""
    levels: int = 4
    """Of the pyramid: motion up to about window * 2^levels / 2 pixels a frame is found."""
    max_return_error: float = 1.0
    """Pixels by which a point may miss its origin on the way back."""
    origin: str = "optical-flow/lucas-kanade"
    licence: str = "apache-2.0"
    """OpenCV's; there is no checkpoint."""

    def track(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], points: Float[np.ndarray, "point 2"]
    ) -> PointTracks:
        """See `PointTracker`.

        Raises:
            ConfigError: OpenCV is not installed.
        """
        cv2 = load_opencv()
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        size = (self.window, self.window)
        height, width = grey[0].shape
        # OpenCV's (0, 0) is the centre of the first pixel.
        now = np.asarray(points, np.float32).reshape(-1, 1, 2) - 0.5
        alive = np.ones(len(now), bool)
        places, seen = [now.copy()], [alive.copy()]
        for before, after in pairwise(grey):
            if alive.any():
                there, ok, _ = cv2.calcOpticalFlowPyrLK(
                    before, after, now, None, winSize=size, maxLevel=self.levels
                )
                back, ok_back, _ = cv2.calcOpticalFlowPyrLK(
                    after, before, there, None, winSize=size, maxLevel=self.levels
                )
                missed = np.linalg.norm(back - now, axis=2)[:, 0]
                inside = (
                    (there[:, 0] >= -0.5).all(axis=1)
                    & (there[:, 0, 0] < width - 0.5)
                    & (there[:, 0, 1] < height - 0.5)
                )
                alive &= (ok[:, 0] == 1) & (ok_back[:, 0] == 1) & (missed <= self.max_return_error) & inside
                now = np.where(alive[:, None, None], there, now)
            places.append(now.copy())
            seen.append(alive.copy())
        tracked = np.stack(places)[:, :, 0] + np.float32(0.5)
        return PointTracks(points=tracked.astype(np.float32), visible=np.stack(seen))


MIN_SHARE: Final = 0.25
"""Of a thing's points that must still be seen for its place to count."""


def path_of(tracks: PointTracks, start: tuple[float, float]) -> Float[np.ndarray, "frame 2"]:
    """The way of a thing from the ways of points on it.

    From frame to frame the thing moves as the middle one of its points that are seen in both does, so that single
    points which slip onto the background do not count.

    Args:
        tracks: of points on it.
        start: its place in the first frame, pixels.

    Returns:
        x and y in pixels, float64; NaN from where fewer than a quarter of the points are seen.
    """
    num = tracks.visible.shape[1]
    path = np.full((len(tracks.points), 2), np.nan)
    path[0] = start
    for frame in range(1, len(path)):
        both = tracks.visible[frame] & tracks.visible[frame - 1]
        if both.sum() < max(1.0, MIN_SHARE * num):
            break
        steps = tracks.points[frame, both].astype(np.float64) - tracks.points[frame - 1, both]
        path[frame] = path[frame - 1] + np.median(steps, axis=0)
    return path


def load_opencv() -> Any:
    """OpenCV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"optical flow needs OpenCV ({error}); run pip install 'egem[tracks]', or give CoTracker3 with --cotracker."
        ) from error
    return cv2
