"""Records to measure reading with: pictures of the usual size with stored latents, and very many small rows."""

import hashlib
import io
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from egem.core.config import to_dict
from egem.data.chat import ChatTokenizer
from egem.data.depth import DepthPolicy, target_size
from egem.data.images import ImagePolicy, smart_resize
from egem.data.latent_files import LatentLayout, LatentMap, LatentWriter
from egem.data.latents import FOLDER, LatentManifest, LatentRecipe, write_manifest
from egem.data.prepare import Preparer
from egem.media import encode_depth, encode_png
from egem.records import SCHEMA, SCHEMA_VERSION, Answer, DepthFile, ImageFile, Message, Record, to_row
from egem.shards import MANIFEST, Manifest, RecordGroups, ShardInfo, ShardWriter
from egem.shards.index import INDEX, encode_index

SIZE = (480, 640)
"""Height and width of the pictures."""
QUESTIONS = 4
"""About each picture."""

_LAYOUT = LatentLayout(channels=32, factor=32, weight_channels=1, dtype="float16")
_ROWS_PER_GROUP = 4
_ROWS_PER_ROW_GROUP = 500
_ROWS_PER_SHARD = 100_000


def preparer_at_448() -> Preparer:
    """Long sides of 448 pixels, depth as the released model has it, the small tokenizer."""
    images = ImagePolicy(
        patch_size=16, temporal_patch_size=2, merge_size=2, min_pixels=65536, max_pixels=448 * 336
    )
    depth = DepthPolicy(encoding="spectral", long_side=448, multiple=32)
    with resources.as_file(resources.files("egem") / "assets" / "tiny_tokenizer") as folder:
        return Preparer(images, depth, ChatTokenizer.from_folder(folder), fast_resize=True)


def recipe_at_448() -> LatentRecipe:
    """Of latents that no codec made: reading them takes the same time."""
    preparer = preparer_at_448()
    return LatentRecipe(
        codec="none",
        depth=preparer.depth,
        image_factor=preparer.images.factor,
        min_pixels=preparer.images.min_pixels,
        max_pixels=preparer.images.max_pixels,
    )


def write_pictures(folder: Path, *, num_pictures: int) -> None:
    """Records of JPEGs with depth maps and questions, and latents beside them.

    Args:
        folder: to write.
        num_pictures: of them; 16 different ones, each with noise of its own.
    """
    rng = np.random.default_rng(0)
    scenes = [picture_like_a_photograph(rng) for _ in range(16)]
    depth = [encode_depth(1 + image[..., 0].astype(np.float32) / 64, 0.001) for image in scenes]
    with ShardWriter(folder) as writer:
        for number in range(num_pictures):
            noise = rng.integers(-12, 13, scenes[0].shape)
            image = np.clip(scenes[number % 16] + noise, 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=85)
            for question in range(QUESTIONS):
                writer.add(_record(f"{number:06d}", question, buffer.getvalue(), depth[number % 16]))
    _write_latents(folder, rng)


