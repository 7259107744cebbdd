"""The way of the gripper from now on, as points in the image."""

import numpy as np
from jaxtyping import Float

from egem.data_engine.skills.skill import Question, phrase, written
from egem.data_engine.view import View
from egem.records import Answer

NUM_POINTS = 8
MIN_LENGTH = 60
"""A way shorter than this in the image (0..1000 units) is refused."""

_PHRASINGS = (
    "Task: {task}. Gripper path as 8 points?",
    "To {task}, where does the gripper move? Give 8 points.",
    '"{task}": give the gripper\'s path, 8 points.',
    "Trace the gripper in 8 points: {task}.",
)


def gripper_path(view: View, rng: np.random.Generator) -> Question | None:
    """Eight points of the gripper's way, equally spaced in space, all inside the picture."""
    task = view.scene.task
    if task is None or task.done or len(task.path) < 2:
        return None
    path = resample(task.path, NUM_POINTS)
    projected = view.camera.project(path)
    if (projected[:, 2] <= 0).any() or not view.inside_image(projected[:, :2]).all():
        return None
    points = tuple(view.coordinate((int(column), int(row))) for column, row, _ in projected)
    steps = np.linalg.norm(np.diff(np.array(points), axis=0), axis=1)
    if steps.sum() < MIN_LENGTH:
        return None
    text = "[" + ", ".join(written(point) for point in points) + "]"
    return Question(
        text=phrase(rng, _PHRASINGS, task=task.instruction),
        answer=Answer(kind="trajectory", text=text, points=points),
        topic=(task.instruction,),
        meta={"path_m": [[round(float(v), 4) for v in point] for point in path]},
    )


def resample(path: Float[np.ndarray, "point 3"], num: int) -> Float[np.ndarray, "num 3"]:
    """Points equally spaced along a curve."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], num)
    return np.stack([np.interp(wanted, along, path[:, axis]) for axis in range(3)], axis=1)
