"""The environment as a world to ask about: what its cameras see, with everything that is known of it.

A policy that is to find what an instruction names had better been asked for it before, in pictures like those it will
act in (`egem data render --world tasks`).
"""

from typing import Final

import numpy as np
from jaxtyping import Int

from egem.environments.tabletop.layout import BASE, BIN_HALF, BIN_HEIGHT, PLATE_RADIUS, PLATE_TOP, Layout
from egem.environments.tabletop.scenery import Scenery
from egem.environments.tabletop.simulator import Simulator
from egem.records import Intrinsics
from egem.scene import Camera, Scene, SceneObject, Task

DEPTH_UNIT_M: Final = 0.0001


def look(
    simulator: Simulator, layout: Layout, scenery: Scenery, camera: str, *, id: str, task: Task
) -> Scene:
    """What a camera sees at this moment.

    Args:
        simulator: has the layout and the scenery written.
        layout: what is on the table.
        scenery: what surrounds it.
        camera: of the simulator.
        id: of the scene.
        task: what the robot is asked to do.
    """
    image, depth, bodies = simulator.draw_bodies(camera)
    model = simulator.model
    names = [f"thing{i}" for i in range(len(layout.things))] + [
        f"holder{i}" for i in range(len(layout.holders))
    ]
    mask: Int[np.ndarray, "height width"] = np.zeros(bodies.shape, np.int32)
    for index, name in enumerate(names, 1):
        mask[bodies == model.body(name).id] = index
    return Scene(
        id=id,
        source="tasks",
        image=image,
        depth=depth,
        depth_origin="simulator",
        depth_unit_m=DEPTH_UNIT_M,
        mask=mask,
        camera=_camera(simulator, camera),
        objects=_objects(simulator, layout),
        robot_mask=model.body_rootid[bodies] == model.body("arm").id,
        task=task,
        support=scenery.room.support,
        meta={"scene": id.rsplit("/", 1)[0], "world": "tasks", "camera": camera},
    )


def _camera(simulator: Simulator, name: str) -> Camera:
    found = simulator.calibration(name)
    pose = np.linalg.inv(found.camera_from_base)
    pose[:3, 3] += BASE
    (fx, _, cx), (_, fy, cy), _ = found.intrinsics.tolist()
    return Camera(name=name, intrinsics=Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy), world_from_camera=pose)


def _objects(simulator: Simulator, layout: Layout) -> tuple[SceneObject, ...]:
    state, objects = simulator.state(), []
    for index, holder in enumerate(layout.holders):
        is_bin = holder.kind == "bin"
        half, height = (BIN_HALF, BIN_HEIGHT) if is_bin else (PLATE_RADIUS, PLATE_TOP)
        center = state.holders[index] + (0.0, 0.0, height / 2)
        objects.append(
            SceneObject(
                index=len(layout.things) + index + 1,
                name=holder.name,
                shape=holder.kind,
                color=holder.color,
                size="medium",
                material="matte",
                pose=_pose(state.holders[index], state.holder_turns[index]),
                extent=np.array([2 * half, 2 * half, height]),
                center=center,
                is_container=is_bin,
                is_graspable=False,
            )
        )
    things = []
    for index, thing in enumerate(layout.things):
        center = state.things[index]
        a, b, c = thing.half
        host = next((o for o in objects if (np.abs(center - o.center)[:2] < o.extent[:2] / 2).all()), None)
        things.append(
            SceneObject(
                index=index + 1,
                name=thing.name,
                shape=thing.kind,
                color=thing.color,
                size="medium",
                material="matte",
                pose=_pose(center - (0.0, 0.0, c), state.turns[index]),
                extent=np.array([2 * a, 2 * b, 2 * c]),
                center=center,
                inside=host.index if host is not None and host.is_container else None,
                on=host.index if host is not None and not host.is_container else None,
            )
        )
    return (*things, *objects)


def _pose(position: np.ndarray, turn: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, position
    return pose
