import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.record_sets import group

from egem.core.errors import ConfigError, EgemError, RecordError
from egem.records import SCHEMA, Answer, ImageFile, Message, Record, to_row
from egem.shards import RecordGroups, ShardWriter, iterate_records, read_manifest, verify_shards


def write(folder: Path, num_groups: int = 5, **options: int) -> list[Record]:
    records = [record for seed in range(num_groups) for record in group(seed)]
    write_all(folder, records, **options)
    return records


def write_all(folder: Path, records: list[Record], **options: int) -> None:
    with ShardWriter(folder, **options) as writer:
        for record in records:
            writer.add(record)


def plain(group: str, number: int, image: bytes) -> Record:
    return Record(
        id=f"{group}/{number}",
        source="test",
        category="spatial",
        skill="plain",
        group=group,
        images=(ImageFile(data=image),),
        messages=(Message(role="user", content="<image>?"), Message(role="assistant", content="yes")),
        answer=Answer(kind="text", text="yes"),
    )


def test_what_is_written_is_read(tmp_path):
    records = write(tmp_path / "a", rows_per_shard=8, rows_per_row_group=4)
    assert list(iterate_records(tmp_path / "a")) == records
    groups = RecordGroups([tmp_path / "a"])
    assert len(groups) == 5
    for index in range(5):
        assert list(groups[index]) == records[index * 4 : index * 4 + 4]
    assert [r.id for g in groups for r in g] == [r.id for r in records]
    assert groups[-1] == groups[4]
    with pytest.raises(IndexError):
        groups[5]


def test_manifest_counts(tmp_path):
    write(tmp_path / "a", rows_per_shard=8)
    manifest = read_manifest(tmp_path / "a")
    assert (manifest.rows, manifest.groups, manifest.images, manifest.depths) == (20, 5, 5, 5)
    assert manifest.by_source == {"test": 20}
    assert manifest.by_category == {"grounding": 10, "spatial": 10}
    assert manifest.by_skill == {"box": 5, "counting": 5, "free_space": 5, "nearest": 5}
    assert [shard.rows for shard in manifest.shards] == [8, 8, 4]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "groups.arrow",
        "manifest.json",
        *[shard.name for shard in manifest.shards],
    ]
    verify_shards(tmp_path / "a")


def test_the_same_records_give_the_same_bytes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert RecordGroups([tmp_path / "a"]).fingerprint == RecordGroups([tmp_path / "b"]).fingerprint
    write(tmp_path / "c", num_groups=4)
    assert RecordGroups([tmp_path / "a"]).fingerprint != RecordGroups([tmp_path / "c"]).fingerprint


def test_records_of_a_group_share_one_stored_image(tmp_path):
    image = np.random.default_rng(0).bytes(3_000_000)
    with ShardWriter(tmp_path / "a") as writer:
        for number in range(12):
            writer.add(plain("g", number, image))
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert size < 1.1 * len(image)
    records = RecordGroups([tmp_path / "a"])[0]
    assert all(record.images[0].data is records[0].images[0].data for record in records)


