import numpy as np
import pytest

from egem.evaluation import parsing


@pytest.mark.parametrize(
    ("text", "leading", "enclosed"),
    [
        ("B", "B", "B"),
        ("b", "B", "B"),
        ("B.", "B", "B"),
        ("(B)", "B", "B"),
        ("B) the cup", "B", "B"),
        ("The answer is B.", "T", "B"),
        ("Answer: C", "A", "C"),
        ("``D`` not A", None, "D"),
        ("`A`", None, "A"),
        ("{C}", None, "C"),
        ("`{C}` B", None, "C"),
        ("A dog", "A", None),
        ("A dog sees B", "A", "B"),
        ("I think so", "I", None),
        ("Because", "B", None),
        ("G", "G", None),
        ("1", None, None),
        ("", None, None),
        ("  ( A", "A", "A"),
    ],
)
def test_leading_and_enclosed_letters(text, leading, enclosed):
    assert parsing.leading_letter(text) == leading
    assert parsing.enclosed_letter(text) == enclosed


def test_first_word_is_what_stands_before_the_first_space():
    assert parsing.first_word("B. the cup") == "B"
    assert parsing.first_word("(B) cup") == "(B)"
    assert parsing.first_word("A\nbecause") == "A\nbecause"
    assert parsing.first_word("") == ""


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("B", "B"),
        ("The answer is (B).", "B"),
        ("I considered A, but the answer is B.", "B"),
        ("A. chair\nB. table\nSo: C", "A"),
        ("(A) or (B)", "B"),
        ("D is wrong, C is right", "D"),
        ("not sure", None),
        ("", None),
        ("CAT", "A"),
        ("A, B", "A"),
    ],
)
def test_ranked_letters(text, want):
    assert parsing.ranked_letter(text, ("A", "B", "C", "D")) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<answer>A. Above</answer>", "A"),
        ("A. Above and then B. Under", "B"),
        ("<Answer>My answer is C</Answer> A", "C"),
        ("Answer: D", "D"),
        ('"B"', "B"),
        ("the answer is E", "E"),
        ("maybe A\nor C here\nno letter", "C"),
        ("b", None),
        ("", None),
        ("B\nC\n", "B"),
    ],
)
def test_prioritised_letters(text, want):
    assert parsing.prioritised_letter(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<answer>b</answer>", "B"),
        ("<answer>H: far</answer>", "H"),
        ("so it is (C)</think>", "C"),
        ("<think>A or B?</think>\nC", "C"),
        ("First A then B", None),
        ("A, B\nfinal answer: D", "D"),
        ("B) the cup", "B"),
        ("Option A: cup\nOption B: pot\nC", "C"),
        ("**D**", "D"),
        ("I see a cat", None),
        ("e", "E"),
        ("选 B", "B"),
        ("", None),
        ("The answer is B because A is far away and so on", "B"),
    ],
)
def test_tail_letters(text, want):
    assert parsing.tail_letter(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. left", "B"),
        ("the answer is C, as A", "C"),
        ("A B", None),
        ("B is one of many words in here that come", None),
        ("correct answer is **d**", "D"),
    ],
)
def test_token_letters(text, want):
    assert parsing.token_letter(text, "ABCD") == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("B. the pot", "B"),
        ("the pot", "B"),
        ("It is the pot.", "B"),
        ("The answer is B", "B"),
        ("<think>the cup</think>the pot", "B"),
        ("the cup or the pot", None),
        ("A pot", "B"),
        ("C", None),
        ("", None),
    ],
)
def test_named_options(text, want):
    assert parsing.named_option(text, ["the cup", "the pot"]) == want


@pytest.mark.parametrize(
    ("text", "first", "word", "last"),
    [
        ("3", 3.0, 3.0, 3.0),
        ("3.5 m", 3.5, 3.5, 3.5),
        ("about 3 metres", 3.0, None, 3.0),
        ("twenty-one", 21.0, None, -1.0),
        ("two", 2.0, None, 2.0),
        ("three hundred and two", 302.0, None, 2.0),
        ("one apple, room 2", 1.0, None, 2.0),
        ("room 2, one apple", 2.0, None, 1.0),
        ("-4", -4.0, -4.0, -4.0),
        ("1,000", 1.0, None, 0.0),
        ("1e3", 1.0, 1000.0, 1000.0),
        ("3.", 3.0, 3.0, 3.0),
        ("two thousand", 2000.0, None, 2.0),
        ("<answer>7 m</answer> 8", 7.0, None, 7.0),
        ("<think>5</think>6", 5.0, None, 6.0),
        ("[4, 5]", 4.0, None, 4.0),
        ("none", None, None, None),
        ("nan", None, None, None),
        ("", None, None, None),
        ("someone", None, None, None),
    ],
)
def test_numbers(text, first, word, last):
    assert parsing.first_number(text) == first
    assert parsing.first_word_as_number(text) == word
    assert parsing.last_number(text) == last


def test_digits_have_no_signs_and_no_exponents():
    assert parsing.digits_in("-2.5 m, 3^2, 7") == [2.5, 3.0, 7.0]
    assert parsing.digits_in("none") == []


@pytest.mark.parametrize(
    ("text", "leading", "only", "verdict"),
    [
        ("Yes", True, True, True),
        ("no.", False, False, False),
        ("Nothing", False, False, None),
        ("I know", None, False, None),
        ("yes and no", True, None, None),
        ("Well\nAnswer: yes", None, True, True),
        ("True", None, None, True),
        ("false", None, None, False),
        ("1", None, None, True),
        ("<think>true</think>False", None, None, False),
        ("That is incorrect.", None, None, False),
        ("", None, None, None),
    ],
)
def test_yes_and_no(text, leading, only, verdict):
    assert parsing.leading_yes_no(text) == leading
    assert parsing.only_yes_no(text) == only
    assert parsing.true_false(text) == verdict


