"""Which things a sentence or an image is about: from rules, or from a language model whose answers are checked.

A model is asked for one JSON object and nothing else. An answer of another form, or one that the question contradicts
(a thing the sentence does not name), is asked for once more and then an error; it never becomes a name.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from egem.annotators.masks import bare
from egem.core.errors import RecordError
from egem.media import encode_png

MAX_NOUNS: Final = 20
MAX_LENGTH: Final = 60
"""Characters of a name; what is longer is a sentence."""

_ATTEMPTS: Final = 2
_T = TypeVar("_T")

_MANIPULATED: Final = (
    "A robot is told: {sentence}\n"
    "Which object does it move or operate with its gripper? Use the words of the sentence, with colour and size but "
    'without article. Answer with JSON only: {{"object": "..."}}, or {{"object": null}} if the sentence names none.'
)
_NOUNS: Final = (
    "List the separate physical objects that can be seen in this image, each as a short noun phrase in English with "
    f"its colour, without article; at most {MAX_NOUNS}, no people, no walls or floors. "
    'Answer with JSON only: {"objects": ["...", "..."]}.'
)


@runtime_checkable
class ObjectNamer(Protocol):
    """Names the thing a sub-task is about."""

    @property
    def origin(self) -> str:
        """`<kind>/<model>`."""
        ...

    def manipulated(self, sentence: str) -> str | None:
        """What the robot moves or operates, without article; None if the sentence names nothing.

        Raises:
            RecordError: no usable answer.
            ProtocolError: a server that cannot be reached.
        """
        ...


@runtime_checkable
class Chat(Protocol):
    """A model that answers one message: `egem.evaluation.chat.ChatServer`, or `LocalChat`."""

    @property
    def model(self) -> str:
        """Its name."""
        ...

    def complete(self, content: str | Sequence[dict[str, Any]], *, max_tokens: int) -> str:
        """The answer to text, or to parts {"type": "text" | "image_url", ...}."""
        ...


class ModelNamer:
    """Asks a language model, greedily, and remembers its answers.

    Args:
        chat: what answers.
        cache: file of answers, one JSON object a line, appended to; None remembers nothing.
    """

    def __init__(self, chat: Chat, cache: Path | None = None) -> None:
        self.chat = chat
        self.origin = f"language-model/{chat.model}"
        self._cache = AnswerCache(cache)

    def manipulated(self, sentence: str) -> str | None:
        """See `ObjectNamer`."""

        def check(answer: dict[str, Any]) -> str | None:
            name = answer["object"]
            if name is None:
                return None
            return _named_by(sentence, _name(name))

        return self._ask(_MANIPULATED.format(sentence=sentence.strip()), None, check, f"'{sentence}'")

    def nouns(self, image: UInt8[np.ndarray, "height width 3"], where: str) -> tuple[str, ...]:
        """What can be seen: distinct short noun phrases.

        Args:
            image: RGB.
            where: what the image belongs to, for messages.

        Raises:
            RecordError: no usable answer.
            ProtocolError: a server that cannot be reached.
        """

        def check(answer: dict[str, Any]) -> tuple[str, ...]:
            names = answer["objects"]
            if not isinstance(names, list):
                raise ValueError("'objects' is no list")
            return tuple(dict.fromkeys(_name(name) for name in names))[:MAX_NOUNS]

        return self._ask(_NOUNS, encode_png(image), check, where)

    def _ask(self, text: str, png: bytes | None, check: Callable[[dict[str, Any]], _T], where: str) -> _T:
        key = hashlib.sha256(json.dumps([self.chat.model, text]).encode() + (png or b"")).hexdigest()
        kept = self._cache.get(key)
        if kept is not None:
            return check(kept)
        content: str | list[dict[str, Any]] = text
        if png is not None:
            address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
        said, problem = "", ""
        for _ in range(_ATTEMPTS):
            said = self.chat.complete(content, max_tokens=512)
            try:
                answer = json_object(said)
                result = check(answer)
            except (ValueError, KeyError, TypeError) as error:
                problem = str(error)
                content = _again(content, problem)
                continue
            self._cache.put(key, answer)
            return result
        raise RecordError(
            f"{where}: {self.chat.model} gave no usable answer ({problem}): {said.strip()[:120]!r}; give a model that "
            "answers in JSON."
        )


class AnswerCache:
    """Answers by question, in memory and in a file that survives being killed.

    Args:
        path: JSON lines, appended to; a torn last line is left out.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._answers: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                    self._answers[row["key"]] = row["answer"]
                except (ValueError, KeyError, TypeError):
                    continue

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer kept for a question."""
        return self._answers.get(key)

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer."""
        with self._lock:
            self._answers[key] = answer
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    # A blank line first would hide nothing: each line is read on its own.
                    file.write(f"\n{json.dumps({'key': key, 'answer': answer})}")


