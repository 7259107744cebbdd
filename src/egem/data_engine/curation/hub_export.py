"""`egem data export --to hf`: a folder that the Hugging Face hub shows and `datasets` loads, and that egem still reads.

    README.md                         the card, with where the data are for the hub
    data/train-00000-of-00003.parquet the columns of a shard, and `depth_preview`
    manifest.json, groups.arrow       as in every folder of records

Images are declared as such, so the viewer shows them. Depth maps have 16 bits, which no viewer shows: `depth_preview`
is the first one in grey, near is bright, as a small JPEG.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from egem.core.config import to_dict
from egem.core.errors import ConfigError, RecordError
from egem.core.files import new_folder
from egem.data_engine.curation.licences import passing_on
from egem.data_engine.curation.mixture_card import CARD_MARKDOWN, SourceFacts, source_facts
from egem.data_engine.engine import EngineConfig, open_engine
from egem.media import decode_depth
from egem.records import SCHEMA, DepthFile
from egem.shards import MANIFEST, RecordGroups, ShardInfo
from egem.shards.index import INDEX, encode_index
from egem.shards.parquet import open_shard
from egem.shards.writer import COMPRESSION

PREVIEW_SIDE = 256
"""Pixels of the longer side of a depth preview."""
_PREVIEW = pa.field("depth_preview", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, kw_only=True)
class HubExportConfig:
    """What the folder is to be."""

    name: str = ""
    """Of the dataset, in its card; the folder's if empty."""
    split: str = "train"
    permitted: tuple[str, ...] = ()
    """Sources whose licence forbids, or does not state, that their data are passed on, and that you have leave for."""


def export_to_hub(
    folder: Path, out: Path, config: HubExportConfig | None = None, engine: EngineConfig | None = None
) -> dict[str, SourceFacts]:
    """Write the folder, whole or not at all; returns what each source gave.

    Args:
        folder: of records, on a disk.
        out: folder to write; must not exist or be empty.
        config: its name and what may be in it.
        engine: who converts; each worker takes whole shards.

    Raises:
        ConfigError: a source may not be passed on and is not permitted, or `out` exists.
        RecordError: a shard or a file that it names is damaged.
    """
    config = config or HubExportConfig()
    folder = Path(folder)
    facts = source_facts(folder)
    _check_licences(facts, config)
    groups = RecordGroups([folder])
    manifest = groups.manifests[0]
    names = [
        f"data/{config.split}-{number:05d}-of-{len(groups.shards):05d}.parquet"
        for number in range(len(groups.shards))
    ]
    with new_folder(Path(out)) as target:
        (target / "data").mkdir()
        work = _ConvertShard(folder=folder.absolute(), target=target.absolute(), names=tuple(names))
        shards: dict[int, ShardInfo] = {}
        with tqdm(total=len(names), desc="export", unit="shard", disable=None) as bar:
            for number, info in open_engine(engine or EngineConfig()).map(work, range(len(names))):
                shards[number] = info
                bar.update()
        ordered = tuple(shards[number] for number in range(len(names)))
        index = encode_index(_group_rows(groups))
        (target / INDEX).write_bytes(index)
        written = replace(manifest, shards=ordered, index_sha256=hashlib.sha256(index).hexdigest())
        (target / MANIFEST).write_text(json.dumps(to_dict(written), indent=2))
        card = folder / CARD_MARKDOWN
        body = card.read_text() if card.is_file() else _card_body(config.name or folder.name, facts)
        (target / "README.md").write_text(_front_matter(config, folder, manifest.rows) + body)
    return facts


def _check_licences(facts: dict[str, SourceFacts], config: HubExportConfig) -> None:
    for name in config.permitted:
        if name not in facts:
            raise ConfigError(f"permitted source '{name}' is not in the folder; it has {', '.join(facts)}.")
    refused = [
        f"{name} ('{licence}')"
        for name, mine in facts.items()
        for licence in mine.licences
        if name not in config.permitted and passing_on(licence) != "yes"
    ]
    if refused:
        raise ConfigError(
            f"not to be passed on, or not stated to be: {'; '.join(refused)}. Leave these sources out (`egem data "
            "mix`) or, if their publishers have given you leave, name them with --permitted."
        )