def points(found):
    return [tuple(map(float, point)) for point in found]


@pytest.mark.parametrize(
    ("text", "pixels", "fractions", "listed"),
    [
        ("[(0.5, 0.25)]", [(50, 20)], [(50, 20)], [(50, 20)]),
        ("(30, 40)", [(30, 40)], [(3000, 3200)], [(3, 3)]),
        ("(1, 0.5)", [(100, 40)], [(100, 40)], [(100, 40)]),
        ("[500, 250]", [], [], [(50, 20)]),
        ("(0.1, 0.2), (0.3, 0.4)", [(10, 16), (30, 32)], [(10, 16), (30, 32)], [(10, 16), (30, 32)]),
        ("(-0.1, 0.2)", [(-10, 16)], [(-10, 16)], [(-10, 16)]),
        ("( 0.5, 0.5)", [], [], [(50, 40)]),
        ("(1., 1.)", [(100, 80)], [(100, 80)], [(100, 80)]),
        ("nothing", [], [], []),
    ],
)
def test_points_in_pixels_fractions_and_thousandths(text, pixels, fractions, listed):
    assert points(parsing.tuple_points(text, 100, 80)) == pixels
    assert points(parsing.tuple_points(text, 100, 80, integers="fractions")) == fractions
    assert points(parsing.listed_points(text, 100, 80)) == listed


def test_boxes_stand_for_their_pixels():
    text = "(1, 2, 3, 4)"
    assert points(parsing.tuple_points(text, 10, 8)) == []
    assert points(parsing.tuple_points(text, 10, 8, boxes="like points")) == [(1, 2), (2, 2), (1, 3), (2, 3)]
    fractions = parsing.tuple_points("(0.1, 0.25, 0.3, 0.5)", 10, 8, boxes="like points")
    assert points(fractions) == [(1, 2), (2, 2), (1, 3), (2, 3)]
    assert len(parsing.tuple_points("(8, 0, 99, 1)", 10, 8, boxes="like points")) == 2  # cut at the rim
    with pytest.raises(ValueError, match="wrong order"):
        parsing.tuple_points("(0.5, 0.5, 0.1, 0.1)", 10, 8, boxes="fractions")


def test_json_points_need_a_fence():
    fenced = '```json\n[{"point_2d": [500, 250], "label": "x"}, {"point": [1, 2]}]\n```'
    assert points(parsing.json_points(fenced, 100, 80)) == [(50, 20)]
    assert points(parsing.json_points('[{"point_2d": [500, 250]}]', 100, 80)) == []
    assert points(parsing.json_points('```json\n{"point_2d": [500, 250]}\n```', 100, 80)) == []
    assert points(parsing.json_points("```json\n[{\n```", 100, 80)) == []
    assert points(parsing.json_points('```json\n[{"point_2d": ["a", 2]}, 3]\n```', 100, 80)) == []


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('[{"point_2d": [500, 250]}]', [(0.5, 0.25)]),
        ('```json\n[{"point_2d": [500, 250]}]\n```', [(0.5, 0.25)]),
        ("[{'point': [0.5, 0.25]}]", [(0.5, 0.25)]),
        ('{"point_2d": [2000, 40]}', [(20.0, 0.5)]),
        ("[(0.5, 0.25)]", [(0.5, 0.25)]),
        ("(50, 20)", [(0.5, 0.25)]),
        ("(0, 0, 2, 1)", [(0.0, 0.0), (0.01, 0.0)]),
        ("none", []),
    ],
)
def test_points_as_vlmevalkit_reads_them(text, want):
    np.testing.assert_allclose(parsing.point_2d_list(text, 100, 80), np.reshape(want, (-1, 2)))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[(0.1, 0.2), (0.3, 0.4)]", (0.1, 0.2)),
        ("[0.1, 0.2]", (0.1, 0.2)),
        ("here [0.3,0.4] and (0.1,0.2)", (0.1, 0.2)),
        ("[(.5, .25)]", (0.5, 0.25)),
        ("[.5, .25]", (0.5, 0.25)),
        ("0.1, 0.2", None),
        ("[]", None),
        ("['a']", None),
        ("[(1, 2, 3)]", None),
    ],
)
def test_first_points(text, want):
    assert parsing.first_point(text) == want


def test_loose_points_count_what_they_match_in_every_form():
    assert parsing.loose_points("(3,4)") == [(3.0, 4.0), (3.0, 4.0)]
    assert parsing.loose_points("(3, 4)") == [(3.0, 4.0)]
    assert parsing.loose_points("[3, 4] 5 6") == [(3.0, 4.0), (5.0, 6.0)]
    assert parsing.loose_points("") == []


def test_any_form_of_points_and_boxes():
    assert parsing.any_points('{"point_2d": [500, 250]}') == [(500.0, 250.0)]
    assert parsing.any_points("[(0.5, 0.25)]") == [(500.0, 250.0)]
    assert parsing.box_values("[100, 200, 300, 400]") == (100, 200, 300, 400)
    assert parsing.box_values('{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}') == pytest.approx((100, 200, 300, 400))
    assert parsing.box_values("[1, 2, 3, 4] [5, 6, 7, 8]") is None