class SentenceRules:
    """Names the manipulated thing of a plain imperative ("pick up the red mug") without any model.

    The noun phrase after the leading verb, up to the first word that opens another phrase. At "of" it is what stands
    before ("the middle drawer of the cabinet"), unless that is only a part or an amount of what stands behind ("the
    handle of the drawer", "a slice of bread"). What is not of this form gives None, never a guess.
    """

    origin = "rules/imperative"

    def manipulated(self, sentence: str) -> str | None:
        """See `ObjectNamer`."""
        words = re.findall(r"[a-z0-9'-]+", sentence.lower().split(",")[0].split(";")[0])
        while words and words[0] in _OPENINGS:
            words = words[1:]
        if not words or words[0] not in _VERBS:
            return None
        words = words[1:]
        while words and words[0] in _PARTICLES:
            words = words[1:]
        phrase: list[str] = []
        for word in words:
            if word in _ENDINGS or (phrase and word in _PARTICLES):
                break
            phrase.append(word)
        while "of" in phrase:
            of = phrase.index("of")
            head, owner = phrase[:of], phrase[of + 1 :]
            phrase = owner if head and head[-1] in _PARTS else head
        name = bare(" ".join(phrase))
        return name if name and name not in _PRONOUNS else None


# fmt: off
_OPENINGS = frozenset(("please", "now", "then", "the", "robot", "to", "and"))
_VERBS = frozenset((
    "approach", "bring", "carry", "clean", "close", "drag", "drop", "flip", "fold", "get", "give", "grab",
    "grasp", "grip", "hand", "hang", "hold", "insert", "lift", "lower", "move", "open", "pick", "place", "plug",
    "pour", "press", "pull", "push", "put", "raise", "reach", "release", "remove", "return", "rotate", "shut",
    "slide", "stack", "sweep", "swipe", "switch", "take", "throw", "toggle", "touch", "transfer", "turn",
    "twist", "unplug", "wipe",
))
_PARTICLES = frozenset((
    "up", "down", "out", "off", "on", "away", "back", "for", "over", "open", "shut", "closed", "together",
))
_ENDINGS = frozenset((
    "above", "across", "against", "and", "at", "before", "behind", "below", "beside", "between", "by", "from",
    "in", "inside", "into", "near", "next", "on", "onto", "over", "so", "that", "then", "through", "to",
    "toward", "towards", "under", "until", "using", "with",
))
_PARTS = frozenset((
    "all", "back", "both", "bottom", "bunch", "center", "centre", "corner", "corners", "each", "edge", "edges", "end",
    "ends", "front", "half", "handle", "handles", "middle", "one", "pair", "part", "piece", "pieces", "pile", "rest",
    "rim", "set", "side", "sides", "slice", "slices", "some", "stack", "surface", "tip", "top",
))
"""Words before "of" that name no thing of their own."""
_PRONOUNS = frozenset(("it", "them", "this", "that", "something", "everything", "things"))
# fmt: on


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in a model's answer: code fences and a thinking part around it are left out.

    Raises:
        ValueError: there is none.
    """
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    start, stop = text.find("{"), text.rfind("}")
    if start < 0 or stop < start:
        raise ValueError("no JSON object")
    found = json.loads(text[start : stop + 1])
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _name(value: Any) -> str:
    """A noun phrase, checked for its form."""
    if not isinstance(value, str):
        raise ValueError(f"a name is {type(value).__name__}, not text")
    name = bare(value.strip().rstrip("."))
    if not name or len(name) > MAX_LENGTH or not re.search(r"[^\W\d_]", name):
        raise ValueError(f"{value[:80]!r} is no short noun phrase")
    return name


def _named_by(sentence: str, name: str) -> str:
    """The name, if the sentence has its last word (in singular or plural): the head noun of an English phrase."""
    head = name.split()[-1]
    words = set(re.findall(r"[\w'-]+", sentence.lower()))
    forms = {head, f"{head}s", f"{head}es", head.removesuffix("s"), head.removesuffix("es")}
    if not forms & words:
        raise ValueError(f"the sentence names no '{head}'")
    return name


def _again(content: str | list[dict[str, Any]], problem: str) -> str | list[dict[str, Any]]:
    """The question with what was wrong about the answer."""
    note = f"\nYour last answer could not be used: {problem}. Answer with the JSON object only."
    if isinstance(content, str):
        return content + note
    return [*content[:-1], {"type": "text", "text": content[-1]["text"] + note}]
