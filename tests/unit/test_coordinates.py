"""Points, boxes, options and units as the sets write them, to what records hold."""

import numpy as np
import pytest

from egem.core.errors import RecordError
from egem.data_engine.sources.choices import choice_answer, plain_answer, unit_of
from egem.data_engine.sources.coordinates import box_from_pixels, in_thousandths, point_from_pixels, restated
from egem.data_engine.sources.masks import interior_point
from egem.evaluation.benchmarks.public import options_of
from egem.question_options import inline_options


def test_pixels_are_distances_from_the_corner() -> None:
    assert point_from_pixels(320, 120, 640, 480, "a") == (500, 250)
    assert point_from_pixels(640.0, 480.0, 640, 480, "a") == (1000, 1000)
    assert box_from_pixels([64, 48, 128, 96], "size", 640, 480, "a") == (100, 100, 300, 300)
    assert box_from_pixels([64, 48, 128, 96], "corners", 640, 480, "a") == (100, 100, 200, 200)


def test_a_little_beyond_is_moved_to_the_edge_and_more_is_refused() -> None:
    assert point_from_pixels(-3, 483, 640, 480, "a") == (0, 1000)
    assert box_from_pixels([600, 0, 43, 10], "size", 640, 480, "a") == (938, 0, 1000, 21)
    for x, y in ((-7, 5), (5, 486), (float("nan"), 5), (float("inf"), 5)):
        with pytest.raises(RecordError, match=r"a: point .* lies outside its image of 640 x 480"):
            point_from_pixels(x, y, 640, 480, "a")
    with pytest.raises(RecordError, match="lies outside"):
        box_from_pixels([600, 0, 60, 10], "size", 640, 480, "a")


def test_thin_boxes_stay_boxes_and_empty_ones_are_refused() -> None:
    assert box_from_pixels([10, 10, 10.2, 20], "corners", 1000, 1000, "a") == (10, 10, 11, 20)
    assert box_from_pixels([999.8, 5, 1000, 9], "corners", 1000, 1000, "a") == (999, 5, 1000, 9)
    for box in ([10, 10, 10, 20], [20, 10, 10, 20], [5, 9, 8, 9]):
        with pytest.raises(RecordError, match="is empty"):
            box_from_pixels(box, "corners", 1000, 1000, "a")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[(0.461, 0.527), (0.498, 0.521)]", "[[461, 527], [498, 521]]"),
        ("(.5,1)", "[500, 1000]"),
        ("(A) (0.407, 0.852) (B) (0.195, 0.681)", "(A) [407, 852] (B) [195, 681]"),
        ("[(0.25, 0.25, 0.5, 0.25)]", "[[250, 250, 750, 500]]"),
        ("no places at all (not one)", "no places at all (not one)"),
    ],
)
def test_fractions_in_texts(text: str, wanted: str) -> None:
    assert in_thousandths(text, "a") == wanted


