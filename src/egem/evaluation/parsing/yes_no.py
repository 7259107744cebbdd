"""Yes or no in what a model wrote. Every function gives True for yes, False for no, or None."""

import re


def leading_yes_no(text: str) -> bool | None:
    """Whether the text starts with "yes" or with "no", in any case (RoboSpatial-Home); "Not ..." is no."""
    start = text.strip().lower()
    if start.startswith("yes"):
        return True
    return False if start.startswith("no") else None


def only_yes_no(text: str) -> bool | None:
    """Whether the last line holds "yes" or "no" and not the other (lmms-eval: RoboSpatial-Home).

    Parts of words count: "I know" holds "no".
    """
    line = text.strip().lower().split("\n")[-1]
    yes, no = "yes" in line, "no" in line
    return None if yes == no else yes


def true_false(text: str) -> bool | None:
    """The one verdict among the words true, yes, correct, 1 and false, no, incorrect, 0; both are none."""
    text = re.sub(r"^.*</think>", "", text, flags=re.DOTALL).lower()
    words = set(re.findall(r"[a-z]+|\d+", text))
    yes, no = bool(words & {"true", "yes", "correct", "1"}), bool(words & {"false", "no", "incorrect", "0"})
    return None if yes == no else yes
