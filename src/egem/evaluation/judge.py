"""A language model as the judge of open answers: LLM-Match of OpenEQA (Majumdar et al. 2024).

The judge reads question, right answer and answer and gives a mark from 1 to 5; the score is (mark - 1) / 4.
Marks depend on the judge: the paper's is gpt-4-1106-preview, and a result names the one it used. The two
prompts beside this file are OpenEQA's own (facebookresearch/open-eqa, prompts/mmbench.txt and
mmbench-extra.txt; MIT licence, copyright Meta Platforms): another wording would be another benchmark.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources

from egem.core.errors import ProtocolError
from egem.evaluation.chat import ChatServer
from egem.records import Record

TAG = "Your mark:"
LOWEST, HIGHEST = 1, 5
MAX_TOKENS = 32
TEMPERATURE, SEED = 0.2, 1234
"""As in openeqa/evaluation/llm_match.py."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Marks answers; as many at a time as asked for."""

    server: ChatServer
    attempts: int = 3
    """How often a judge that gives no mark is asked again."""

    @property
    def name(self) -> str:
        """Model, address and settings: what a score depends on."""
        server = self.server
        return f"{server.model} at {server.url}, temperature {server.temperature:g}, seed {server.seed}"

    def scores(self, records: Sequence[Record], texts: Sequence[str]) -> list[float]:
        """A score in [0, 1] for each answer.

        Raises:
            ProtocolError: the judge cannot be reached, or gives no mark.
        """
        with ThreadPoolExecutor(max(1, len(records))) as pool:
            return list(pool.map(self.score, records, texts))

    def score(self, record: Record, text: str) -> float:
        """The score of one answer; see `scores`."""
        prompt = judge_prompt(record, text)
        said = ""
        for _ in range(self.attempts):
            said = self.server.complete(prompt, max_tokens=MAX_TOKENS)
            mark = parse_mark(said)
            if mark is not None:
                return (min(max(mark, LOWEST), HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
        raise ProtocolError(
            f"judge {self.server.model} gave no mark for question {record.id} in {self.attempts} attempts but "
            f"{said[:80]!r}; choose another judge. Marks so far are kept."
        )


def judge_prompt(record: Record, text: str) -> str:
    """What the judge reads; what follows the last full stop of an answer is cut off first."""
    end = text.rfind(".")
    shown = text[: end + 1] if 0 <= end < len(text) - 1 else text
    others = record.meta.get("extra_answers")
    name = "openeqa_judge.txt" if others is None else "openeqa_judge_extra.txt"
    template = resources.files("egem.evaluation").joinpath(name).read_text().rstrip("\n")
    return template.format(
        question=record.meta["question"], answer=record.answer.text, prediction=shown, extra_answers=others
    )


def parse_mark(text: str) -> int | None:
    """The whole text as a number, or the number behind "Your mark:" on its line."""
    if text.isdigit():
        return int(text)
    place = text.find(TAG)
    if place < 0:
        return None
    line = text[place + len(TAG) :].split("\n", 1)[0].strip()
    try:
        return int(line)
    except ValueError:
        return None
