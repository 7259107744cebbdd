"""The letter of an option in what a model wrote. Every function gives a capital letter, or None."""
# ruff: noqa: RUF001 - scorers read full-width punctuation too

import re
from collections.abc import Sequence

from egem.evaluation.parsing.thoughts import behind_thoughts, without_invisible
from egem.scoring import parse_choice

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_PHRASES = (
    *(
        f"{article}{quality}{noun} is"
        for article in ("", "the ")
        for quality, noun in (
            *((quality, "answer") for quality in ("", "correct ", "best ")),
            *((quality, "option") for quality in ("correct ", "best ")),
            *((quality, "choice") for quality in ("", "correct ")),
        )
    ),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    # The same words in Korean, Chinese and Japanese.
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)

_TAGGED = re.compile(r"<\s*answer\b[^>]*>\s*([A-J]).*?<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL)
_OPENING, _CLOSING = r"[(\[{（【]?\s*", r"\s*[)\]}）】]?"
_OPTION_LINE = re.compile(r"[*_>\-\s]*(?:option|选项)\s+[A-J]\s*[:：]", re.IGNORECASE)
_LONE_LETTER = re.compile(r"\s*[*_`>（）\[\]【】()]*\s*([A-F])\s*[*_`（）\[\]【】()]*\s*", re.IGNORECASE)
_LABELLED_LINE = re.compile(r"\s*([A-F])\s*[.．:：)\]】、-]\s+", re.IGNORECASE)
_TOKEN = re.compile(
    r"(?<![A-Za-z])[*_`（\[{(]*\s*([A-F])\s*[*_`）\]})]*(?=$|[\s.,:;!?)\]】》」』，。；、：）])"
)
_CONCLUSION = re.compile(
    r"(?:final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer|答案|最终答案|结论|所以|因此"
    rf"|我选(?:择)?|选择|选)\s*[:：>＝=]?\s*{_OPENING}([A-F])\s*[)\]}}）】]?(?:\b|[.)、。])",
    re.IGNORECASE,
)
_ANY_CAPITAL = re.compile(rf"(?<![A-Za-z]){_OPENING}([A-F])\s*[)\]}}）】]?(?![A-Za-z])")

_SECTION = re.compile(r"<Answer>(.*?)(?:<|$)", re.DOTALL)
_IN_SECTION = (r"[Mm]y answer is ([A-E])", r"[Tt]he answer is ([A-E])", r"([A-E])\.", r"\b([A-E])\b")
_IN_TEXT = (
    r"(?:^|\n)(?:Answer: )?([A-E])(?:\.|$|\s)",
    r"[*\"]([A-E])[*\"]",
    r"\bAnswer:?\s*([A-E])\b",
    r"[Mm]y answer is ([A-E])",
    r"answer is ([A-E])",
)
_SAID = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([A-D])\**", re.IGNORECASE)


def first_word(text: str) -> str:
    """What stands before the first space, without dots behind it (VSI-Bench): "(A)" stays "(A)"."""
    return text.split(" ")[0].rstrip(".").strip()


def leading_letter(text: str) -> str | None:
    """The first character behind opening brackets and spaces (lmms-eval: CV-Bench, BLINK, EmbSpatial).

    It need not stand alone: "Because ..." is B, "Answer: C" is A.
    """
    found = re.match(r"[(\s]*([A-Z])", text.strip(), re.IGNORECASE)
    return found.group(1).upper() if found else None


def enclosed_letter(text: str) -> str | None:
    """A letter A to F standing alone, looked for inside ``..``, then `..`, then {..} (MMSI-Bench).

    Each kind of bracket narrows what the one before left. A letter followed by a word is an article.
    """
    for inside in (r"``([^`]*)``", r"`([^`]*)`", r"\{([^}]*)\}"):
        found = re.search(inside, text)
        text = found.group(1) if found else text
    letter = re.search(r"\b[A-F]\b(?!\s[a-zA-Z])", text, re.IGNORECASE)
    return letter.group().upper() if letter else None


def prioritised_letter(text: str) -> str | None:
    """The last letter A to E in the most telling of several places (MindCube).

    Places in order: "B." anywhere; an <Answer> section; the beginning of a line, quotes or asterisks,
    behind "Answer:" or "answer is"; a letter alone on the last line that has one (its first).
    """
    found = re.findall(r"([A-E])\.", text)
    if found:
        return found[-1]
    section = _SECTION.search(text)
    for pattern in _IN_SECTION if section else ():
        found = re.findall(pattern, section.group(1) if section else "")
        if found:
            return found[-1]
    for pattern in _IN_TEXT:
        found = re.findall(pattern, text)
        if found:
            return found[-1]
    for line in reversed(text.split("\n")):
        alone = re.search(r"\b([A-E])\b", line)
        if alone:
            return alone.group(1)
    return None


def ranked_letter(text: str, letters: Sequence[str] = ALPHABET[:8]) -> str | None:
    """The letter in the most telling form, the later the better (lmms-eval: ERQA, RealWorldQA).

    Forms in order: it opens the text, it ends it, it follows "the answer is" or the like, (A), A. , A: ,
    A), A and a space, anywhere.

    Args:
        text: what the model wrote, without its thoughts.
        letters: the letters of the options.
    """
    stripped = text.strip()
    for mark in ",.!?;:'\"":
        stripped = stripped.strip(mark)
    padded = f" {stripped} "
    inner = padded.strip()
    found: list[tuple[int, int, str]] = []  # how telling, where
    for letter in letters:
        for rank, form in ((6, f"({letter})"), (5, f"{letter}."), (4, f"{letter}:"), (3, f"{letter})")):
            if form in padded:
                found.append((rank, padded.rfind(form), letter))
        if f"{letter} " in padded:
            found.append((2, padded.rfind(f"{letter} "), letter))
        if inner.startswith(letter) and not inner[1:2].isalpha():
            found.append((10, 0, letter))
        if inner.endswith(letter) and not inner[-2:-1].isalpha():
            found.append((9, len(padded) - 1, letter))
        for phrase in _PHRASES:
            begin = padded.lower().find(phrase)
            place = padded.find(letter, begin + len(phrase)) if begin >= 0 else -1
            if place >= 0:
                found.append((7, place, letter))
    if not found:
        found = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    return max(found)[2] if found else None


def tail_letter(text: str, *, num_lines: int = 6, window: int = 800) -> str | None:
    """The letter A to F an answer ends on (VLMEvalKit's rule for spatial benchmarks).

    Places in order: an <answer> tag that opens with it; before </answer> or </think>; the last lines behind
    the thoughts, then of the whole text (a line that is a letter, one that starts with "A. ", one whose
    capitals standing alone are all the same); behind "the answer is" and the like; the one capital that
    stands alone anywhere.
    """
    text = without_invisible(text)
    tagged = _TAGGED.search(text)
    if tagged:
        return tagged.group(1).upper()
    tail = text[-window:]
    for tag in ("answer", "think"):
        before = re.search(rf"(?<![A-Za-z]){_OPENING}([A-F]){_CLOSING}\s*</\s*{tag}\s*>", tail, re.IGNORECASE)
        if before:
            return before.group(1).upper()
    for lines in (behind_thoughts(text).splitlines(), tail.splitlines()):
        letter = _letter_of_lines(lines[-num_lines:])
        if letter:
            return letter
    said = _CONCLUSION.search(text)
    if said:
        return said.group(1).upper()
    kept = "\n".join(line for line in text.splitlines() if not _OPTION_LINE.match(line))
    letters = set(_ANY_CAPITAL.findall(kept))
    return letters.pop() if len(letters) == 1 else None


def token_letter(text: str, letters: Sequence[str]) -> str | None:
    """The one option letter among the words, near their end (VLMEvalKit's `can_infer_option`).

    Punctuation counts as space; it must be one of the last five words, or follow "answer is" or the like.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    said = _SAID.search(text)
    return said.group(1).upper() if said and said.group(1).upper() in letters else None


def named_option(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option a text names, by letter or by its words; naming two is naming none.

    For benchmarks whose authors give no rule. "B", "(b)", "B. the bowl", "the answer is B" and "the bowl"
    name the second option.
    """
    letters = list(ALPHABET[: len(options)])
    rest = re.sub(r"^.*</think>", "", text, flags=re.DOTALL).strip()
    alone = re.fullmatch(r"[(\[*`]*([A-Za-z])[)\]*`.:]*", rest)
    if alone and alone.group(1).upper() in letters:
        return alone.group(1).upper()
    unique = list(dict.fromkeys(options))
    chosen = parse_choice(rest, unique) if unique else None
    if chosen is not None:
        return letters[list(options).index(chosen)]
    said = set(re.findall(r"(?<![\w'])\(?([A-Z])\)?(?![\w'])", rest)) & set(letters)
    # "A" is an article wherever a word in lower case follows it.
    if "A" in said and not re.search(r"(?<![\w'])\(?A\)?(?![\w'])(?!\s+[a-z])", rest):
        said.discard("A")
    return said.pop() if len(said) == 1 else None


def _letter_of_lines(lines: Sequence[str]) -> str | None:
    for line in reversed([line.strip() for line in lines if line.strip()]):
        if _OPTION_LINE.match(line):
            continue
        found = _LONE_LETTER.fullmatch(line) or _LABELLED_LINE.match(line)
        if found:
            return found.group(1).upper()
        tokens = set(_TOKEN.findall(line))
        if len(tokens) == 1:
            return tokens.pop()
    return None
