"""TFRecord and tf.train.Example: their definitions, tensorboard's writer, protobuf's library, and real files."""

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from egem.core.errors import RecordError
from egem.data_engine.formats.crc32c import crc32c, masked_crc32c
from egem.data_engine.formats.tfrecord import parse_example, parse_sequence_example, read_tfrecords
from real_data import BRIDGE, needs_real_data
from sources.tfrecords import bytes_feature, field, slow_crc32c, varint, write_tfrecords


def test_crc32c_of_the_published_vectors() -> None:
    # RFC 3720, B.4, and the check value of the CRC catalogue.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0


def test_crc32c_equals_the_bitwise_definition_at_every_length() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 40_000, dtype=np.uint8).tobytes()
    # From 6,778 bytes on, the front is folded into the rest; from 13,555 and 27,109 on, at a wider scale first.
    lengths = [
        *range(40),
        *range(250, 262),
        2047,
        2048,
        2049,
        6776,
        6777,
        6778,
        13_554,
        13_555,
        27_109,
        40_000,
    ]
    for length in lengths:
        assert crc32c(data[:length]) == slow_crc32c(data[:length]), length


def test_files_of_tensorboards_writer(tmp_path: Path) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    rng = np.random.default_rng(1)
    records = [rng.bytes(size) for size in (0, 1, 300, 70_000, 5)]
    path = tmp_path / "a.tfrecord"
    with path.open("wb") as file:
        for record in records:
            writer.RecordWriter(file).write(record)
    assert list(read_tfrecords(path)) == records
    assert write_tfrecords(tmp_path / "b", records).read_bytes() == path.read_bytes()


