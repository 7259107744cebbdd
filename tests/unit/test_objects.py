import json

import numpy as np
import pytest

from egem.annotators.objects import ModelNamer, SentenceRules
from egem.core.errors import RecordError


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("pick up the red mug", "red mug"),
        ("Move the small blue cube over the plate.", "small blue cube"),
        ("put carrot on plate", "carrot"),
        ("place the lid on top of the pot", "lid"),
        ("grasp the handle of the drawer", "drawer"),
        ("pull the drawer open", "drawer"),
        ("open the middle drawer of the cabinet", "middle drawer"),
        ("pick up the cup of coffee", "cup"),
        ("push the edge of the slice of bread", "bread"),
        ("grasp the handle of", None),
        ("Pick the cup up and place it on the table", "cup"),
        ("turn off the lamp", "lamp"),
        ("reach for the blue cylinder", "blue cylinder"),
        ("wait a moment", None),
        ("pick it up", None),
        ("the robot is done", None),
        ("", None),
    ],
)
def test_rules_read_imperatives(sentence, name):
    assert SentenceRules().manipulated(sentence) == name


class Scripted:
    """A chat that says what it was told to, and counts."""

    model = "scripted"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def complete(self, content, *, max_tokens):
        self.asked.append(content)
        return self.answers.pop(0)


def test_answers_are_checked_and_asked_for_once_more():
    chat = Scripted(
        'It is {"object": "green duck"}', '<think>{x}</think>```json\n{"object": "The red mugs"}\n```'
    )
    assert ModelNamer(chat).manipulated("pick up the red mug") == "red mugs"
    assert len(chat.asked) == 2
    assert "duck" in chat.asked[1]  # it is told what was wrong


@pytest.mark.parametrize(
    "answer", ["no idea", "[1]", '{"thing": 1}', '{"object": 5}', '{"object": "12"}', "{"]
)
def test_nonsense_is_an_error_and_never_a_name(answer):
    with pytest.raises(RecordError, match=r"scripted.*no usable answer"):
        ModelNamer(Scripted(answer, answer)).manipulated("pick up the red mug")


def test_answers_are_kept_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert ModelNamer(Scripted('{"object": "mug"}'), path).manipulated("lift the mug") == "mug"
    with path.open("a") as file:
        file.write('\n{"key": "torn')
    again = Scripted('{"object": null}')
    namer = ModelNamer(again, path)
    assert namer.manipulated("lift the mug") == "mug"
    assert again.asked == []
    assert namer.manipulated("wait") is None
    assert ModelNamer(Scripted(), path).manipulated("wait") is None


def test_nouns_of_an_image():
    image = np.zeros((4, 4, 3), np.uint8)
    names = [f"thing {chr(97 + i)}" for i in range(26)]
    chat = Scripted(json.dumps({"objects": ["A red mug", "the red mug", *names]}))
    found = ModelNamer(chat).nouns(image, "record 'a'")
    assert found[:2] == ("red mug", "thing a")
    assert len(found) == 20
    assert chat.asked[0][0]["image_url"]["url"].startswith("data:image/png;base64,")
    with pytest.raises(RecordError, match="record 'a'"):
        ModelNamer(Scripted('{"objects": "mug"}', '{"objects": [{}]}')).nouns(image, "record 'a'")
