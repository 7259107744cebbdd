"""The rules of scoring one answer, on the forms that models write."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from egem.records import Answer, ImageFile
from egem.scoring import (
    box_iou,
    parse_boxes,
    parse_choice,
    parse_number,
    parse_points,
    score,
    trajectory_distance,
)


def choice(text: str, *choices: str) -> Answer:
    return Answer(kind="choice", text=text, choices=choices)


MUGS = ("red mug", "small red mug", "blue bowl")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("red mug", "red mug"),
        ("The red mug.", "red mug"),
        ("It is the small red mug", "small red mug"),
        ("BLUE BOWL", "blue bowl"),
        ("B", "small red mug"),
        ("(c)", "blue bowl"),
        ("C. the blue bowl", "blue bowl"),
        ("C. the red mug", None),
        ("the red mug or the blue bowl", None),
        ("I cannot tell", None),
        ("a red mug", "red mug"),
        ("<think>blue bowl?</think> red mug", "red mug"),
        ("Both the red mug and ... so the answer is: blue bowl", "blue bowl"),
        ("\\boxed{blue bowl}", "blue bowl"),
        ("", None),
    ],
)
def test_a_choice_is_what_the_text_names(text: str, named: str | None) -> None:
    assert parse_choice(text, MUGS) == named


def test_letters_as_options_are_themselves() -> None:
    assert parse_choice("B", ("B", "A")) == "B"
    assert parse_choice("point A is nearer", ("B", "A")) == "A"
    assert parse_choice("(A)", ("B", "A")) == "A"
    assert parse_choice("point B.", ("A", "B")) == "B"


def test_orders_of_letters_differ() -> None:
    options = ("A, B, C", "B, A, C")
    assert [parse_choice(text, options) for text in ("B A C", "A, B, C", "c b a")] == [*options[::-1], None]


def test_yes_and_no() -> None:
    answer = choice("no", "yes", "no")
    assert score(answer, "No, it is not.") == 1
    assert score(answer, "Yes") == 0
    assert score(answer, "yes and no") == 0


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("0.84 m", "m", 0.84),
        ("84 cm", "m", 0.84),
        ("840mm", "m", 0.84),
        ("about 0.84 metres away", "m", 0.84),
        ("0.84", "m", 0.84),
        ("84", "cm", 0.84),
        ("0.84 m (84 cm)", "m", 0.84),
        ("0.84 m or 0.94 m", "m", None),
        ("One of them is 0.84 m away", "m", 0.84),
        ("two metres", "m", 2.0),
        ("3", "count", 3),
        ("There are three mugs.", "count", 3),
        ("twenty-one", "count", 21),
        ("none", "count", 0),
        ("1,200", "count", 1200),
        ("3 of 5", "count", None),
        ("many", "count", None),
    ],
)
def test_a_number_is_read_with_its_unit(text: str, unit: str, value: float | None) -> None:
    assert parse_number(text, unit=unit) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("text", "right"),
    [("1.00 m", 1), ("1.10 m", 1), ("0.9", 1), ("1.11 m", 0), ("100 cm", 1), ("1 cm", 0), ("far", 0)],
)
def test_a_length_is_right_within_ten_percent(text: str, right: int) -> None:
    assert score(Answer(kind="number", text="1.00 m", number=1.0, unit="m"), text) == right


def test_a_short_length_is_right_within_two_centimetres() -> None:
    answer = Answer(kind="number", text="0.05 m", number=0.05, unit="m")
    assert score(answer, "0.07 m") == 1
    assert score(answer, "0.08 m") == 0


def test_a_count_is_exact() -> None:
    answer = Answer(kind="number", text="3", number=3.0, unit="count")
    assert [score(answer, text) for text in ("3", "three", "4", "3.5")] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    "text",
    ["[250, 500]", "(250, 500)", '{"point_2d": [250, 500], "label": "mug"}', "250, 500", "(0.25, 0.5)"],
)
def test_points_in_every_form(text: str) -> None:
    assert parse_points(text) == [(250, 500)]


def test_a_point_counts_inside_its_region() -> None:
    mask = np.zeros((10, 20), bool)
    mask[4:6, 4:6] = True
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    answer = Answer(
        kind="point", text="[250, 500]", points=((250, 500),), region=ImageFile(data=file.getvalue())
    )
    assert score(answer, "[250, 500]") == 1
    assert score(answer, "[190, 500]") == 0
    assert score(answer, "[250, 500], [900, 900]") == 0.5
    assert score(answer, "[1250, 500]") == 0
    assert score(answer, "there") == 0


def test_a_point_without_a_region_counts_within_its_radius() -> None:
    answer = Answer(kind="point", text="[250, 500]", points=((250, 500),))
    assert score(answer, "[299, 500]") == 1
    assert score(answer, "[301, 500]") == 0


@pytest.mark.parametrize(
    "text",
    [
        "[100, 200, 300, 400]",
        "(300, 400, 100, 200)",
        '[{"bbox_2d": [100, 200, 300, 400], "label": "mug"}]',
        "[100, 200], [300, 400]",
        "100 200 300 400",
        "[0.1, 0.2, 0.3, 0.4]",
    ],
)
def test_boxes_in_every_form(text: str) -> None:
    assert parse_boxes(text) == [pytest.approx((100, 200, 300, 400))]


def test_a_box_counts_at_half_overlap() -> None:
    answer = Answer(kind="box", text="[0, 0, 100, 100]", box=(0, 0, 100, 100))
    assert score(answer, "[0, 0, 100, 50]") == 1
    assert score(answer, "[0, 0, 100, 49]") == 0
    assert score(answer, "[0, 0, 100, 100] [0, 0, 9, 9]") == 0


def test_a_trajectory_does_not_depend_on_how_densely_it_is_sampled() -> None:
    answer = Answer(kind="trajectory", text="...", points=((0, 0), (400, 0), (400, 400)))
    assert score(answer, "[[0, 0], [100, 0], [200, 0], [400, 0], [400, 200], [400, 400]]") == 1
    assert score(answer, "[[0, 90], [400, 90], [400, 490]]") == 0
    assert trajectory_distance([(0, 0), (100, 0)], [(0, 30), (100, 30)]) == pytest.approx(30)


def test_text_is_compared_without_form() -> None:
    answer = Answer(kind="text", text="Grasp the red mug")
    assert score(answer, "grasp red mug.") == 1
    assert score(answer, "lift the red mug") == 0


@given(st.text(max_size=60))
def test_no_text_breaks_a_parser(text: str) -> None:
    for answer in (
        choice("a mug", "a mug", "the bowl"),
        Answer(kind="number", text="1 m", number=1.0, unit="m"),
        Answer(kind="point", text="[1, 2]", points=((1, 2),)),
        Answer(kind="box", text="[1, 2, 3, 4]", box=(1, 2, 3, 4)),
        Answer(kind="trajectory", text="[[1, 2]]", points=((1, 2),)),
        Answer(kind="text", text="x"),
    ):
        assert 0 <= score(answer, text) <= 1


@given(st.lists(st.integers(0, 1000), min_size=8, max_size=8))
def test_overlap_is_symmetric_and_bounded(v: list[int]) -> None:
    first = (min(v[0], v[1]), min(v[2], v[3]), max(v[0], v[1]), max(v[2], v[3]))
    second = (min(v[4], v[5]), min(v[6], v[7]), max(v[4], v[5]), max(v[6], v[7]))
    assert box_iou(first, second) == box_iou(second, first)
    assert 0 <= box_iou(first, second) <= 1
