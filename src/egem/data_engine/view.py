"""A scene with everything measured that skills ask about: which objects are clearly seen, and where.

The rules of refusal that all object skills share are here: an object is asked about only when its name is
unique, enough of its pixels are seen, and enough of it is not hidden or cut off.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from egem.records import COORDINATE_RANGE
from egem.scene import Camera, Scene, SceneObject

MIN_PIXELS = 12
"""An object seen in fewer pixels than this, ..."""
MIN_IMAGE_FRACTION = 0.0012
"""... or in a smaller part of the image, is too small to ask about."""
MIN_VISIBLE_FRACTION = 0.35
"""Least share of an object's outline (that of its 3D box, hence never 1) that must be seen."""
GLIMPSE_FRACTION = 0.12
"""Below this share, and yet seen, an object is neither there nor away: scenes with one are not counted."""

FLAT_RATIO = 1.06
"""Depth around a point that is asked about varies at most by this factor: it is no edge."""

Pixel = tuple[int, int]
"""Column, row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """An object that is clearly seen."""

    object: SceneObject
    pixels: Bool[np.ndarray, "height width"]
    num_pixels: int
    box: tuple[int, int, int, int]
    """Pixels: first column, first row, last column + 1, last row + 1."""
    depth: float | None
    """Median depth of its visible pixels; None where no reading exists."""
    distance: float | None
    """From the camera to its centre in a straight line, metres; None without a camera or a 3D box."""

    @property
    def name(self) -> str:
        """Its unique name, without an article."""
        return self.object.name

    @property
    def has_box(self) -> bool:
        """Whether its 3D box is known (real data may give only a mask)."""
        return has_box(self.object)


class View:
    """Everything that skills measure in a scene, each measured at most once."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.height, self.width = scene.image.shape[:2]

    @property
    def camera(self) -> Camera:
        """The camera, for skills that declare to need it."""
        assert self.scene.camera is not None
        return self.scene.camera

    @property
    def depth(self) -> Float[np.ndarray, "height width"]:
        """The depth map, for skills that declare to need it."""
        assert self.scene.depth is not None
        return self.scene.depth

    @cached_property
    def sightings(self) -> tuple[Sighting, ...]:
        """Objects that are clearly seen and named once, in the scene's order."""
        mask = self.scene.mask
        if mask is None:
            return ()
        counts = self.pixel_counts
        names = Counter(thing.name for thing in self.scene.objects)
        least = max(MIN_PIXELS, MIN_IMAGE_FRACTION * mask.size)
        found = []
        for thing in self.scene.objects:
            if names[thing.name] > 1 or counts.get(thing.index, 0) < least:
                continue
            if self.visible_fraction(thing) >= MIN_VISIBLE_FRACTION:
                found.append(self._sighting(thing))
        return tuple(found)

    @cached_property
    def with_box(self) -> tuple[Sighting, ...]:
        """Those sightings whose 3D box is known."""
        return tuple(s for s in self.sightings if s.has_box)

    @cached_property
    def pixel_counts(self) -> dict[int, int]:
        """Visible pixels of each instance index."""
        mask = self.scene.mask
        if mask is None:
            return {}
        indices, counts = np.unique(mask, return_counts=True)
        return dict(zip(indices.tolist(), counts.tolist(), strict=True))

    @cached_property
    def all_or_nothing(self) -> bool:
        """Whether every object is either clearly in the picture or not in it at all."""
        for thing in self.scene.objects:
            seen = self.pixel_counts.get(thing.index, 0)
            if seen and (seen < MIN_PIXELS or self.visible_fraction(thing) < GLIMPSE_FRACTION):
                return False
        return bool(self.scene.objects) and self.scene.mask is not None

    def visible_fraction(self, thing: SceneObject) -> float:
        """Visible pixels over the area of the outline of its 3D box, whole and unhidden; 1 without a box."""
        if not has_box(thing) or self.scene.camera is None:
            return 1.0
        local = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
        corners = thing.center + (local * thing.extent) @ thing.pose[:3, :3].T
        projected = self.scene.camera.project(corners)
        if (projected[:, 2] <= 1e-3).any():
            return 0.0
        try:
            area = float(ConvexHull(projected[:, :2]).volume)
        except QhullError:
            return 0.0
        return min(self.pixel_counts.get(thing.index, 0) / max(area, 1e-9), 1.0)

    def _sighting(self, thing: SceneObject) -> Sighting:
        assert self.scene.mask is not None
        pixels = self.scene.mask == thing.index
        columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
        depth, distance = None, None
        if self.scene.depth is not None:
            readings = self.scene.depth[pixels]
            readings = readings[readings > 0]
            depth = float(np.median(readings)) if 2 * len(readings) >= pixels.sum() else None
        if self.scene.camera is not None and has_box(thing):
            origin = self.scene.camera.world_from_camera[:3, 3]
            distance = float(np.linalg.norm(thing.center - origin))
        return Sighting(
            object=thing,
            pixels=pixels,
            num_pixels=int(pixels.sum()),
            box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
            depth=depth,
            distance=distance,
        )

    @cached_property
    def world_points(self) -> Float[np.ndarray, "height width 3"]:
        """Each pixel's surface point in the world, from depth; NaN where no reading exists."""
        camera = self.camera
        rows, columns = np.mgrid[: self.height, : self.width] + 0.5
        depth = np.where(self.depth > 0, self.depth, np.nan)
        x = (columns - camera.intrinsics.cx) / camera.intrinsics.fx * depth
        y = (rows - camera.intrinsics.cy) / camera.intrinsics.fy * depth
        local = np.stack([x, y, depth], axis=-1)
        pose = camera.world_from_camera
        return local @ pose[:3, :3].T + pose[:3, 3]

    @cached_property
    def ground_axes(self) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
        """Unit vectors on the ground (x, y of the world): the viewer's right, and away from the viewer.

        Away is where both the line of sight and the image's up point, so that a camera looking straight
        down has one too.
        """
        rotation = self.camera.world_from_camera[:3, :3]
        away = rotation[:2, 2] - rotation[:2, 1]
        away = away / max(float(np.linalg.norm(away)), 1e-9)
        return np.array([away[1], -away[0]]), away

    @cached_property
    def flat_points(self) -> Int[np.ndarray, "point 2"]:
        """(column, row) of pixels with a reading and only similar readings around them."""
        depth = self.depth
        radius = max(1, round(0.008 * max(depth.shape)))
        near = ndimage.minimum_filter(depth, size=2 * radius + 1, mode="constant", cval=0.0)
        far = ndimage.maximum_filter(depth, size=2 * radius + 1)
        flat = (near > 0) & (far <= FLAT_RATIO * near)
        rows, columns = np.nonzero(flat)
        return np.stack([columns, rows], axis=1)

    def coordinate(self, pixel: Pixel) -> tuple[int, int]:
        """A pixel's centre in 0..1000 units."""
        column, row = pixel
        x = round((column + 0.5) * COORDINATE_RANGE / self.width)
        y = round((row + 0.5) * COORDINATE_RANGE / self.height)
        return min(max(x, 0), COORDINATE_RANGE), min(max(y, 0), COORDINATE_RANGE)

    def inside_image(self, columns_rows: Float[np.ndarray, "point 2"]) -> Bool[np.ndarray, "point"]:
        """Which positions (in pixels, from the top left corner) lie in the picture."""
        return np.all((columns_rows >= 0) & (columns_rows < [self.width, self.height]), axis=1)


def has_box(thing: SceneObject) -> bool:
    """Whether an object's 3D box is known; sources that have only its mask give NaN as extent."""
    return bool(np.isfinite(thing.extent).all())
