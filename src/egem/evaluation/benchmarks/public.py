"""Benchmarks that others published: their questions, and the rules their answers are scored by.

A rule is everything that moves a score: prompt, frames, how the answer is read, how answers are averaged.
Where the authors, lmms-eval and VLMEvalKit differ, a benchmark has several, and a result says which it used.
"""

import hashlib
import json
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from egem.core.errors import ConfigError, RecordError, unknown_name
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Loaded, Media, absent
from egem.evaluation.totals import ALL, Part
from egem.question_options import inline_options
from egem.records import IMAGE_MARK, Answer, Category, Message, Record

Score = float | Mapping[str, float]
"""A score in [0, 1], or several numbers of which "score" is it and the others are averaged beside it."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to ask and score a benchmark."""

    name: str
    """`official` (the authors' own code), `lmms-eval`, `vlmevalkit`, or `egem` where nobody published one."""
    score: Callable[[Record, str], Score]
    totals: Mapping[str, Part]
    """Headline numbers; the first is the one people quote."""
    prompts: Mapping[str, str]
    """Templates by kind of question; "" where there is one kind."""
    max_new_tokens: int
    """Longest answer."""
    frames: int | None = None
    """Of each video; None where there is none."""
    centre: str = "[(0.5, 0.5)]"
    """The middle of the image as this rule reads points: the guess that pointing must beat."""
    reads_media: bool = False
    """Scoring needs the mask or the size of the image."""
    judged: bool = False
    """A language model decides; `score` then only prepares the answer for it."""
    reference: str = ""
    """Where the rule comes from."""

    def prompt(self, kind: str = "", **parts: str) -> str:
        """The prompt of a question."""
        return self.prompts[kind].format(**parts)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A question without its images, and where they are."""

    record: Record
    media: Media


class QuestionSet:
    """The questions of a benchmark in groups that share images.

    Args:
        entries: questions of one group stand next to each other.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        starts = [
            index
            for index, entry in enumerate(entries)
            if index == 0 or entry.record.group != entries[index - 1].record.group
        ]
        self._bounds = list(zip(starts, [*starts[1:], len(entries)], strict=True))
        self._media = {entry.record.id: entry.media for entry in entries}
        self._fingerprint: str | None = None
        self._last: tuple[Media, Loaded] | None = None

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, index: Any) -> Any:
        """The records of one group, with their images."""
        return tuple(self.load(record) for record in self.bare(index))

    def bare(self, index: int) -> tuple[Record, ...]:
        """The records of one group, without images."""
        start, stop = self._bounds[index]
        return tuple(entry.record for entry in self.entries[start:stop])

    def load(self, record: Record) -> Record:
        """The record with its images, and with the mask where one decides what is right.

        Raises:
            RecordError: an image or a mask is missing or unreadable.
        """
        media = self._media[record.id]
        # Questions of a group follow each other, and a video is decoded once for all of them.
        if self._last is None or self._last[0] != media:
            self._last = (media, media.load())
        loaded = self._last[1]
        marks = sum(message.content.count(IMAGE_MARK) for message in record.messages)
        messages = record.messages
        if marks == 0:  # their number was not known before
            first, *rest = record.messages
            messages = (replace(first, content=IMAGE_MARK * len(loaded.images) + first.content), *rest)
        elif marks != len(loaded.images):
            raise RecordError(
                f"question '{record.id}' speaks of {marks} images, its row has {len(loaded.images)}; "
                "the copy of the benchmark is damaged."
            )
        answer = record.answer if loaded.mask is None else replace(record.answer, region=loaded.mask)
        return replace(
            record,
            images=loaded.images,
            timestamps=loaded.timestamps,
            depths=loaded.depths,
            messages=messages,
            answer=answer,
        )

    @property
    def fingerprint(self) -> str:
        """Equal only for the same questions with the same answers, in the same order."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for entry in self.entries:
                record = entry.record
                prompt = [message.content for message in record.messages]
                told = [record.id, record.group, record.skill, prompt, record.meta, entry.media.identity]
                digest.update(json.dumps(told, sort_keys=True).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


@dataclass(frozen=True, kw_only=True)
class PublicBenchmark(Benchmark):
    """Questions with a rule."""

    groups: QuestionSet  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: Rule
    notes: tuple[str, ...] = field(default=())
    """What a reader of the scores should know."""

    @classmethod
    def of(
        cls,
        name: str,
        entries: Sequence[Entry],
        rule: Rule,
        options: BenchmarkOptions,
        notes: Sequence[str] = (),
    ) -> "PublicBenchmark":
        """The benchmark, or as many of its groups as asked for, spread over all of it.

        Raises:
            RecordError: no questions, or one id twice.
        """
        if not entries:
            raise RecordError(f"benchmark {name} has no questions.")
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.record.group, []).append(entry)
        num = min(options.num_groups or len(groups), len(groups))
        kept = np.unique(np.linspace(0, len(groups) - 1, num).round().astype(int))
        names = list(groups)
        questions = QuestionSet([entry for index in kept for entry in groups[names[index]]])
        return cls(name=name, groups=questions, num_groups=len(questions), rule=rule, notes=tuple(notes))

    @property
    def fingerprint(self) -> str:
        """Equal only for the same questions, prompts and order."""
        return self.groups.fingerprint

    def questions(self) -> Iterator[Record]:
        """Every question, without images."""
        for index in range(self.num_groups):
            yield from self.groups.bare(index)

    def group_heads(self) -> Iterator[Record]:
        """None: published questions come without depth, and nothing is decoded to find that out."""
        yield from ()

    def load(self, record: Record) -> Record:
        """The question with its images.

        Raises:
            RecordError: one is missing or unreadable.
        """
        return self.groups.load(record)

    def check_media(self) -> None:
        """Look for every image file before anything is asked.

        Raises:
            RecordError: names the files that are missing.
        """
        count, names = absent([entry.media for entry in self.groups.entries])
        if count:
            raise RecordError(
                f"benchmark {self.name} is incomplete: {count} files are missing: {names}. Download all of it."
            )

    def score(self, record: Record, text: str) -> dict[str, float]:
        """By the rule; see `Benchmark.score`."""
        found = self.rule.score(record, text)
        return dict(found) if isinstance(found, Mapping) else {"score": float(found)}


def choose_rule(benchmark: str, rules: Sequence[Rule], options: BenchmarkOptions) -> Rule:
    """The rule that was asked for, the first one otherwise, with the number of frames that was asked for.

    Raises:
        ConfigError: this benchmark has no such rule, or no videos to take frames from.
    """
    names = [rule.name for rule in rules]
    if options.rule is not None and options.rule not in names:
        raise unknown_name(f"rule for {benchmark}", options.rule, names)
    rule = rules[names.index(options.rule)] if options.rule else rules[0]
    if options.frames is not None:
        if rule.frames is None:
            raise ConfigError(
                f"benchmark {benchmark} has no videos, so --frames {options.frames} means nothing to it; leave it out, "
                "or evaluate this benchmark by itself."
            )
        if options.frames < 1:
            raise ConfigError(f"{options.frames} frames: give at least 1.")
        rule = replace(rule, frames=options.frames)
    return rule


def choice_entry(
    *,
    benchmark: str,
    id: str,
    skill: str,
    prompt: str,
    target: str,
    options: Sequence[str],
    media: Media,
    scene: str,
    group: str | None = None,
    category: Category = "spatial",
    labels: Sequence[str] = (),
    num_images: int | None = 1,
    meta: Mapping[str, Any] | None = None,
) -> Entry:
    """A question whose answer is the letter of an option.

    Args:
        benchmark: its name.
        id: unique within it.
        skill: kind of question.
        prompt: with an `<image>` mark an image, or without any: then they come first.
        target: the letter of the right option.
        options: their texts; empty where they stand in the prompt only.
        media: the images.
        scene: questions about one scene are not independent of each other.
        group: questions of one group share all images and stand next to each other; the id when None.
        category: of the record.
        labels: what the totals are made of, beside the skill.
        num_images: None where it is known only when they are read.
        meta: anything else that the rule needs.

    Raises:
        RecordError: the target is no option.
    """
    letters = tuple(string.ascii_uppercase[: len(options) or 6])
    if target not in letters:
        raise RecordError(
            f"benchmark {benchmark}, question '{id}': the right answer '{target}' is none of {letters}."
        )
    return entry(
        benchmark=benchmark,
        id=id,
        skill=skill,
        prompt=prompt,
        answer=Answer(kind="choice", text=target, choices=letters),
        media=media,
        scene=scene,
        group=group,
        category=category,
        labels=labels,
        num_images=num_images,
        meta={**(meta or {}), "options": list(options)},
    )


def entry(
    *,
    benchmark: str,
    id: str,
    skill: str,
    prompt: str,
    answer: Answer,
    media: Media,
    scene: str,
    group: str | None = None,
    category: Category = "spatial",
    labels: Sequence[str] = (),
    num_images: int | None = 1,
    meta: Mapping[str, Any] | None = None,
) -> Entry:
    """A question with any kind of answer; see `choice_entry`."""
    if IMAGE_MARK not in prompt and num_images is not None:
        prompt = IMAGE_MARK * num_images + prompt
    record = Record(
        id=f"{benchmark}/{id}",
        source=benchmark,
        category=category,
        skill=skill,
        group=f"{benchmark}/{group or id}",
        images=(),
        messages=(Message(role="user", content=prompt), Message(role="assistant", content=answer.text)),
        answer=answer,
        meta={**(meta or {}), "scene": scene, "labels": [*labels]},
    )
    return Entry(record=record, media=media)


def options_of(question: str, target: str) -> list[str]:
    """The options in a question's text, in order; none where the right letter is not among them."""
    options = inline_options(question)
    told = all(options) and target in string.ascii_uppercase[: len(options)]
    return list(options) if told else []


def letters_of(options: Sequence[str]) -> str:
    """The letters of the options: "A, B, C, D" for four."""
    return ", ".join(string.ascii_uppercase[: len(options)])


def is_letter(read: Callable[[str], str | None]) -> Callable[[Record, str], float]:
    """The rule of most choice benchmarks: 1 when the letter that `read` finds is the right one."""

    def score(record: Record, text: str) -> float:
        return float(read(text) == record.answer.text)

    return score


EVERYTHING: dict[str, Part] = {"accuracy": ALL}
"""The total of benchmarks that count every question the same."""