def write_many_rows(folder: Path, rows: int) -> None:
    """A record folder of many rows of a few hundred bytes, in groups of four.

    Args:
        folder: to write; need not exist.
        rows: at least one; rounded up to whole groups.
    """
    folder.mkdir(parents=True)
    num_groups = -(-rows // _ROWS_PER_GROUP)
    picture = encode_png(np.full((16, 16, 3), 128, np.uint8))
    template = pa.Table.from_pylist([to_row(_record("0", 0, picture, None))], SCHEMA)
    shards = []
    index: list[tuple[int, int, str]] = []
    groups_per_shard = _ROWS_PER_SHARD // _ROWS_PER_GROUP
    for number, first in enumerate(range(0, num_groups, groups_per_shard)):
        groups = np.arange(first, min(first + groups_per_shard, num_groups)).repeat(_ROWS_PER_GROUP)
        turns = np.tile(np.arange(_ROWS_PER_GROUP), len(groups) // _ROWS_PER_GROUP)
        names = np.char.mod("%07d", groups)
        table = template.take(pa.array(np.zeros(len(groups), np.int64)))
        ids = np.char.add(np.char.add(names, "/"), turns.astype(str))
        for column, values in (("group", names), ("id", ids)):
            table = table.set_column(SCHEMA.get_field_index(column), SCHEMA.field(column), pa.array(values))
        path = folder / f"shard-{number:05d}.parquet"
        pq.write_table(
            table, path, row_group_size=_ROWS_PER_ROW_GROUP, compression="zstd", write_statistics=False
        )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append(
            ShardInfo(name=path.name, rows=len(groups), num_bytes=path.stat().st_size, sha256=digest)
        )
        index += [(number, _ROWS_PER_GROUP, "bench")] * (len(groups) // _ROWS_PER_GROUP)
    encoded = encode_index(index)
    (folder / INDEX).write_bytes(encoded)
    total = num_groups * _ROWS_PER_GROUP
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        rows=total,
        groups=num_groups,
        images=num_groups,
        depths=0,
        by_source={"bench": total},
        by_category={"spatial": total},
        by_skill={"bench": total},
        shards=tuple(shards),
        index_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    (folder / MANIFEST).write_text(json.dumps(to_dict(manifest)))


def picture_like_a_photograph(rng: np.random.Generator) -> np.ndarray:
    """Smooth colours with sharp shapes on them, so that a JPEG is about as large as a photograph's."""
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    return _with_shapes(coarse, rng)


def map_like_disparity(rng: np.random.Generator) -> np.ndarray:
    """Slow slopes with sharp shapes on them, 8 bits: as a 16-bit PNG somewhat larger than inverse depth of real frames.

    (110 KB; three frames of TUM RGB-D, with holes filled, come to 81 to 95 KB.)
    """
    coarse = Image.fromarray(rng.integers(0, 255, (3, 4), dtype=np.uint8))
    return _with_shapes(coarse, rng)


def _with_shapes(coarse: Image.Image, rng: np.random.Generator) -> np.ndarray:
    image = np.array(coarse.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))
    for _ in range(24):
        top, left = rng.integers(0, SIZE[0] - 60), rng.integers(0, SIZE[1] - 60)
        height, width = rng.integers(10, 60, 2)
        image[top : top + height, left : left + width] = rng.integers(0, 255, image.shape[2:])
    return image


def _record(group: str, question: int, picture: bytes, depth: bytes | None) -> Record:
    words = ("nearer", "farther", "left of", "right of", "above", "below", "taller than", "wider than")
    asked = f"Question {question}: is the {words[question]} object of scene {group} red or blue?"
    return Record(
        id=f"{group}/{question}",
        source="bench",
        category="spatial",
        skill="bench",
        group=group,
        images=(ImageFile(data=picture),),
        depths=() if depth is None else (DepthFile(data=depth),),
        messages=(
            Message(role="user", content=f"<image>\n{asked}"),
            Message(role="assistant", content=("red", "blue")[question % 2]),
        ),
        answer=Answer(kind="text", text=("red", "blue")[question % 2]),
        meta={"scene": group, "numbers": list(range(8))},
    )


def _write_latents(folder: Path, rng: np.random.Generator) -> None:
    groups, recipe, preparer = RecordGroups([folder]), recipe_at_448(), preparer_at_448()
    height, width = target_size(*smart_resize(*SIZE, preparer.images), preparer.depth)
    shape = (_LAYOUT.channels, height // _LAYOUT.factor, width // _LAYOUT.factor)
    written = []
    for shard in groups.shards:
        writer = LatentWriter(layout=_LAYOUT, recipe_key=recipe.key, shard=shard)
        for _ in range(shard.num_groups):
            latents = rng.standard_normal(shape).astype(np.float32)
            valid = np.ones((1, *shape[1:]), bool)
            writer.add([LatentMap(image_index=0, latents=latents, valid=valid)])
        written.append(writer.write(folder / FOLDER / recipe.key))
    manifest = LatentManifest(recipe=recipe, layout=_LAYOUT, shards=tuple(written))
    write_manifest(folder / FOLDER / recipe.key, manifest)