def test_other_numbers_in_questions_stay() -> None:
    assert in_thousandths("rows (3, 4) and (0.5, 0.5)", "a", strict=False) == "rows (3, 4) and [500, 500]"
    with pytest.raises(RecordError, match="lies outside"):
        in_thousandths("rows (3, 4)", "a")
    with pytest.raises(RecordError, match="lies outside"):
        in_thousandths("(0.5, 1.5)", "a", strict=False)


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        (
            "as a list of tuples, i.e. [(x1, y1), (x2, y2), ...]",
            "as a list of lists, i.e. [[x1, y1], [x2, y2], ...]",
        ),
        ("coordinates between 0 and 1.", "coordinates between 0 and 1000."),
        (
            "values from 0.0 to 1.0, rounded to three decimal places",
            "values from 0 to 1000, rounded to integers",
        ),
        ("boxes (x1, y1, w1, h1)", "boxes [left1, top1, right1, bottom1]"),
        ("between 0 and 1000 or between 0 and 10", "between 0 and 1000 or between 0 and 10"),
        ("Between 0 and 1.5 m", "Between 0 and 1.5 m"),
    ],
)
def test_questions_ask_for_what_the_answers_are(question: str, wanted: str) -> None:
    assert restated(question) == wanted


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Where? A. Above B. Under C. Front D. Behind", ("Above", "Under", "Front", "Behind")),
        ("Where?\nOptions:\nA. a chair\nB. table\nAnswer with the letter.", ("a chair", "table")),
        ("Which (A) [407, 852] (B) [195, 681]", ("[407, 852]", "[195, 681]")),
        ("Pick: A) 1.5 B) 2.5", ("1.5", "2.5")),
        ("Vitamin A. and what else? A. red B. blue", ("red", "blue")),
        ("Which animal? A) cat\nB) dog\nAnswer now.", ("cat", "dog")),
        ("Look at A. Then choose: A. up B. down", ("up", "down")),
        ("Is it red?", ()),
        ("A. only one", ()),
    ],
)
def test_options_in_questions(question: str, options: tuple[str, ...]) -> None:
    assert inline_options(question) == options
    # Benchmarks read the same; they know which letter is right, and it must be among the options.
    if options:
        assert options_of(question, "B") == list(options)
        assert options_of(question, "F") == []


@pytest.mark.parametrize("text", ["B", "B.", "(B)", "b", "B. Under", "(B) Under", "under", "Under."])
def test_answers_that_name_an_option(text: str) -> None:
    answer = choice_answer(text.upper() if text == "b" else text, ("Above", "Under", "Front"))
    assert answer is not None
    assert (answer.text, answer.choices) == ("Under", ("Above", "Under", "Front"))


@pytest.mark.parametrize("text", ["E", "B. Above", "Beside", "AB", ""])
def test_answers_that_name_none(text: str) -> None:
    assert choice_answer(text, ("Above", "Under", "Front")) is None


def test_options_that_say_the_same_stand_by_letter() -> None:
    answer = choice_answer("B", ("2 m", "2 m", "3 m"))
    assert answer is not None
    assert (answer.text, answer.choices) == ("B", ("A", "B", "C"))


@pytest.mark.parametrize(
    ("question", "unit"),
    [
        ("How many chairs are there?", "count"),
        ("What is the size of the room in square meters?", None),
        ("The longest side of the table, in centimeters?", "cm"),
        ("How many meters is the chair from the door?", "m"),
        ("Which is nearer?", None),
    ],
)
def test_units(question: str, unit: str | None) -> None:
    assert unit_of(question) == unit


def test_free_answers() -> None:
    assert plain_answer("How far, in meters?", "1.5").unit == "m"
    assert plain_answer("How far?", "30 cm.").unit == "cm"
    assert plain_answer("Done?", "Yes").choices == ("Yes", "No")
    assert plain_answer("Done?", "no").choices == ("yes", "no")
    assert plain_answer("What?", "A mug").kind == "text"


@pytest.mark.parametrize("seed", range(8))
def test_the_interior_point_is_inside_and_nearly_the_deepest(seed: int) -> None:
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    mask = np.zeros((int(rng.integers(60, 700)), int(rng.integers(60, 700))), bool)
    for _ in range(3):
        top, left = int(rng.integers(0, mask.shape[0] - 20)), int(rng.integers(0, mask.shape[1] - 20))
        mask[top : top + int(rng.integers(5, 300)), left : left + int(rng.integers(5, 300))] = True
    x, y = interior_point(mask, "a")
    row, column = int(y * mask.shape[0] / 1000), int(x * mask.shape[1] / 1000)
    depths = np.asarray(ndimage.distance_transform_cdt(np.pad(mask, 1)))[1:-1, 1:-1]
    assert mask[row, column]
    assert depths[row, column] >= 0.8 * depths.max() - 8


def test_an_empty_mask_has_no_point() -> None:
    with pytest.raises(RecordError, match="the mask is empty"):
        interior_point(np.zeros((4, 4), bool), "a")
