import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from egem.core.errors import RecordError
from egem.report.drawing import GIVEN_COLOR, RIGHT_COLOR, Marks, draw_answer
from egem.report.panels import (
    MARGIN,
    NO_READING,
    DepthPicture,
    color_range,
    colorize,
    colorize_error,
    depth_grid,
    depth_png,
    fitted,
    font,
    png,
    side_by_side,
    tiles,
    unit_for,
    wrapped,
)


@pytest.fixture
def picture():
    rows, columns = np.mgrid[:40, :60]
    depth = (1.0 + rows / 40 + columns / 120).astype(np.float32)
    depth[:5] = 0
    image = np.full((40, 60, 3), (10, 200, 90), np.uint8)
    return DepthPicture(image=image, truth=depth, generated=depth + 0.1, label="scene <1>")


def test_near_is_the_first_colour_and_missing_is_grey():
    depth = np.array([[0.0, 1.0, 2.0, 3.0, np.inf, -1.0]], np.float32)
    colors = colorize(depth, (1.0, 3.0))
    spectral = matplotlib.colormaps["Spectral"]
    expected = [spectral(0)[:3], spectral(128)[:3], spectral(255)[:3]]
    np.testing.assert_allclose(colors[0, 1:4], np.array(expected) * 255, atol=1)
    for column in (0, 4, 5):
        assert tuple(colors[0, column]) == NO_READING


def test_the_colour_range_ignores_missing_readings_and_outliers():
    depth = np.concatenate([np.zeros(500), np.linspace(1, 2, 1000), [90.0]]).astype(np.float32)[None]
    near, far = color_range(depth)
    assert near == pytest.approx(1.02, abs=0.01)
    assert far == pytest.approx(1.98, abs=0.01)
    assert color_range(np.zeros((2, 2), np.float32)) == (0.0, 1.0)
    low, high = color_range(np.full((2, 2), 3.0, np.float32))
    assert high > low


def test_errors_saturate_at_thirty_per_cent():
    truth = np.array([[1.0, 1.0, 1.0, 0.0]], np.float32)
    colors = colorize_error(np.array([[1.0, 1.3, 5.0, 7.0]], np.float32), truth)
    inferno = matplotlib.colormaps["inferno"]
    np.testing.assert_allclose(colors[0, 0], np.array(inferno(0)[:3]) * 255, atol=1)
    np.testing.assert_allclose(colors[0, 1], np.array(inferno(255)[:3]) * 255, atol=1)
    assert (colors[0, 1] == colors[0, 2]).all()
    assert tuple(colors[0, 3]) == NO_READING


def test_a_row_shares_the_colours_of_its_true_map(picture):
    found = tiles(picture, 60)
    same = tiles(DepthPicture(image=picture.image, truth=picture.truth, generated=picture.truth), 60)
    assert list(found) == ["image", "true depth", "generated depth", "error"]
    np.testing.assert_array_equal(found["true depth"], colorize(picture.truth))
    generated = colorize(picture.generated, color_range(picture.truth))
    np.testing.assert_array_equal(found["generated depth"], generated)
    assert (generated != colorize(picture.generated)).any()
    np.testing.assert_array_equal(same["generated depth"][8:], same["true depth"][8:])


def test_the_grid_holds_each_row_where_it_should_be(picture):
    only_image = DepthPicture(image=picture.image)
    grid = depth_grid([picture, only_image], tile_width=60)
    assert grid.shape[1] == MARGIN + 4 * (60 + MARGIN)
    header = max(10, round(60 / 14)) + 2 * MARGIN
    second = MARGIN + 60 + MARGIN
    np.testing.assert_array_equal(grid[header : header + 40, MARGIN : MARGIN + 60], picture.image)
    np.testing.assert_array_equal(grid[header : header + 40, second : second + 60], colorize(picture.truth))
    assert depth_grid([only_image], tile_width=60).shape[1] == MARGIN + 60 + MARGIN
    with pytest.raises(ValueError, match="at least one"):
        depth_grid([])


def test_side_by_side_needs_depth(picture):
    panel = side_by_side(picture, height=80)
    assert panel.shape[0] > 80
    assert panel.shape[1] > 4 * 120
    with pytest.raises(ValueError, match="needs a depth map"):
        side_by_side(DepthPicture(image=picture.image))


def test_sixteen_bit_png_round_trips_and_says_its_unit(picture):
    unit = unit_for(picture.truth, metric=True)
    assert unit == 0.001
    image = Image.open(io.BytesIO(depth_png(picture.truth, unit, "depth in metres")))
    assert image.mode.startswith("I")
    counts = np.asarray(image)
    np.testing.assert_allclose(counts * unit, picture.truth, atol=0.5e-3)
    assert (counts[:5] == 0).all()
    assert image.text == {"unit": "0.001", "meaning": "depth in metres"}


def test_far_depth_gets_a_larger_unit_and_tiny_depth_stays_a_reading():
    assert unit_for(np.array([[70.0]]), metric=True) == pytest.approx(0.01)
    relative = np.array([[0.0, 0.25, 1.0]], np.float32)
    counts = np.asarray(Image.open(io.BytesIO(depth_png(relative, unit_for(relative, metric=False), "x"))))
    assert counts.tolist() == [[0, 16384, 65535]]
    tiny = np.asarray(Image.open(io.BytesIO(depth_png(np.array([[1e-5]], np.float32), 0.001, "x"))))
    assert tiny.tolist() == [[1]]
    with pytest.raises(RecordError, match="choose a larger unit"):
        depth_png(np.array([[70.0]], np.float32), 0.001, "x")


def test_png_is_lossless(picture):
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture.image)))), picture.image)


def test_long_labels_are_cut():
    text = fitted("a very long label " * 20, 200, 12)
    assert text.endswith("...")
    assert font(12).getlength(text) <= 200
    assert fitted("short", 200, 12) == "short"
    lines = wrapped("words that fill several lines and antidisestablishmentarianism", 80, 12)
    assert len(lines) > 3
    assert all(font(12).getlength(line) <= 80 for line in lines)
    assert " ".join(lines).startswith("words that fill several lines and anti")


def test_answers_are_drawn_where_they_are():
    image = np.zeros((100, 200, 3), np.uint8)
    drawn = draw_answer(
        image,
        right=Marks(boxes=[(100, 100, 400, 500)]),
        given=Marks(points=[(750, 250), (2000, 10)]),
        width=400,
    )
    assert drawn.shape == (200, 400, 3)
    assert tuple(drawn[50, 299]) == GIVEN_COLOR
    assert tuple(drawn[60, 41]) == RIGHT_COLOR  # left edge of the box
    assert (drawn[150:, 300:] == 0).all()


def test_regions_are_tinted():
    region = np.zeros((10, 10), bool)
    region[:5] = True
    drawn = draw_answer(np.zeros((50, 50, 3), np.uint8), right=Marks(region=region), given=Marks(), width=50)
    assert (drawn[10, 10] > 0).any()
    assert (drawn[40] == 0).all()


def test_impossible_marks_are_left_out():
    image = np.zeros((50, 50, 3), np.uint8)
    given = Marks(boxes=[(400, 0, 100, 100), (-5, 0, 2, 2)], path=[(5000, 1), (-1, -1)])
    assert (draw_answer(image, right=Marks(), given=given, width=50) == 0).all()
