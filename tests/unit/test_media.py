import io

import numpy as np
import pytest
from PIL import Image

from egem.core.errors import RecordError
from egem.media import (
    check_depth,
    decode_depth,
    decode_image,
    decode_region,
    encode_counts,
    encode_depth,
    encode_png,
    encode_region,
    image_size,
)
from egem.records import DepthFile, ImageFile


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_png_round_trip(rgb, tmp_path):
    data = encode_png(rgb)
    assert data == encode_png(rgb)
    np.testing.assert_array_equal(decode_image(ImageFile(data=data)), rgb)
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(decode_image(ImageFile(path="a.png"), root=tmp_path), rgb)
    np.testing.assert_array_equal(decode_image(ImageFile(path=str(tmp_path / "a.png"))), rgb)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_other_modes_become_rgb(rgb, mode):
    image = Image.fromarray(rgb).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    result = decode_image(ImageFile(data=data))
    assert result.shape == (5, 7, 3)
    if mode != "CMYK":
        np.testing.assert_array_equal(result, np.asarray(image.convert("RGB")))


def test_exif_orientation_is_applied(rgb):
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    upright = decode_image(ImageFile(data=encoded(image, exif=exif)))
    np.testing.assert_array_equal(upright, np.rot90(rgb, -1))


def test_unreadable_images_are_named(rgb, tmp_path):
    data = encode_png(rgb)
    cut = data[:-30]
    with pytest.raises(
        RecordError, match=r"record 'a/1': the image stored in the record \(\d+ bytes\) cannot"
    ):
        decode_image(ImageFile(data=cut), where="record 'a/1'")
    with pytest.raises(RecordError, match="not a PNG, JPEG, WebP or BMP; it is damaged or of another format"):
        decode_image(ImageFile(data=b"hello"))
    with pytest.raises(RecordError, match=r"image .*missing.png cannot be read: No such file or directory"):
        decode_image(ImageFile(path="missing.png"), root=tmp_path)
    with pytest.raises(RecordError, match="neither bytes nor path"):
        decode_image(ImageFile())
    jpeg = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(RecordError, match="cannot be decoded"):
        decode_image(ImageFile(data=jpeg[: len(jpeg) // 2]))
    deep = Image.fromarray(np.full((4, 4), 1000, np.uint16))
    with pytest.raises(RecordError, match="is it a depth map"):
        decode_image(ImageFile(data=encoded(deep)))


def test_a_cut_file_is_an_error_unless_only_its_end_mark_is_missing(rgb):
    data = encode_png(rgb)
    for length in range(len(data) - 28):  # end mark 12 bytes, checksums of data and file 4 each, some padding
        with pytest.raises(RecordError):
            decode_image(ImageFile(data=data[:length]))
    for length in range(len(data) - 28, len(data)):
        try:
            pixels = decode_image(ImageFile(data=data[:length]))
        except RecordError:
            continue
        np.testing.assert_array_equal(pixels, rgb)


def test_huge_images_are_refused_before_decoding():
    header = encoded(Image.new("1", (20_000, 4_001)))
    with pytest.raises(RecordError, match="20000 x 4001 pixels, over 80000000"):
        decode_image(ImageFile(data=header))


def test_depth_round_trip():
    depth = np.array([[0.0, 0.5, 1.2345], [np.nan, -1.0, np.inf]], np.float32)
    data = encode_depth(depth, 0.001)
    result = decode_depth(DepthFile(data=data, unit_m=0.001))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0, 0.5, 1.2345], [0, 0, 0]], atol=0.00051)
    assert Image.open(io.BytesIO(data)).mode.startswith("I")


def test_depth_uses_all_sixteen_bits():
    depth = np.array([[1, 32768, 65535]], np.float32)
    np.testing.assert_array_equal(decode_depth(DepthFile(data=encode_depth(depth, 1.0), unit_m=1.0)), depth)


def test_depth_too_far_for_its_unit():
    with pytest.raises(RecordError, match=r"a depth of 70 does not fit into 16 bits of unit_m=0.001"):
        encode_depth(np.full((2, 2), 70.0, np.float32), 0.001)


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_depth_must_be_sixteen_bits(mode):
    data = encoded(Image.new(mode, (4, 4)))
    with pytest.raises(RecordError, match=f"has mode {mode}; a depth map is a PNG with one 16-bit channel"):
        decode_depth(DepthFile(data=data))


def test_truncated_depth_is_named():
    data = encode_depth(np.ones((20, 20), np.float32), 0.001)
    with pytest.raises(RecordError, match="the depth map stored in the record"):
        decode_depth(DepthFile(data=data[:-30]))


def test_wrong_unit_is_recognised():
    millimetres = np.full((10, 10), 812.0, np.float32)
    message = r"^here: median depth 812 m is implausible: is the unit millimetres\? give unit_m=0.001\.$"
    with pytest.raises(RecordError, match=message):
        check_depth(millimetres, "metric", where="here")
    tiny = np.full((10, 10), 0.0015, np.float32)
    with pytest.raises(RecordError, match="is the unit metres"):
        check_depth(tiny, "metric", where="here", unit_m=0.001)
    with pytest.raises(RecordError, match="give the right unit_m"):
        check_depth(np.full((2, 2), 1e9, np.float32), "metric", where="here")
    check_depth(millimetres, "relative", where="here")
    check_depth(np.zeros((4, 4), np.float32), "metric", where="here")
    check_depth(np.full((4, 4), 0.021, np.float32), "metric", where="here")


def test_impossible_depth():
    for value in (np.nan, -1.0, np.inf):
        with pytest.raises(RecordError, match="here: depth has negative or non-finite values"):
            check_depth(np.array([[1.0, value]], np.float32), "relative", where="here")


def test_region_round_trip():
    mask = np.random.default_rng(0).random((9, 13)) < 0.5
    data = encode_region(mask)
    np.testing.assert_array_equal(decode_region(ImageFile(data=data)), mask)
    assert Image.open(io.BytesIO(data)).mode == "1"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_size_is_that_of_the_decoded_image(orientation):
    image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    file = ImageFile(data=buffer.getvalue())
    assert image_size(file) == decode_image(file).shape[:2]


def test_image_size_of_what_is_none():
    with pytest.raises(RecordError, match="cannot be decoded: not a PNG, JPEG"):
        image_size(ImageFile(data=b"nothing"))


def test_counts_of_few_values_are_stored_exactly_and_smaller() -> None:
    table = np.random.default_rng(0).integers(0, 65536, 200).astype(np.uint16)
    counts = table[np.add.outer(np.arange(40), np.arange(70)) % 200]
    data = encode_counts(counts)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), counts)
    depth = counts.astype(np.float32) * np.float32(0.001)
    assert np.allclose(decode_depth(DepthFile(data=data)), depth, atol=1e-4)
    assert len(data) < len(encode_depth(depth, 0.001))
