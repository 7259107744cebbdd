"""Folders of images with measured depth: NYUv2 and ScanNet as they are commonly laid out, or any like them.

No questions: only depth is drawn and measured. Pairs are found by name, anywhere below the folder:

    NYUv2    rgb_00045.png (.jpg) and sync_depth_00045.png or depth_00045.png, millimetres
    ScanNet  color/000000.jpg and depth/000000.png, millimetres
    others   rgb/NAME and depth/NAME (the number in the name is the same)

NYUv2 is scored inside the crop of Eigen et al. 2014 (rows 45 to 470, columns 41 to 600 of 480 x 640) and both
between 1 mm and 10 m, as Marigold does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egem.core.errors import RecordError
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Loaded
from egem.evaluation.benchmarks.public import Entry, QuestionSet, entry
from egem.evaluation.benchmarks.source import Source
from egem.media import decode_depth, encode_depth
from egem.records import Answer, DepthFile, ImageFile, Record

EIGEN_CROP = (slice(45, 471), slice(41, 601))
"""Rows and columns of NYUv2 that are scored."""
RANGE_M = (1e-3, 10.0)
UNIT_M = 1e-3
_DEPTH_NAME = re.compile(r"(?:sync_)?depth", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class DepthBenchmark(Benchmark):
    """Images with true depth and no question."""

    @property
    def fingerprint(self) -> str:
        """Equal only for the same images in the same order."""
        return self.groups.fingerprint

    def questions(self) -> Iterator[Record]:
        """None."""
        yield from ()

    def records(self) -> Iterator[Record]:
        """None."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image file and its depth map; see `Media`."""

    image: Path
    depth: Path
    crop: tuple[slice, slice] | None

    @property
    def identity(self) -> str:
        """See `Media`."""
        return f"{self.image.parent.name}/{self.image.name} {self.depth.stat().st_size}"

    def missing(self) -> list[str]:
        """Nothing: pairs are found by what is there."""
        return []

    def load(self) -> Loaded:
        """See `Media`; outside the crop and the range there is no reading.

        Raises:
            RecordError: a file cannot be read.
        """
        depth = decode_depth(DepthFile(path=str(self.depth), unit_m=UNIT_M), where=str(self.depth))
        inside = (depth > RANGE_M[0]) & (depth < RANGE_M[1])
        if self.crop is not None:
            within = np.zeros_like(inside)
            within[self.crop] = True
            inside &= within
        file = DepthFile(data=encode_depth(np.where(inside, depth, 0.0), UNIT_M), unit_m=UNIT_M)
        return Loaded(images=(ImageFile(path=str(self.image)),), depths=(file,))


def nyu(options: BenchmarkOptions) -> Benchmark:
    """NYUv2's test images (654), inside the crop."""
    return _open("nyu-depth", "tanganke/nyuv2", EIGEN_CROP, options)


def folder(options: BenchmarkOptions) -> Benchmark:
    """Any folder of pairs, ScanNet's among them; all readings count."""
    return _open("depth-folder", "a folder of images and depth maps", None, options)


def _open(name: str, hub_id: str, crop: tuple[slice, slice] | None, options: BenchmarkOptions) -> Benchmark:
    if options.source is None:
        raise RecordError(
            f"benchmark {name} needs a folder of images and 16-bit depth maps: give {name}=FOLDER. Its licence "
            "does not allow that it be fetched for you."
        )
    source = Source.open(name, hub_id, options)
    pairs = [Pair(image=image, depth=depth, crop=crop) for image, depth in _pairs(source)]
    num = min(options.num_groups or len(pairs), len(pairs))
    kept = np.unique(np.linspace(0, len(pairs) - 1, num).round().astype(int))
    entries = [_entry(name, pairs[index], source.folder) for index in kept]
    return DepthBenchmark(
        name=name, groups=QuestionSet(entries), num_groups=len(entries), depth_range=RANGE_M
    )


def _pairs(source: Source) -> list[tuple[Path, Path]]:
    """Images and depth maps that belong together, by folder and by number in the name.

    Raises:
        RecordError: no depth map, or one without its image.
    """
    files = [
        path for path in sorted(source.folder.rglob("*")) if path.suffix.lower() in (".png", ".jpg", ".jpeg")
    ]
    depths = [path for path in files if path.suffix.lower() == ".png" and _is_depth(path)]
    images = {_key(path): path for path in files if not _is_depth(path)}
    if not depths:
        raise source.incomplete("no depth map: no PNG file with `depth` in its name or in its folder's")
    lone = [path.name for path in depths if _key(path) not in images]
    if lone:
        raise source.incomplete(f"{len(lone)} depth maps have no image: {', '.join(lone[:5])}")
    return [(images[_key(path)], path) for path in depths]


def _is_depth(path: Path) -> bool:
    return bool(_DEPTH_NAME.match(path.name) or _DEPTH_NAME.match(path.parent.name))


def _key(path: Path) -> tuple[Path, str]:
    """What an image and its depth map have in common: the folder of the scene, and the number."""
    name = _DEPTH_NAME.sub("", path.stem)
    name = re.sub(r"^(?:rgb|color|image)?[_-]*", "", name.lstrip("_-"), flags=re.IGNORECASE)
    home = path.parent
    if re.fullmatch(r"(?:sync_)?depth|rgb|color|image|images", home.name, re.IGNORECASE):
        home = home.parent
    return home, name


def _entry(name: str, pair: Pair, root: Path) -> Entry:
    id = pair.image.relative_to(root).as_posix()
    return entry(
        benchmark=name,
        id=id,
        skill="depth",
        prompt="(depth)",
        answer=Answer(kind="text", text="(depth)"),
        media=pair,
        scene=pair.image.parent.relative_to(root).as_posix(),
    )
