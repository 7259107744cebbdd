"""What making records costs: records a second of one core by source, and how much faster two workers are.

Sources are written first, in their published layouts: JPEGs of 640 x 480 that look like photographs, 16 frames a clip.
Seconds are those of the processor; the scaling is the clock's, so measure it on a machine that does nothing else.
"""

import io
import json
import logging
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egem.benchmarking.pictures import map_like_disparity, picture_like_a_photograph
from egem.core.errors import ConfigError, unknown_name
from egem.data_engine import ImportOptions, import_source
from egem.data_engine.engine import EngineConfig
from egem.data_engine.formats.crc32c import masked_crc32c
from egem.data_engine.generate import GenerateConfig, generate
from egem.shards import Manifest

logger = logging.getLogger(__name__)

_PICTURES = 32
_FRAMES = 16
_FEWEST_PARTS, _MOST_PARTS, _ITEMS = 8, 48, 100
_TURNS = 4
_REFSPATIAL_TURNS = 8
"""Its card: 20 million questions in 2.5 million rows."""


@dataclass(frozen=True, kw_only=True)
class BenchEngineConfig:
    """How much is made."""

    rows: int = 2000
    """Rows of a LLaVA file; of other sources fewer, that cost as much. 40,000 tell the scaling: starting workers takes
    two seconds."""
    sources: tuple[str, ...] = ()
    """Only these of the result's imports ("llava", "spar-7m, marked"); all if empty."""
    scenes: int = 8
    """3D scenes that `egem data generate` asks about, 60 questions each; 0 leaves this out."""
    workers: int = 2
    """Processes to compare with one; 1 leaves this out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: names the option.
        """
        for name, least in (("rows", 20), ("scenes", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least {least}.")
        for name in self.sources:
            if name not in _LAYOUTS:
                raise unknown_name("source to time", name, _LAYOUTS)


def bench_engine(config: BenchEngineConfig) -> dict[str, Any]:
    """Measure; the result is JSON.

    Raises:
        RenderError: scenes are wanted and no renderer can be had.
    """
    result: dict[str, Any] = {"rows": config.rows, "workers": config.workers, "steps": {}}
    with tempfile.TemporaryDirectory(prefix="egem-bench-") as made:
        folder = Path(made)
        for name in config.sources or _LAYOUTS:
            layout = _LAYOUTS[name]
            layout.write(folder / name, layout.items(config.rows))

            def run(
                out: Path,
                engine: EngineConfig,
                limit: int | None,
                name: str = name,
                layout: _Layout = layout,
            ) -> Manifest:
                return import_source(layout.source, folder / name, out, ImportOptions(limit=limit), engine)

            items = layout.items(config.rows)
            result["steps"][f"import {name}"] = _measured(run, folder, items, config) | {"note": layout.note}
            logger.info("import %s: measured", name)
        if config.scenes:
            from egem.recipes.render import RenderConfig
            from egem.recipes.tabletop_rooms import export_config

            export_config(RenderConfig(num=config.scenes, size=(240, 320)), folder / "scenes")

            def ask(out: Path, engine: EngineConfig, _: int | None) -> Manifest:
                return generate(folder / "scenes", out, GenerateConfig(), engine).manifest

            result["steps"]["generate"] = _measured(ask, folder, config.scenes, config) | {"note": ""}
    return result


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = [f"{'step':<22} {'records':>8} {'per core s':>11} {'per s':>8} {'scaling':>8}"]
    for name, step in result["steps"].items():
        scaling = "" if step["scaling"] is None else f"{step['scaling']:.2f}"
        lines.append(
            f"{name:<22} {step['records']:>8} {step['per_core_second']:>11.0f} {step['per_second']:>8.0f} "
            f"{scaling:>8}  {step['note']}"
        )
    return "\n".join([*lines, f"\nper s and scaling: by the clock, {result['workers']} workers against one"])


def _measured(
    run: Callable[[Path, EngineConfig, int | None], Manifest],
    folder: Path,
    items: int,
    config: BenchEngineConfig,
) -> dict[str, Any]:
    # Parts enough that workers end at nearly the same time, but so few that what each costs is not all that is timed.
    items_per_part = max(1, items // min(max(items // _ITEMS, _FEWEST_PARTS), _MOST_PARTS))

    def timed(workers: int, limit: int | None = None) -> tuple[float, float, int]:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            wall, processor = time.perf_counter(), time.process_time()
            engine = EngineConfig(workers=workers, items_per_part=items_per_part)
            rows = run(Path(out) / "records", engine, limit).rows
            return time.perf_counter() - wall, time.process_time() - processor, rows

    timed(1, limit=_PICTURES)  # imports, tables and the disk's cache
    wall, processor, rows = timed(1)
    several = timed(config.workers)[0] if config.workers > 1 else None
    return {
        "records": rows,
        "per_core_second": rows / processor,
        "per_second": rows / (several or wall),
        "scaling": None if several is None else wall / several,
    }


def _pictures(folder: Path) -> list[bytes]:
    """JPEGs, also as files 0.jpg, 1.jpg, ..."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    found = []
    for number in range(_PICTURES):
        buffer = io.BytesIO()
        Image.fromarray(picture_like_a_photograph(rng)).save(buffer, "JPEG", quality=85)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
        found.append(buffer.getvalue())
    return found


def _turns(number: int, count: int) -> list[dict[str, str]]:
    said = []
    for turn in range(count):
        said.append(
            {"from": "human", "value": ("<image>\n" if turn == 0 else "") + f"What is at {turn} of {number}?"}
        )
        said.append({"from": "gpt", "value": f"[(0.25, 0.{turn}5)]"})
    return said


def _write_llava(folder: Path, items: int) -> None:
    _pictures(folder / "images")
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(items):
            row = {
                "id": number,
                "image": f"images/{number % _PICTURES}.jpg",
                "conversations": _turns(number, 1),
            }
            file.write(json.dumps(row) + "\n")


def _write_refspatial(folder: Path, items: int) -> None:
    _pictures(folder / "2D" / "image")
    (folder / "2D" / "depth").mkdir()
    rng = np.random.default_rng(1)
    for number in range(_PICTURES):
        Image.fromarray(map_like_disparity(rng)).save(folder / "2D" / "depth" / f"{number}.png")
    found = [
        {
            "id": number,
            "image": [f"{number % _PICTURES}.jpg"],
            "depth": [f"{number % _PICTURES}.png"],
            "conversations": _turns(number, _REFSPATIAL_TURNS),
        }
        for number in range(items)
    ]
    (folder / "2D" / "choice_qa.json").write_text(json.dumps(found))


def _write_spar(folder: Path, items: int, *, marked: bool) -> None:
    _pictures(folder / "scannet" / "images" / "scene" / "image_color")
    path = folder / "scannet" / "qa_jsonl" / "train" / "depth_prediction_oc" / "fill" / "rows.jsonl"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for number in range(items):
            row = {
                "id": str(number),
                "image": [f"scene/image_color/{number % _PICTURES}.jpg"],
                "type": "depth_prediction_oc",
                "conversations": [
                    {"from": "human", "value": f"How far is the chair of {number}, in metres?"},
                    {"from": "gpt", "value": "1.5"},
                ],
            } | ({"red_point": [[300, 400]]} if marked else {})
            file.write(json.dumps(row) + "\n")


def _write_robovqa(folder: Path, items: int) -> None:
    pictures = _pictures(folder / "pictures")
    tasks = "".join(f"<task:kind_{i}> Q: what is {i}? A: <PRED>thing {i}</PRED> " for i in range(_TURNS))
    with (folder / "clips.tfrecord").open("wb") as file:
        for number in range(items):
            frames = [pictures[(number + i) % _PICTURES] for i in range(_FRAMES)]
            data = _field(2, _feature_list("images", frames) + _feature_list("texts", [tasks.encode()]))
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(data + struct.pack("<I", masked_crc32c(data)))


def _feature_list(name: str, steps: list[bytes]) -> bytes:
    """An entry of tf.train.FeatureLists: a name, and a feature of one byte string for each step."""
    features = b"".join(_field(1, _field(1, _field(1, step))) for step in steps)
    return _field(1, _field(1, name.encode()) + _field(2, features))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = len(content), b""
    while size >= 128:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """A row of the table."""

    source: str
    write: Callable[[Path, int], None]
    """Fills a folder with so many items in the source's layout."""
    note: str
    """What an item is."""
    rows_per_item: int = 1
    """An item stands for so many of `rows`, as it has many questions or costs more."""

    def items(self, rows: int) -> int:
        """How many stand for so many rows."""
        return max(1, rows // self.rows_per_item)


_LAYOUTS: dict[str, _Layout] = {
    "llava": _Layout(source="llava", write=_write_llava, note="one picture, one question"),
    "refspatial": _Layout(
        source="refspatial",
        write=_write_refspatial,
        note="one picture with depth, eight questions; depth is encoded",
        rows_per_item=_REFSPATIAL_TURNS,
    ),
    "spar-7m": _Layout(
        source="spar-7m",
        write=partial(_write_spar, marked=False),
        note="one picture, one question",
        rows_per_item=4,
    ),
    "spar-7m, marked": _Layout(
        source="spar-7m",
        write=partial(_write_spar, marked=True),
        note="one picture, one mark drawn on it: decoded and encoded again",
        rows_per_item=4,
    ),
    "robovqa": _Layout(
        source="robovqa",
        write=_write_robovqa,
        note="clips of 16 frames, 8 kept, four questions",
        rows_per_item=10,
    ),
}
"""Name in the result -> what is written and imported."""