def example_classes():
    """Example and SequenceExample as protobuf's own library builds them from the published schema."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str], oneof: bool = False):
        found = file.message_type.add(name=name)
        for label, number, kind, repeated, type_name in fields:
            one = found.field.add(name=label, number=number, type=kind, label=repeated)
            if type_name:
                one.type_name = f".t.{type_name}"
            if oneof:
                one.oneof_index = 0
        if oneof:
            found.oneof_decl.add(name="kind")
        return found

    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    message("BytesList", ("value", 1, kinds.TYPE_BYTES, many, ""))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, many, ""))
    message("Int64List", ("value", 1, kinds.TYPE_INT64, many, ""))
    lists = [("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List")]
    message("Feature", *[(n, i, kinds.TYPE_MESSAGE, one, t) for n, i, t in lists], oneof=True)
    message("FeatureList", ("feature", 1, kinds.TYPE_MESSAGE, many, "Feature"))
    for name, label, value in (
        ("Features", "feature", "Feature"),
        ("FeatureLists", "feature_list", "FeatureList"),
    ):
        entry = "".join(part.title() for part in label.split("_")) + "Entry"
        found = message(name, (label, 1, kinds.TYPE_MESSAGE, many, f"{name}.{entry}"))
        nested = found.nested_type.add(name=entry)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=one)
        nested.field.add(name="value", number=2, type=kinds.TYPE_MESSAGE, label=one, type_name=f".t.{value}")
    message("Example", ("features", 1, kinds.TYPE_MESSAGE, one, "Features"))
    message(
        "SequenceExample",
        ("context", 1, kinds.TYPE_MESSAGE, one, "Features"),
        ("feature_lists", 2, kinds.TYPE_MESSAGE, one, "FeatureLists"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{n}"))
        for n in ("Example", "SequenceExample")
    ]


def fill(feature, rng: random.Random):
    kind = rng.choice(["bytes", "float", "int", "none"])
    count = rng.choice([0, 1, 7, 40])
    if kind == "bytes":
        values = [rng.randbytes(rng.randrange(300)) for _ in range(count)]
        feature.bytes_list.value.extend(values)
        feature.bytes_list.SetInParent()
        return values
    if kind == "float":
        values = np.array([rng.uniform(-9, 9) for _ in range(count)], np.float32)
        feature.float_list.value.extend(values.tolist())
        feature.float_list.SetInParent()
        return values
    if kind == "int":
        values = [
            rng.choice([0, 1, 127, 128, -1, 2**63 - 1, -(2**63), rng.randrange(10**6)]) for _ in range(count)
        ]
        feature.int64_list.value.extend(values)
        feature.int64_list.SetInParent()
        return np.array(values, np.int64)
    return []


def same(found, wanted) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, list):
        assert found == wanted
    else:
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_messages_of_protobufs_own_library() -> None:
    example_class, sequence_class = example_classes()
    rng = random.Random(0)
    for _ in range(60):
        example = example_class()
        wanted = {f"k/{i}é": fill(example.features.feature[f"k/{i}é"], rng) for i in range(rng.randrange(6))}
        found = parse_example(example.SerializeToString())
        assert found.keys() == wanted.keys()
        for key, values in wanted.items():
            same(found[key], values)
    for _ in range(30):
        clip = sequence_class()
        context = {"c": fill(clip.context.feature["c"], rng)}
        steps = {}
        for name in ("images", "texts"):
            entry = clip.feature_lists.feature_list[name]
            steps[name] = [fill(entry.feature.add(), rng) for _ in range(rng.randrange(4))]
        found = parse_sequence_example(clip.SerializeToString())
        same(found.context["c"], context["c"])
        assert found.steps.keys() == steps.keys()
        for name, values in steps.items():
            assert len(found.steps[name]) == len(values)
            for one, other in zip(found.steps[name], values, strict=True):
                same(one, other)


def test_unpacked_numbers_and_unknown_fields_are_read_too() -> None:
    numbers = b"".join(varint(1 << 3) + varint(value & (2**64 - 1)) for value in (5, -3, 300))
    floats = b"".join(varint(1 << 3 | 5) + struct.pack("<f", value) for value in (0.5, -2.0))
    unknown = field(9, b"later") + varint(8 << 3 | 1) + bytes(8) + varint(7 << 3) + varint(99)
    entries = b"".join(
        field(1, field(1, name) + field(2, feature + unknown))
        for name, feature in (
            (b"i", field(3, numbers)),
            (b"f", field(2, floats)),
            (b"b", bytes_feature([b"x"])),
        )
    )
    found = parse_example(field(1, entries) + unknown)
    np.testing.assert_array_equal(found["i"], np.array([5, -3, 300]))
    np.testing.assert_array_equal(found["f"], np.array([0.5, -2.0], np.float32))
    assert found["b"] == [b"x"]


def test_every_truncation_and_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = write_tfrecords(tmp_path / "a.tfrecord", [b"first", b"the second record"])
    content = path.read_bytes()
    frame = 16 + len(b"first")
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        if size == frame:
            assert list(read_tfrecords(path)) == [b"first"]
            continue
        with pytest.raises(RecordError, match=rf"a.tfrecord, record {1 if size < frame else 2} .*truncated"):
            list(read_tfrecords(path))
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        path.write_bytes(bytes(damaged))
        with pytest.raises(RecordError, match=r"checksum|truncated"):
            list(read_tfrecords(path))


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\x1f\x8b" + bytes(40))
    with pytest.raises(RecordError, match="compressed with gzip; uncompress it first"):
        list(read_tfrecords(path))
    path.write_text("a text that is long enough to be a header")
    with pytest.raises(RecordError, match="is it a TFRecord file"):
        list(read_tfrecords(path))
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        list(read_tfrecords(tmp_path / "none"))
    for data in (b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab", b"\xff" * 30, b"\x0f\x00"):
        with pytest.raises(RecordError, match=r"r1 is not a tf\.train\.Example"):
            parse_example(data, where="r1")
        with pytest.raises(RecordError, match=r"is not a tf\.train\.SequenceExample"):
            parse_sequence_example(data)


@needs_real_data
def test_real_bridge_episodes() -> None:
    """25 WidowX episodes as TensorFlow wrote them."""
    from egem.data_engine.sources.pictures import checked

    files = sorted(BRIDGE.glob("*.tfrecord*"))
    features = json.loads((BRIDGE / "features.json").read_text())
    assert "steps" in json.dumps(features)
    episodes = [parse_example(data) for file in files for data in read_tfrecords(file)]
    assert len(episodes) == 25
    for episode in episodes:
        steps = len(episode["steps/is_first"])
        assert episode["steps/action"].shape == (steps * 7,)
        assert episode["steps/observation/state"].dtype == np.float32
        assert np.isfinite(episode["steps/action"]).all()
        assert episode["steps/is_first"].tolist() == [1] + [0] * (steps - 1)
        images = episode["steps/observation/image_0"]
        assert len(images) == steps
        assert all((p := checked(image, "x")).width == p.height == 64 for image in images)
        assert episode["steps/language_instruction"][0].decode()


def test_masked_checksums_are_rotated() -> None:
    assert (
        masked_crc32c(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    )
