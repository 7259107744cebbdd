"""RoboVQA (Sermanet et al. 2023, google-deepmind/robovqa): questions about clips of robots and people at work.

Read from the published TFRecords (`val/val*.tfrecord*`), every task of every clip. The authors' notebook
shows sentence BLEU (sacreBLEU) of each answer; RoboBrain, whose numbers others quote, averages unsmoothed
BLEU-1 to BLEU-4 with shorter orders for short references.
"""

import re

import numpy as np

from egem.data_engine.formats.tfrecord import SequenceExample, parse_sequence_example, read_tfrecords
from egem.data_engine.sources.robovqa import split_tasks
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Bytes
from egem.evaluation.benchmarks.public import EVERYTHING, PublicBenchmark, Rule, choose_rule, entry
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.measures import bleu, smoothed_bleu
from egem.records import Answer, Record

NAME, HUB_ID = "robovqa", "google-deepmind/robovqa"
_WEIGHTS = (
    (1.0, 0.0, 0.0, 0.0),
    (0.5, 0.5, 0.0, 0.0),
    (0.33, 0.33, 0.33, 0.0),
    (0.25, 0.25, 0.25, 0.25),
)


def _sentence(record: Record, text: str) -> float:
    return min(smoothed_bleu(text, record.answer.text), 1.0)


def robobrain_bleu(text: str, right: str) -> dict[str, float]:
    """BLEU-1 to BLEU-4 and their mean; an order beyond the reference's length takes the longest that fits."""
    given, true = (part.replace("\n", "").lower() for part in (text, right))
    if true in ("yes", "no"):
        given = re.sub(r"\b\w*yes\w*\b", "yes", given)
        given = re.sub(r"\b\w*no\w*\b", "no", given)
    words, reference = given.split(" "), true.split(" ")
    longest = min(len(reference), 4)
    values = [bleu(words, reference, _WEIGHTS[min(order, longest) - 1]) for order in (1, 2, 3, 4)]
    named = {f"bleu{order}": value for order, value in enumerate(values, 1)}
    # Weights of three orders sum to 0.99, which lifts a perfect match a hair above nothing but never above 1.
    return {"score": min(sum(values) / 4, 1.0), **named}


RULES = (
    Rule(
        name="official",
        score=_sentence,
        totals={"BLEU": "all"},
        prompts={"": "{question}"},
        max_new_tokens=64,
        frames=16,
        reference="google-deepmind/robovqa, data_loading_and_eval.ipynb (sacrebleu.sentence_bleu, answer first)",
    ),
    Rule(
        name="robobrain",
        score=lambda record, text: robobrain_bleu(text, record.answer.text),
        totals=EVERYTHING,
        prompts={"": "{question}"},
        max_new_tokens=128,
        frames=16,
        reference="FlagOpen/RoboBrain, eval/robo_metric.py",
    ),
)


def robovqa(options: BenchmarkOptions) -> Benchmark:
    """Every task of the validation clips."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    entries = []
    for path in source.files("val/val*", "tfrecord/val/val*", "**/val*.tfrecord*", "*.tfrecord*"):
        for number, data in enumerate(read_tfrecords(path)):
            where = f"{path}, record {number + 1}"
            clip = parse_sequence_example(data, where=where)
            media, scene = _frames(clip, rule.frames or 16), f"{path.name}-{number}"
            for place, (kind, question, right) in enumerate(split_tasks(_text(clip), where)):
                entries.append(
                    entry(
                        benchmark=NAME,
                        id=f"{scene}-{place}",
                        skill=kind or "task",
                        category="planning",
                        prompt=rule.prompt(question=question),
                        answer=Answer(kind="text", text=right),
                        media=media,
                        scene=scene,
                        group=scene,
                        num_images=len(media.data),
                    )
                )
    return PublicBenchmark.of(NAME, entries, rule, options)


def _frames(clip: SequenceExample, num: int) -> Bytes:
    images = [image for step in clip.steps.get("images", ()) for image in step if isinstance(image, bytes)]
    wanted = np.unique(np.linspace(0, len(images) - 1, num).round().astype(int)) if images else []
    return Bytes(data=tuple(images[index] for index in wanted))


def _text(clip: SequenceExample) -> str:
    texts = [text for step in clip.steps.get("texts", ()) for text in step if isinstance(text, bytes)]
    return texts[0].decode() if texts else ""