@dataclass(frozen=True, kw_only=True)
class _ConvertShard:
    """What a worker does: one shard."""

    folder: Path
    target: Path
    names: tuple[str, ...]

    def __call__(self, number: int) -> tuple[int, ShardInfo]:
        shard = RecordGroups([self.folder]).shards[number]
        source = open_shard(shard.place, shard.info.name, shard.info.sha256)
        # `datasets` takes a declared feature only for a column that may be null.
        fields = [field.with_nullable(True) for field in [*SCHEMA, _PREVIEW]]
        schema = pa.schema(fields, metadata=_metadata())
        path = self.target / self.names[number]
        rows = 0
        with pq.ParquetWriter(
            path,
            schema,
            compression=COMPRESSION | {"depth_preview.bytes": "none", "depth_preview.path": "zstd"},  # pyright: ignore[reportArgumentType]
            use_dictionary=True,
            dictionary_pagesize_limit=256 << 20,
            write_statistics=False,
        ) as writer:
            for row_group in range(source.parquet.num_row_groups):
                found = source.read(row_group, SCHEMA.names).to_pylist()
                self._complete(found)
                writer.write_table(pa.Table.from_pylist(found, schema), row_group_size=len(found))
                rows += len(found)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return number, ShardInfo(
            name=self.names[number], rows=rows, num_bytes=path.stat().st_size, sha256=digest
        )

    def _complete(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put into rows the content of the files that they name, and the previews."""
        last: tuple[str, bytes | None] | None = None
        for row in rows:
            for file in (*row["images"], *(row["depths"] or ()), row["answer"]["region"]):
                if file is not None and file["bytes"] is None:
                    file["bytes"], file["path"] = _content(self.folder, file["path"], row["id"]), None
            if last is None or last[0] != row["group"]:
                last = row["group"], _preview(row)
            row["depth_preview"] = None if last[1] is None else {"bytes": last[1], "path": None}


def _content(folder: Path, name: str, record: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise RecordError(
            f"record '{record}': {folder / name} cannot be read: {error.strerror}; put the file back."
        ) from error


def _preview(row: dict[str, Any]) -> bytes | None:
    """The first depth map in grey: near is bright, no reading is black."""
    found = next((depth for depth in row["depths"] or () if depth is not None), None)
    if found is None:
        return None
    file = DepthFile(data=found["bytes"], unit_m=found["unit_m"], kind=found["kind"], origin=found["origin"])
    depth = decode_depth(file, where=f"record '{row['id']}'")
    known = depth > 0
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0)
    low, high = np.percentile(inverse[known], [2, 98]) if known.any() else (0.0, 1.0)
    grey = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)
    image = Image.fromarray(np.where(known, 32 + 223 * grey, 0).astype(np.uint8))
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _group_rows(groups: RecordGroups) -> list[tuple[int, int, str]]:
    return [
        (groups.locate(number)[0], rows, groups.sources[int(groups.source[number])])
        for number, rows in enumerate(groups.group_sizes.tolist())
    ]


def _metadata() -> dict[str, str]:
    """What tells `datasets` which columns are images."""
    features = {field.name: _feature(field.type) for field in [*SCHEMA, _PREVIEW]}
    # Depth files carry their unit, so their structure is no plain image; they stay bytes.
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["answer"]["region"] = {"_type": "Image"}
    features["depth_preview"] = {"_type": "Image"}
    own = {key.decode(): value.decode() for key, value in (SCHEMA.metadata or {}).items()}
    return {**own, "huggingface": json.dumps({"info": {"features": features}})}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    names = {pa.float64(): "float64", pa.int32(): "int32", pa.binary(): "binary", pa.string(): "string"}
    return {"dtype": names[kind], "_type": "Value"}


def _front_matter(config: HubExportConfig, folder: Path, rows: int) -> str:
    size = next((name for limit, name in _SIZES if rows < limit), "1M<n<10M")
    lines = [
        "---",
        f"pretty_name: {json.dumps(config.name or folder.name)}",
        "license: other",
        "license_name: those-of-its-sources",
        "task_categories:",
        "- image-text-to-text",
        "- visual-question-answering",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        f"  - split: {config.split}",
        f"    path: data/{config.split}-*.parquet",
        "---",
        "",
    ]
    return "\n".join(lines) + "\n"


def _card_body(name: str, facts: dict[str, SourceFacts]) -> str:
    lines = [f"# {name}", "", "| source | records | images | depth | licence |", "|---|--:|--:|---|---|"]
    for source, mine in facts.items():
        depths = ", ".join(f"{origin}: {count:,}" for origin, count in mine.depths.most_common())
        lines.append(
            f"| {source} | {mine.records:,} | {mine.images:,} | {depths} | {'; '.join(mine.licences)} |"
        )
    return "\n".join(lines) + "\n"
