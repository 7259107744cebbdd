"""Record folders behind an address: read as from a disk, copied if wanted, and never waited for in vain."""

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tests.record_sets import group, write_records

from egem.core.errors import RecordError
from egem.records import ImageFile
from egem.shards import RecordGroups, ShardWriter, fingerprint, iterate_records, read_manifest, verify_shards
from egem.shards.storage import LocalFolder, RemoteFolder, storage


class Counting(MemoryFileSystem):
    """A memory of its own that notes what is fetched."""

    protocol = "counting"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    fetched: list[tuple[str, int]] = []  # noqa: RUF012
    failures = 0

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("counting://", "memory://"))

    def cat_file(self, path, start=None, end=None, **options):
        if Counting.failures:
            Counting.failures -= 1
            raise ConnectionResetError("connection reset by peer")
        data = super().cat_file(path, start=start, end=end, **options)
        Counting.fetched.append((path.rsplit("/", 1)[-1], len(data)))
        return data


class Stuck(fsspec.AbstractFileSystem):
    """Accepts every question and answers none."""

    protocol = "stuck"
    cachable = False

    def info(self, path, **_):
        time.sleep(30)

    ls = cat_file = info


@pytest.fixture(autouse=True)
def _protocols():
    fsspec.register_implementation("counting", Counting, clobber=True)
    fsspec.register_implementation("stuck", Stuck, clobber=True)
    Counting.store.clear()
    Counting.fetched.clear()
    Counting.failures = 0


def upload(folder: Path, name: str = "records") -> str:
    filesystem = fsspec.filesystem("counting")
    for path in folder.rglob("*"):
        if path.is_file():
            filesystem.pipe_file(f"/{name}/{path.relative_to(folder)}", path.read_bytes())
    return f"counting://{name}"


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    return write_records(tmp_path_factory.mktemp("local") / "records", num_groups=6)


def test_a_remote_folder_reads_as_a_local_one(local):
    url = upload(local)
    here, there = RecordGroups([local]), RecordGroups([url])
    assert list(there) == list(here)
    assert there.fingerprint == here.fingerprint == fingerprint([url])
    assert list(iterate_records(url)) == list(iterate_records(local))
    assert read_manifest(url) == read_manifest(local)
    verify_shards(url)
    assert pickle.loads(pickle.dumps(there))[3] == here[3]


def test_an_address_survives_pathlib(local):
    url = Path(upload(local))
    assert str(url) == "counting:/records"
    assert len(RecordGroups([url])) == 6
    place = storage(Path("s3://bucket/some/folder"))
    assert isinstance(place, RemoteFolder)
    assert place.address == "s3://bucket/some/folder"
    assert isinstance(storage("file:///tmp/x"), LocalFolder)
    assert isinstance(storage("some:folder"), LocalFolder)
    assert storage(Path("file:///tmp/x")).address == "/tmp/x"


def test_only_what_is_needed_is_fetched(tmp_path):
    with ShardWriter(tmp_path / "records", rows_per_row_group=4) as writer:
        for seed in range(12):
            noise = os.urandom(60_000)
            for record in group(seed):
                picture = ImageFile(data=record.images[0].data + noise)
                depth = replace(record.depths[0], data=record.depths[0].data + bytes([seed]) * 200_000)
                writer.add(replace(record, images=(picture,), depths=(depth,)))
    groups = RecordGroups([upload(tmp_path / "records")])
    sizes = []
    for with_depth in (True, False):
        view = groups.for_training(with_depth=with_depth)
        view[0]
        Counting.fetched.clear()
        view[5]
        assert len(Counting.fetched) <= 3
        sizes.append(sum(size for _, size in Counting.fetched))
    assert sizes[1] < 80_000
    assert 260_000 < sizes[0] < 300_000


def test_a_cache_keeps_whole_shards(local, tmp_path):
    url = upload(local)
    expected = list(RecordGroups([local]))
    assert list(RecordGroups([url], cache=tmp_path / "cache")) == expected
    (shard,) = [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".parquet"]
    assert shard.read_bytes() == (local / "shard-00000.parquet").read_bytes()
    Counting.fetched.clear()
    assert list(RecordGroups([url], cache=tmp_path / "cache")) == expected
    assert {name for name, _ in Counting.fetched} == {"manifest.json", "groups.arrow"}


def test_pictures_beside_remote_shards_are_read(tmp_path):
    record = group(0, with_depth=False)[0]
    picture = record.images[0].data
    with ShardWriter(tmp_path / "records") as writer:
        writer.add(replace(record, images=(ImageFile(path="images/1.png"),)))
    (tmp_path / "records" / "images").mkdir()
    (tmp_path / "records" / "images" / "1.png").write_bytes(picture)
    ((read,),) = RecordGroups([upload(tmp_path / "records")])
    assert read.images[0].data == picture


def test_a_connection_that_breaks_is_tried_again(local):
    url = upload(local)
    Counting.failures = 2
    assert len(RecordGroups([url])) == 6
    Counting.failures = 3
    with pytest.raises(
        RecordError, match=r"counting://records/manifest.json cannot be read \(connection reset"
    ):
        RecordGroups([url])


@pytest.mark.timeout(20)
def test_an_address_nobody_answers_at_is_one_error():
    place = storage("stuck://bucket/records", time_limit_s=0.2)
    start = time.monotonic()
    with pytest.raises(
        RecordError,
        match=r"^stuck://bucket/records/manifest.json cannot be read \(no answer in time\); check the address",
    ):
        place.stat(["manifest.json"])
    assert time.monotonic() - start < 5


def test_addresses_that_cannot_be():
    with pytest.raises(
        RecordError, match=r"^nosuch://x cannot be read: Protocol not known.*; install the pack"
    ):
        RecordGroups(["nosuch://x"])
    with pytest.raises(RecordError, match=r"^counting://nothing is not a folder of records"):
        RecordGroups(["counting://nothing"])


def test_missing_and_changed_remote_shards_are_named(local):
    url = upload(local)
    filesystem = fsspec.filesystem("counting")
    data = filesystem.cat_file("/records/shard-00000.parquet")
    filesystem.pipe_file("/records/shard-00000.parquet", data[:-7])
    with pytest.raises(
        RecordError, match=r"^counting://records/shard-00000.parquet is truncated or was changed"
    ):
        RecordGroups([url])
    filesystem.rm("/records/shard-00000.parquet")
    with pytest.raises(RecordError, match=r"^counting://records/shard-00000.parquet is missing"):
        RecordGroups([url])


def test_a_shard_that_changes_under_a_run(tmp_path):
    folder = write_records(tmp_path / "records", num_groups=3)
    groups = RecordGroups([folder])
    path = folder / "shard-00000.parquet"
    groups.check_unchanged()
    os.utime(path, ns=(1, 1))
    groups.check_unchanged()  # touched, but the same bytes
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(RecordError, match=r"shard-00000.parquet is not the file that was written"):
        groups.check_unchanged()
    path.unlink()
    with pytest.raises(RecordError, match=r"shard-00000.parquet is missing"):
        groups.check_unchanged()
    with pytest.raises(RecordError, match=r"shard-00000.parquet is missing"):
        fingerprint([folder])


def test_a_damaged_index_is_named(tmp_path):
    folder = write_records(tmp_path / "records", num_groups=3)
    path = folder / "groups.arrow"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RecordError, match=r"groups.arrow is not the file that was written"):
        RecordGroups([folder])
    path.unlink()
    with pytest.raises(RecordError, match=r"groups.arrow cannot be read: No such file"):
        RecordGroups([folder])
