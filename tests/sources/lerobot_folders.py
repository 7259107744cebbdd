"""LeRobotDataset v2.1 written from its definition, one file an episode; sub-tasks as in AgiBot World's."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from egem.episodes import Episode


def save_mp4(path: Path, images: np.ndarray, fps: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "g": "5"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_v21(root: Path, episodes: list[Episode]) -> Path:
    tasks = list(dict.fromkeys(e.instruction for e in episodes))
    cameras = {f"observation.images.{name}": name for name in episodes[0].cameras}
    fps = int(episodes[0].fps or 10)
    (root / "meta").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    begin = 0
    for number, episode in enumerate(episodes):
        steps = episode.num_steps
        assert episode.states is not None
        assert episode.actions is not None
        table = pa.table(
            {
                "observation.state": pa.array(episode.states.tolist(), pa.list_(pa.float32())),
                "action": pa.array(episode.actions.tolist(), pa.list_(pa.float32())),
                "timestamp": pa.array((np.arange(steps) / fps).astype(np.float32)),
                "frame_index": pa.array(range(steps)),
                "episode_index": pa.array([number] * steps),
                "index": pa.array(range(begin, begin + steps)),
                "task_index": pa.array([tasks.index(episode.instruction)] * steps),
            }
        )
        begin += steps
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        for key, name in cameras.items():
            images = np.stack(episode.cameras[name].frames.read(range(steps)))
            save_mp4(root / f"videos/chunk-000/{key}/episode_{number:06d}.mp4", images, fps)
        parts = [
            {"start_frame": s.start, "end_frame": s.end, "action_text": s.text, "skill": "Pick"}
            for s in episode.subtasks
        ]
        rows.append(
            {
                "episode_index": number,
                "tasks": [episode.instruction],
                "length": steps,
                "action_config": parts,
            }
        )
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.dumps({"task_index": i, "task": task}) + "\n" for i, task in enumerate(tasks)]
    (root / "meta" / "tasks.jsonl").write_text("".join(lines))
    vector = {
        "observation.state": {"dtype": "float32", "shape": [8], "names": None},
        "action": {"dtype": "float32", "shape": [7], "names": {"motors": list("abcdefg")}},
    }
    video = {key: {"dtype": "video", "shape": [48, 64, 3], "names": None} for key in cameras}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "panda",
        "total_episodes": len(episodes),
        "total_frames": begin,
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": vector | video,
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root