def test_groups_never_cross_row_groups(tmp_path):
    write(tmp_path / "a", rows_per_row_group=6, rows_per_shard=1000)
    file = pq.ParquetFile(tmp_path / "a" / "shard-00000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4] * 5


def test_other_tools_read_the_shards(tmp_path):
    records = write(tmp_path / "a")
    path = tmp_path / "a" / "shard-00000.parquet"
    table = pq.read_table(path)
    assert table.column("id").to_pylist() == [record.id for record in records]
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows[3]["images"][0]["bytes"] == records[3].images[0].data
    assert rows[3]["answer"]["box"] == [100, 200, 300, 400]
    pictures = rows.cast_column("images", datasets.List(datasets.Image()))
    assert pictures[0]["images"][0].size == (64, 48)


def test_several_folders_read_as_one(tmp_path):
    write(tmp_path / "a", num_groups=2)
    write(tmp_path / "b", num_groups=3)
    groups = RecordGroups([tmp_path / "a", tmp_path / "b"])
    assert [g[0].group for g in groups] == ["test/0", "test/1", "test/0", "test/1", "test/2"]


def test_relative_paths_are_resolved_from_the_folder(tmp_path):
    record = replace(plain("g", 0, b""), images=(ImageFile(path="images/1.png"),))
    with ShardWriter(tmp_path / "a") as writer:
        writer.add(record)
    expected = str(tmp_path / "a" / "images" / "1.png")
    assert next(iterate_records(tmp_path / "a")).images[0].path == expected
    assert RecordGroups([tmp_path / "a"])[0][0].images[0].path == expected


def test_groups_travel_to_worker_processes(tmp_path):
    records = write(tmp_path / "a")
    groups = RecordGroups([tmp_path / "a"])
    assert groups[1] == tuple(records[4:8])
    assert pickle.loads(pickle.dumps(groups))[1] == tuple(records[4:8])


def test_a_million_rows_open_quickly(tmp_path):
    rows = 1_000_000
    folder = tmp_path / "a"
    folder.mkdir()
    names = pa.array(np.char.add("tabletop/train/", (np.arange(rows) // 12).astype(str)))
    columns = {field.name: pa.nulls(rows, field.type) if field.nullable else None for field in SCHEMA} | {
        "group": names
    }
    empty = pa.array([[]], SCHEMA.field("images").type)
    blind = replace(
        plain("g", 0, b""), messages=(Message(role="user", content="?"), *plain("g", 0, b"").messages[1:])
    )
    for name in SCHEMA.names:
        if columns[name] is None:
            one = pa.array([to_row(blind)[name]], SCHEMA.field(name).type)
            columns[name] = pa.chunked_array(
                [(empty if name == "images" else one).take(pa.array([0] * rows))]
            )
    table = pa.table(columns, schema=SCHEMA)
    pq.write_table(table, folder / "shard-00000.parquet", row_group_size=5000)
    size = (folder / "shard-00000.parquet").stat().st_size
    shard = {"name": "shard-00000.parquet", "rows": rows, "num_bytes": size, "sha256": "0"}
    manifest = {"schema_version": 1, "rows": rows, "groups": rows // 12, "images": 0, "depths": 0}
    counts = {"by_source": {}, "by_category": {}, "by_skill": {}, "shards": [shard]}
    (folder / "manifest.json").write_text(json.dumps(manifest | counts))
    start = time.process_time()
    groups = RecordGroups([folder])
    assert time.process_time() - start < 5
    assert len(groups) == -(-rows // 12)
    assert groups[70_000][0].group == "tabletop/train/70000"
    assert len(groups[70_000]) == 12


def test_invalid_records_leave_nothing_behind(tmp_path):
    empty = replace(plain("g", 0, b"x"), answer=Answer(kind="text", text=" "))
    first, second, other = plain("g", 0, b"x"), plain("g", 1, b"x"), plain("h", 0, b"x")
    for records, message in (
        ([empty], "record 'g/0': empty answer"),
        ([first, first], "record 'g/0': a record with this id was added before"),
        ([first, other, second], "record 'g/1': group 'g' was closed before"),
        ([], "no record was added"),
    ):
        with pytest.raises(RecordError, match=message):
            write_all(tmp_path / "a", records)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(tmp_path):
    write(tmp_path / "a")
    before = (tmp_path / "a" / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        write(tmp_path / "a")
    assert (tmp_path / "a" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("at_end", [False, True])
def test_full_disk(tmp_path, monkeypatch, at_end):
    """Every write beyond some kilobytes fails as a full disk does."""
    real_open = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if at_end or self.file.tell() + len(data) > 20_000:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

    def opened(path, *arguments, **options):
        file = real_open(path, *arguments, **options)
        if at_end:
            return Full(file) if "manifest" in path.name else file
        return Full(file) if path.suffix == ".parquet" and arguments == ("wb",) else file

    monkeypatch.setattr(Path, "open", opened)
    image = os.urandom(30_000)
    with pytest.raises(EgemError, match=r"no space left while writing .*/a; free some"):
        write_all(tmp_path / "a", [plain(f"g{number}", 0, image) for number in range(200)])
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_truncated_shards_are_named(tmp_path):
    write(tmp_path / "a")
    path = tmp_path / "a" / "shard-00000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    for read in (lambda: RecordGroups([tmp_path / "a"]), lambda: list(iterate_records(tmp_path / "a"))):
        with pytest.raises(
            RecordError, match=r"shard-00000.parquet is truncated or was changed: it has \d+ bytes"
        ):
            read()
    path.write_bytes(data[:-100] + bytes(100))
    with pytest.raises(
        RecordError, match=r"shard-00000.parquet cannot be read \(.*\); it is truncated or damaged"
    ):
        RecordGroups([tmp_path / "a"])[0]
    middle = len(data) // 3
    path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])
    with pytest.raises(RecordError, match="sha256 differs"):
        verify_shards(tmp_path / "a")
    path.unlink()
    with pytest.raises(RecordError, match=r"shard-00000.parquet is missing"):
        RecordGroups([tmp_path / "a"])


def test_damage_inside_a_page_is_a_record_error(tmp_path):
    write(tmp_path / "a")
    path = tmp_path / "a" / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[200:5000] = bytes(4800)
    path.write_bytes(bytes(data))
    with pytest.raises(RecordError, match=r"shard-00000.parquet cannot be read"):
        list(iterate_records(tmp_path / "a"))


def rewrite(folder: Path, table: pa.Table) -> None:
    path = folder / "shard-00000.parquet"
    pq.write_table(table, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["num_bytes"] = path.stat().st_size
    manifest["index_sha256"] = None
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_foreign_shards_are_named(tmp_path):
    write(tmp_path / "a")
    table = pq.read_table(tmp_path / "a" / "shard-00000.parquet")
    rewrite(tmp_path / "a", table.drop_columns(["answer", "skill"]))
    with pytest.raises(RecordError, match="not a shard of records: column skill, answer is missing"):
        RecordGroups([tmp_path / "a"])
    rewrite(tmp_path / "a", table.replace_schema_metadata({"egem.schema_version": "7"}))
    with pytest.raises(RecordError, match="has schema version 7, this is version 1"):
        RecordGroups([tmp_path / "a"])
    rewrite(tmp_path / "a", table.take([0, 5, 1, 2]))
    with pytest.raises(RecordError, match="do not stand next to each other"):
        RecordGroups([tmp_path / "a"])
    number = SCHEMA.get_field_index("messages")
    rewrite(tmp_path / "a", table.set_column(number, "messages", pa.array(["hello"] * table.num_rows)))
    with pytest.raises(RecordError, match="column messages has type string"):
        RecordGroups([tmp_path / "a"])


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (
            "messages",
            lambda _: None,
            r"record 'test/1/nearest' has a column that is empty or of another form",
        ),
        ("messages", lambda messages: messages[:1] + messages, "turns must alternate"),
        ("answer", lambda answer: {**answer, "text": " "}, "empty answer"),
        ("answer", lambda answer: {**answer, "points": [[5000, 5000]]}, r"\(5000, 5000\) is outside 0..1000"),
    ],
)
def test_records_of_other_tools_are_checked_when_they_are_read(tmp_path, column, change, message):
    write(tmp_path / "a", num_groups=2)
    rows = pq.read_table(tmp_path / "a" / "shard-00000.parquet").to_pylist()
    rows[4][column] = change(rows[4][column])
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA])
    rewrite(tmp_path / "a", pa.Table.from_pylist(rows, schema=schema))
    groups = RecordGroups([tmp_path / "a"]).for_training(with_depth=False)
    assert len(groups[0]) == 4
    with pytest.raises(RecordError, match=message):
        groups[1]
    with pytest.raises(RecordError, match=message):
        list(iterate_records(tmp_path / "a"))


def test_not_a_record_folder(tmp_path):
    with pytest.raises(RecordError, match=r"is not a folder of records: it has no manifest.json"):
        RecordGroups([tmp_path])
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RecordError, match="'schema_version' is missing"):
        read_manifest(tmp_path)
