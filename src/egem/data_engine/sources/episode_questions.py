"""Questions about a robot episode, of RoboVQA's kinds, from its sub-tasks, key frames and the end effector's path.

For sub-task i of an episode three views are taken: the key frame at its start, frames of its first half, frames of
all of it. What can be asked depends on what is annotated:

    start  next_subtask      what should the robot do now, given what is done
           remaining_steps   all that is left to do, in order
           affordance        is this possible now? the sub-task that comes (yes), one whose effect is there already (no)
           gripper_path      the end effector's way through the sub-task, as image points
    clip   current_subtask   which of the episode's sub-tasks is this
           past_description  what did the robot do
           future_prediction what will it do next
           success           is it done? yes at the end
    half   success           no in the first half

An episode without annotation is one part, its instruction; asked are then `past_description`, `gripper_path` and, where
the source says that it succeeded, `success`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from egem.data_engine.sources.choices import with_options
from egem.data_engine.sources.coordinates import written_list
from egem.episodes import CameraStream, Episode, Subtask, image_shares, project
from egem.records import COORDINATE_RANGE, Answer

ViewName = Literal["start", "half", "clip"]

NUM_POINTS = 8
MIN_LENGTH = 60
"""A path shorter than this in the image (0 to 1000) is not asked for."""
STILL = 1e-3
"""A camera whose pose changes by no more than this (metres; entries of its rotation) stands still."""
MAX_OPTIONS = 4
# fmt: off
UNDOABLE = frozenset((
    "attach", "close", "drop", "grab", "grasp", "hang", "insert", "lift", "open", "pick", "place", "plug", "pour",
    "put", "release", "remove", "switch", "take", "turn", "unplug",
))
# fmt: on
"""First words of sub-tasks whose effect, once there, leaves nothing to do: only they are asked about as impossible."""

_FORMS = {
    "next_subtask": (
        "The robot's task: {task}. {done} What should it do next?",
        "Task: {task}. {done} What is the next step?",
        "To {task}: {done} What comes now?",
    ),
    "remaining_steps": (
        "The robot's task: {task}. {done} List the steps that are left, numbered.",
        "Task: {task}. {done} Which steps remain? Number them.",
    ),
    "affordance": (
        "Is it possible to {part} right now? Answer yes or no.",
        'Can the robot do this now: "{part}"? Answer yes or no.',
    ),
    "gripper_path": (
        "The robot is to {part}. Give its {arm}gripper's path in the image as 8 points [x, y], integers 0 to 1000.",
        "{Part}: where does the {arm}gripper move? 8 points [x, y], integers 0 to 1000.",
    ),
    "current_subtask": (
        "These are frames of a robot at work. Which step is it?",
        "Which step do these frames show?",
    ),
    "past_description": (
        "What did the robot do in these frames?",
        "These are frames of a robot at work. What has it done?",
    ),
    "future_prediction": (
        "The robot's task: {task}. After what these frames show, what will it do next?",
        "Task: {task}. These frames end; what is likely to happen next?",
    ),
    "success": (
        'Did the robot finish this step: "{part}"? Answer yes or no.',
        "The robot is to {part}. Is that done at the end of these frames? Answer yes or no.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeQuestion:
    """One question about one view of a sub-task."""

    skill: str
    view: ViewName
    part: int
    """Index of the sub-task."""
    text: str
    reply: str
    """As the assistant writes it."""
    answer: Answer


def parts_of(episode: Episode) -> tuple[Subtask, ...]:
    """The annotated sub-tasks, or the whole episode as one of the name of its instruction; none without either."""
    if episode.subtasks:
        return tuple(part for part in episode.subtasks if part.text.strip())
    if not episode.instruction.strip():
        return ()
    return (Subtask(text=episode.instruction, start=0, end=episode.num_steps, success=episode.success),)


def questions(
    episode: Episode, camera: str, size: tuple[int, int], rng: np.random.Generator
) -> list[EpisodeQuestion]:
    """All that can be asked about an episode, sub-task after sub-task.

    Args:
        episode: see `parts_of`.
        camera: whose frames are shown.
        size: width and height of its frames.
        rng: decides wordings, the order of options, and whether `success` and `affordance` are asked for yes or no.
    """
    parts, annotated = parts_of(episode), bool(episode.subtasks)
    stream = episode.cameras[camera]
    found: list[EpisodeQuestion] = []
    for index, part in enumerate(parts):
        asked = _Asked(parts, index, episode.instruction or "finish the work shown", rng)
        if annotated and len(parts) > 1:
            found += [asked.next_subtask(), asked.remaining_steps()]
            found += [q for q in (asked.affordance(), asked.current(), asked.future()) if q is not None]
        found.append(asked.past())
        found += [q for q in (asked.success(annotated),) if q is not None]
        path = longest_path(image_tracks(stream, episode, part, size))
        if path is not None:
            found.append(asked.path(*path))
    return found


def image_tracks(
    stream: CameraStream, episode: Episode, part: Subtask, size: tuple[int, int]
) -> dict[str, Float[np.ndarray, "step 2"]]:
    """Where the end effectors go during a sub-task, as fractions of the frame at its start; NaN where unseen.

    A track counts most, unless the camera is known to move: then its points belong to other pictures than the first.
    Else positions are projected into the camera as it stands at the start. A calibration that belongs to another
    picture size (its centre is off by a quarter) is not used.

    Returns:
        Name of the arm ("" for the only one) to its track; empty without track or calibration, or for several arms
        without names, as a question could not say whose path it means.
    """
    steps = slice(part.start, part.end)
    poses = None if stream.camera_from_base is None else stream.camera_from_base[steps]
    moves = poses is not None and float(np.abs(poses - poses[0]).max()) > STILL
    if stream.track is not None and not moves:
        return {"": stream.track[steps]}
    effector, names = episode.effector, episode.arms or ("",)
    if effector is None or stream.intrinsics is None or effector.shape[1] != len(names):
        return {}
    width, height = size
    if (np.abs(stream.intrinsics[:2, 2] / (width / 2, height / 2) - 1) > 0.25).any():
        return {}
    found = {}
    for arm, name in enumerate(names):
        projected = project(stream, effector[steps, arm].astype(np.float64), part.start)
        if projected is None:
            return {}
        found[name] = image_shares(projected, size)
    return found


def longest_path(
    tracks: dict[str, Float[np.ndarray, "step 2"]],
) -> tuple[str, tuple[tuple[int, int], ...]] | None:
    """The arm that moves most in the image, and its path (see `path_points`); None if it cannot be asked for."""
    lengths = {
        arm: float(np.nansum(np.linalg.norm(np.diff(track, axis=0), axis=1))) for arm, track in tracks.items()
    }
    if not lengths:
        return None
    arm = max(lengths, key=lambda name: lengths[name])
    points = path_points(tracks[arm])
    return None if points is None else (arm, points)


def path_points(track: Float[np.ndarray, "step 2"]) -> tuple[tuple[int, int], ...] | None:
    """Eight points equally spaced along a path, 0 to 1000; None if part of it is unseen or it hardly moves."""
    if len(track) < 2 or not np.isfinite(track).all() or (track < 0).any() or (track > 1).any():
        return None
    steps = np.linalg.norm(np.diff(track, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if along[-1] * COORDINATE_RANGE < MIN_LENGTH:
        return None
    wanted = np.linspace(0, along[-1], NUM_POINTS)
    points = np.stack([np.interp(wanted, along, track[:, axis]) for axis in range(2)], axis=1)
    return tuple((round(x * COORDINATE_RANGE), round(y * COORDINATE_RANGE)) for x, y in points.tolist())


class _Asked:
    """The questions about one sub-task."""

    def __init__(self, parts: Sequence[Subtask], index: int, task: str, rng: np.random.Generator) -> None:
        self.parts, self.index, self.rng = parts, index, rng
        self.part = parts[index]
        done = "; ".join(_lower(part.text) for part in parts[:index])
        self.words = {
            "task": _lower(task),
            "part": _lower(self.part.text),
            "Part": _upper(self.part.text),
            "done": f"Done so far: {done}." if done else "Nothing is done yet.",
        }

    def next_subtask(self) -> EpisodeQuestion:
        return self._text("next_subtask", "start", self.part.text)

    def remaining_steps(self) -> EpisodeQuestion:
        left = [f"{i}. {_lower(part.text)}" for i, part in enumerate(self.parts[self.index :], 1)]
        return self._text("remaining_steps", "start", "\n".join(left))

    def affordance(self) -> EpisodeQuestion | None:
        """Yes: what comes now. No: what was done just before, where its effect leaves nothing to do again."""
        before = self.parts[self.index - 1] if self.index else None
        later = [part.text.lower() for part in self.parts[self.index :]]
        over = (
            before is not None
            and before.text.lower().split()[0] in UNDOABLE
            and before.text.lower() not in later
        )
        # Asked only where both could be right, so that neither is the usual answer.
        if before is None or not over:
            return None
        right = bool(self.rng.integers(2))
        return self._binary("affordance", "start", (self.part if right else before).text, right)

    def current(self) -> EpisodeQuestion | None:
        """Among the episode's own sub-tasks; None where they all say the same."""
        others = sorted({part.text for part in self.parts} - {self.part.text})
        if not others:
            return None
        chosen = self.rng.permutation(len(others))[: MAX_OPTIONS - 1]
        options = [self.part.text, *(others[i] for i in chosen)]
        options = [options[i] for i in self.rng.permutation(len(options))]
        question = with_options(self._phrase("current_subtask"), options)
        answer = Answer(kind="choice", text=self.part.text, choices=tuple(options))
        return self._question(
            "current_subtask", "clip", question, "ABCD"[options.index(self.part.text)], answer
        )

    def past(self) -> EpisodeQuestion:
        return self._text("past_description", "clip", self.part.text)

    def future(self) -> EpisodeQuestion | None:
        if self.index + 1 == len(self.parts):
            return None
        return self._text("future_prediction", "clip", self.parts[self.index + 1].text)

    def success(self, annotated: bool) -> EpisodeQuestion | None:
        """Annotated sub-tasks ended when they were done, unless the source says otherwise."""
        outcome = self.part.success
        if outcome is None:
            if not annotated:
                return None
            outcome = True
        if outcome and self.rng.integers(2) and self.part.end - self.part.start >= 2:
            return self._binary("success", "half", self.part.text, False)
        return self._binary("success", "clip", self.part.text, outcome)

    def path(self, arm: str, points: tuple[tuple[int, int], ...]) -> EpisodeQuestion:
        text = written_list(points)
        self.words["arm"] = f"{arm} " if arm else ""
        answer = Answer(kind="trajectory", text=text, points=points)
        return self._question("gripper_path", "start", self._phrase("gripper_path"), text, answer)

    def _binary(self, skill: str, view: ViewName, part: str, right: bool) -> EpisodeQuestion:
        word = "yes" if right else "no"
        answer = Answer(kind="choice", text=word, choices=("yes", "no"))
        return self._question(skill, view, self._phrase(skill, part=_lower(part)), word, answer)

    def _text(self, skill: str, view: ViewName, reply: str) -> EpisodeQuestion:
        return self._question(skill, view, self._phrase(skill), reply, Answer(kind="text", text=reply))

    def _question(self, skill: str, view: ViewName, text: str, reply: str, answer: Answer) -> EpisodeQuestion:
        return EpisodeQuestion(skill=skill, view=view, part=self.index, text=text, reply=reply, answer=answer)

    def _phrase(self, skill: str, part: str = "") -> str:
        forms = _FORMS[skill]
        words = self.words | ({"part": part} if part else {})
        return forms[int(self.rng.integers(len(forms)))].format(**words)


def _lower(text: str) -> str:
    """A sentence as part of another: no full stop, no capital (unless the first word is all capitals)."""
    text = text.strip().rstrip(".")
    return text if text.split(" ", 1)[0].isupper() else text[:1].lower() + text[1:]


def _upper(text: str) -> str:
    text = text.strip().rstrip(".")
    return text[:1].upper() + text[1:]
