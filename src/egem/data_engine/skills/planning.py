"""What a robot could do here: reach, be done, do next."""

import numpy as np

from egem.data_engine.skills.containment import held_and_free, pair_for
from egem.data_engine.skills.pointing import point_in
from egem.data_engine.skills.skill import Question, choice, coin, listed, phrase, pick, shuffled, yes_or_no
from egem.data_engine.view import View

MIN_ROBOT = 0.01
"""Least share of the image that shows the robot, for a question about its reach."""

_REACH = (
    "Can the robot reach {a}?",
    "Is {a} within the robot's reach?",
    "{a}: can the gripper get there, yes or no?",
    "Is {a} reachable for the robot?",
)
_DONE = (
    "Task: {task}. Is it done?",
    '"{task}": done, yes or no?',
    "Has this been done: {task}?",
    "The goal is to {task}. Reached?",
)
_NEXT = (
    "Task: {task}. Next step: {steps}?",
    "To {task}, what comes next: {steps}?",
    '"{task}": is the next step {steps}?',
    "The robot is to {task}. Now: {steps}?",
)
_SUBJECT = (
    "{task}",
    "{task}: where does that begin? Give a point [x, y].",
    "Point at what is moved to {task}.",
    'Where must the gripper go first: "{task}"?',
)


def reachable(view: View, rng: np.random.Generator) -> Question | None:
    """Can the robot reach a thing? Asked only where it can reach some and not others."""
    answers = {value: [s for s in view.sightings if s.object.reachable is value] for value in (True, False)}
    if not answers[True] or not answers[False]:
        return None
    wanted = coin(rng)
    thing = pick(rng, answers[wanted])
    text = phrase(rng, _REACH, a=f"the {thing.name}")
    return Question(
        text=text[0].upper() + text[1:],
        answer=yes_or_no(wanted),
        topic=(thing.name,),
        meta={"reachable": wanted},
    )


def goal_done(view: View, rng: np.random.Generator) -> Question | None:
    """Has a goal (something in or on something) been reached?"""
    cases = held_and_free(view, lambda a, b: b.object.index in (a.object.on, a.object.inside))
    if cases is None:
        return None
    wanted = coin(rng)
    a, b = pair_for(rng, cases, wanted)
    within = any(b is other and a.object.inside == b.object.index for a, other in cases[0])
    task = f"put the {a.name} {'in' if within else 'on'} the {b.name}"
    return Question(
        text=phrase(rng, _DONE, task=task),
        answer=yes_or_no(wanted),
        topic=(a.name, b.name),
        meta={"goal": task},
    )


def next_step(view: View, rng: np.random.Generator) -> Question | None:
    """Which of two steps of the robot's task comes next?"""
    task = view.scene.task
    if task is None or task.done or task.next_subtask not in task.subtasks:
        return None
    # Robots are mostly seen before they begin: asked each time, the first step would be the usual answer.
    if task.next_subtask == task.subtasks[0] and coin(rng):
        return None
    other = pick(rng, [step for step in task.subtasks if step != task.next_subtask] or [""])
    if not other:
        return None
    steps = shuffled(rng, [task.next_subtask, other])
    return Question(
        text=phrase(rng, _NEXT, task=task.instruction, steps=listed(steps)),
        answer=choice(task.next_subtask, steps),
        topic=(task.instruction,),
        meta={"subtasks": list(task.subtasks)},
    )


def task_subject(view: View, rng: np.random.Generator) -> Question | None:
    """A point on the thing that the robot's task begins with; one phrasing is the instruction and nothing else."""
    task = view.scene.task
    if task is None or task.done:
        return None
    things = [s for s in view.sightings if s.object.index == task.subject]
    if not things:
        return None
    (thing,) = things
    return Question(
        text=phrase(rng, _SUBJECT, task=task.instruction),
        answer=point_in(view, thing.pixels),
        topic=(task.instruction,),
        meta={"subject": thing.name},
    )
