"""Small episodes made of drawn frames: a red square (the gripper) crosses a grey picture, known at every step."""

from typing import Any

import numpy as np

from egem.data_engine.episodes.frames import ArrayDepth, ArrayFrames
from egem.episodes import ActionSpace, CameraStream, Episode, Subtask

HEIGHT, WIDTH, STEPS, FPS = 48, 64, 24, 10.0
HALF = 3
SPACE = ActionSpace(
    control="end_effector_delta",
    dim=7,
    rotation="axis_angle",
    gripper_dims=(6,),
    gripper_open=-1.0,
    gripper_closed=1.0,
)
PARTS = ("reach for the cup", "grasp the cup", "put the cup on the plate")


def place(step: int, seed: int) -> tuple[int, int]:
    """Column and row of the square's centre."""
    return 8 + 2 * step, 10 + seed % 5 + step


def frames(seed: int, steps: int = STEPS) -> np.ndarray:
    images = np.full((steps, HEIGHT, WIDTH, 3), 90 + 10 * (seed % 4), np.uint8)
    for step in range(steps):
        column, row = place(step, seed)
        images[step, row - HALF : row + HALF, column - HALF : column + HALF] = (230, 30, 30)
        # Frames are told apart by this corner, which compression does not blur away.
        images[step, -8:, :8] = 8 * step
    return images


def episode(seed: int, *, steps: int = STEPS, with_parts: bool = True, **changes: Any) -> Episode:
    rng = np.random.default_rng(seed)
    track = np.array([place(step, seed) for step in range(steps)]) / (WIDTH, HEIGHT)
    depth = np.full((steps, HEIGHT, WIDTH), 1.5, np.float32)
    depth[:, :4] = 0
    edges = [0, steps // 3, 2 * steps // 3, steps]
    parts = [Subtask(text=t, start=edges[i], end=edges[i + 1]) for i, t in enumerate(PARTS)]
    given: dict[str, Any] = {
        "id": f"made/{seed}",
        "source": "made",
        "instruction": ("put the cup on the plate", "stack the blue cube on the red one")[seed % 2],
        "fps": FPS,
        "timestamps": np.arange(steps) / FPS,
        "states": rng.normal(size=(steps, 8)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        "action_space": SPACE,
        "cameras": {
            "front": CameraStream(
                frames=ArrayFrames(pixels=frames(seed, steps)),
                depth=ArrayDepth(metres=depth),
                track=track,
            ),
            "wrist": CameraStream(frames=ArrayFrames(pixels=frames(seed + 1, steps)[:, ::-1].copy())),
        },
        "subtasks": tuple(parts) if with_parts else (),
        "success": seed % 2 == 0,
        "meta": {"licence": "apache-2.0", "robot": "panda"},
    }
    return Episode(**(given | changes))
