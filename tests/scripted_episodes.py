"""An episode of the scripted expert on the table, with what the simulator knows: masks and the gripper's way."""

from dataclasses import dataclass

import numpy as np

from egem.annotators.masks import KnownMasks
from egem.environments.environment import EnvironmentOptions
from egem.environments.tabletop.environment import TabletopEnvironment
from egem.episodes import CameraStream, Episode, Subtask

CAMERA = "front"
GRIPPER = "robot gripper"


class Pictures:
    """Frames in memory."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        return [self.images[i] for i in indices]

    def encoded(self, index):
        return None


@dataclass
class Scripted:
    episode: Episode
    """With frames and sub-tasks alone: no track, no calibration."""
    masks: list[dict[str, np.ndarray]]
    """Of each step, by name."""
    fingers: np.ndarray
    """(step, 2) pixels: where the middle of both fingers is seen, which is what a mask of them has for its middle."""
    known: KnownMasks


def scripted(task: str, seed: int, size=(160, 160)) -> Scripted:
    environment = TabletopEnvironment(EnvironmentOptions(size=size))
    try:
        return _run(environment, task, seed)
    finally:
        environment.close()


def _run(environment, task, seed):
    environment.begin(task, seed)
    simulator, layout = environment._simulator, environment._layout
    model = simulator.model
    fingers = {model.body(f"finger_{side}").id for side in ("left", "right")}
    is_finger = np.append([int(body) in fingers for body in model.geom_bodyid], False)
    thing_of_geom = np.append(simulator._thing_of_geom, -1)
    calibration = environment.calibrations()[CAMERA]
    images, masks, seen, texts = [], [], [], []
    known = KnownMasks(origin="simulator/tabletop", licence="apache-2.0")
    simulator.draw(CAMERA)  # opens the drawing context
    for action in environment.expert(seed):
        image, _, geoms = simulator._painter.draw(simulator.data, model.camera(CAMERA).id)
        named = {thing.name: thing_of_geom[geoms] == i for i, thing in enumerate(layout.things)}
        named[GRIPPER] = is_finger[geoms]
        known.add(image, named)
        middle = simulator.data.geom_xpos[is_finger[:-1]].mean(axis=0) - simulator.tip
        point = calibration.camera_from_base @ np.append(environment.state()[:3] + middle, 1.0)
        pixel = calibration.intrinsics @ point[:3]
        images.append(image)
        masks.append(named)
        seen.append(pixel[:2] / pixel[2])
        texts.append(action.subtask)
        if environment.step(action.action).over:
            break
    starts = [i for i, text in enumerate(texts) if i == 0 or text != texts[i - 1]]
    parts = tuple(
        Subtask(text=texts[start], start=start, end=end)
        for start, end in zip(starts, [*starts[1:], len(texts)], strict=True)
        if end - start >= 2
    )
    episode = Episode(
        id=f"{task}-{seed}",
        source="tabletop",
        instruction=environment._instruction,
        fps=10.0,
        cameras={CAMERA: CameraStream(frames=Pictures(images))},
        subtasks=parts,
    )
    return Scripted(episode=episode, masks=masks, fingers=np.array(seen), known=known)
