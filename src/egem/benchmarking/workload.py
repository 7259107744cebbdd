"""What is timed: pictures with conversations of mixed length, for a model of any preset's sizes.

The large presets' tokenizers are not shipped, so their models are given the tiny preset's special tokens and its
tokenizer; sizes, vocabulary included, stay as they are.
"""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from egem.core.config import save_json
from egem.core.errors import unknown_name
from egem.media import encode_depth
from egem.models.presets import PRESETS, TINY, Preset, build_codec
from egem.models.tokenizer import processor_files
from egem.records import Answer, DepthFile, ImageFile, Message, Record
from egem.shards import ShardWriter

_WORDS = (
    "is",
    "the",
    "red",
    "small",
    "mug",
    "left",
    "of",
    "behind",
    "how",
    "many",
    "things",
    "are",
    "there",
    "yes",
)
_SPECIAL = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def preset_to_time(name: str) -> Preset:
    """A preset whose model understands the tiny tokenizer.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    preset = PRESETS[name]
    special = {key: TINY.backbone[key] for key in _SPECIAL}
    return replace(preset, backbone=preset.backbone | special, stop_ids=TINY.stop_ids)


def write_checkpoint(folder: Path, preset: Preset, image_size: int) -> None:
    """What reading records needs of a checkpoint: all but the trained weights, for images that are not resized."""
    folder.mkdir(parents=True)
    save_json(preset.config, folder / "config.json")
    (folder / "depth_codec").mkdir()
    build_codec(preset.depth_codec).save(folder / "depth_codec")
    _write_processor(folder / "backbone", preset, image_size)


def _write_processor(folder: Path, preset: Preset, image_size: int) -> None:
    folder.mkdir()
    for name, content in processor_files().items():
        (folder / name).write_bytes(content)
    path = folder / "preprocessor_config.json"
    vision = preset.backbone["vision_config"]
    values = json.loads(path.read_text()) | {
        "size": {"shortest_edge": image_size**2, "longest_edge": image_size**2},
        "patch_size": vision["patch_size"],
        "temporal_patch_size": vision["temporal_patch_size"],
        "merge_size": vision["spatial_merge_size"],
    }
    path.write_text(json.dumps(values))


def write_records(folder: Path, *, num_images: int, size: int, max_turns: int, seed: int = 0) -> None:
    """JPEG pictures with 16-bit depth, each with 1 to `max_turns` questions, few more often than many."""
    rng = np.random.default_rng(seed)
    with ShardWriter(folder) as writer:
        for index in range(num_images):
            picture, depth = io.BytesIO(), DepthFile(data=encode_depth(_smooth(rng, size, 0.5, 3.0), 0.001))
            colours = np.stack([_smooth(rng, size, 0.0, 255.0) for _ in range(3)], axis=-1)
            Image.fromarray(colours.astype(np.uint8)).save(picture, "JPEG", quality=90)
            for turn in range(round(float(np.exp(rng.uniform(0, np.log(max_turns)))))):
                answer = _text(rng, 1, 12)
                writer.add(
                    Record(
                        id=f"{index:06d}/{turn}",
                        source="random",
                        category="spatial",
                        skill="words",
                        group=f"{index:06d}",
                        images=(ImageFile(data=picture.getvalue()),),
                        depths=(depth,),
                        messages=(
                            Message(role="user", content=f"<image>{_text(rng, 4, 24)}?"),
                            Message(role="assistant", content=answer),
                        ),
                        answer=Answer(kind="text", text=answer),
                    )
                )


def _text(rng: np.random.Generator, low: int, high: int) -> str:
    return " ".join(rng.choice(_WORDS, rng.integers(low, high + 1)))


def _smooth(rng: np.random.Generator, size: int, low: float, high: float) -> np.ndarray:
    """A random surface as smooth as pictures are, so that its JPEG is as small as theirs."""
    coarse = Image.fromarray(rng.uniform(low, high, (12, 12)).astype(np.float32))
    return np.clip(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)), low, high)
