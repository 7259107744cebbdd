"""Small folders of records made of random pictures, for tests that need records on disk."""

from pathlib import Path

import numpy as np

from egem.media import encode_depth, encode_png, encode_region
from egem.records import IMAGE_MARK, Answer, DepthFile, ImageFile, Message, Record
from egem.shards import ShardWriter


def picture(seed: int, size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """An image and its depth: a slanted floor with a box on it; a strip without reading at the top."""
    height, width = size
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    depth = 2.0 - rows / height + 0.2 * rng.random() * columns / width
    top, left = rng.integers(height // 4, height // 2), rng.integers(0, width // 2)
    depth[top : top + height // 3, left : left + width // 3] = 0.6 + 0.3 * rng.random()
    depth[:3] = 0.0
    image = np.stack([rows * 3 % 256, columns * 2 % 256, (depth * 100).astype(int)], axis=2)
    return image.astype(np.uint8), depth.astype(np.float32)


def group(seed: int, size: tuple[int, int] = (48, 64), *, with_depth: bool = True) -> list[Record]:
    """Four questions about one picture, of the kinds choice, number, point and box."""
    image, depth = picture(seed, size)
    region = np.zeros(size, bool)
    region[: size[0] // 2] = True
    answers = {
        "nearest": Answer(kind="choice", text=("left", "right")[seed % 2], choices=("left", "right")),
        "counting": Answer(kind="number", text=str(seed % 3), number=float(seed % 3), unit="count"),
        "free_space": Answer(
            kind="point",
            text="[500, 200]",
            points=((500, 200),),
            region=ImageFile(data=encode_region(region)),
        ),
        "box": Answer(kind="box", text="[100, 200, 300, 400]", box=(100, 200, 300, 400)),
    }
    depths = (DepthFile(data=encode_depth(depth, 0.001), origin="simulator"),) if with_depth else ()
    return [
        Record(
            id=f"test/{seed}/{skill}",
            source="test",
            category="grounding" if skill in ("free_space", "box") else "spatial",
            skill=skill,
            group=f"test/{seed}",
            images=(ImageFile(data=encode_png(image)),),
            depths=depths,
            messages=(
                Message(role="user", content=f"{IMAGE_MARK}\nQuestion {number} about {skill}?"),
                Message(role="assistant", content=answer.text),
            ),
            answer=answer,
        )
        for number, (skill, answer) in enumerate(answers.items())
    ]


def write_records(folder: Path, num_groups: int = 4, *, with_depth: bool = True, first: int = 0) -> Path:
    """A folder of that many groups."""
    with ShardWriter(folder) as writer:
        for seed in range(first, first + num_groups):
            for record in group(seed, with_depth=with_depth):
                writer.add(record)
    return folder
