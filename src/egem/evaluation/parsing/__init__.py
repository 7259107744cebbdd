"""What a model wrote -> letters, numbers, yes or no, points and boxes.

Scorers of public benchmarks read the same text in different ways, and a score means little without the
reading behind it. Each reading is one function here, named by what it does, with the scorer it follows in
its docstring; the benchmarks' rules are built from them.
"""

from egem.evaluation.parsing.letters import (
    enclosed_letter,
    first_word,
    leading_letter,
    named_option,
    prioritised_letter,
    ranked_letter,
    tail_letter,
    token_letter,
)
from egem.evaluation.parsing.numbers import (
    digits_in,
    first_number,
    first_word_as_number,
    last_number,
    plain_float,
)
from egem.evaluation.parsing.places import (
    any_points,
    box_values,
    first_point,
    json_points,
    listed_points,
    loose_points,
    point_2d_list,
    tuple_points,
)
from egem.evaluation.parsing.yes_no import leading_yes_no, only_yes_no, true_false

__all__ = [
    "any_points",
    "box_values",
    "digits_in",
    "enclosed_letter",
    "first_number",
    "first_point",
    "first_word",
    "first_word_as_number",
    "json_points",
    "last_number",
    "leading_letter",
    "leading_yes_no",
    "listed_points",
    "loose_points",
    "named_option",
    "only_yes_no",
    "plain_float",
    "point_2d_list",
    "prioritised_letter",
    "ranked_letter",
    "tail_letter",
    "token_letter",
    "true_false",
    "tuple_points",
]
