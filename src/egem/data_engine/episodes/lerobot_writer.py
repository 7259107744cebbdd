"""Episodes to a LeRobotDataset v3.0 that the `lerobot` package loads, without the package.

Beside what the format knows, written are: sub-tasks (a column `subtask_index` with meta/subtasks.parquet, and lists
`subtask_names`, `subtask_start_frames`, `subtask_end_frames` of each episode), `success` of each episode, the end
effector's place in an image (`observation.track.<camera>`, NaN where unseen), depth as 16-bit PNG in millimetres
(`observation.depth.<camera>`), the action space (info.json, `egem.action_space`), and calibration: intrinsics of each
camera and episode (`egem/intrinsics/<camera>` in meta/episodes, nine numbers by rows), pose of each camera and step
(`egem.camera_from_base.<camera>`, sixteen by rows), the end effectors' positions (`egem.effector`; info.json's
`egem.arms` names them).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from egem.core.errors import RecordError
from egem.core.files import new_folder
from egem.data_engine.episodes import statistics
from egem.data_engine.episodes.lerobot import EFFECTOR, INTRINSICS_PREFIX, POSE_PREFIX, TRACK_PREFIX
from egem.data_engine.episodes.video_series import MAX_FILES, VideoSeries, following, sampled
from egem.episodes import Episode, check
from egem.media import encode_depth

STATE, ACTION = "observation.state", "action"
IMAGES, DEPTH = "observation.images.", "observation.depth."
DEPTH_UNIT_M, DEPTH_UNIT = 0.001, "mm"
"""The second is how lerobot says it, from 0.6 on."""

_STATISTICS_FRAMES = 10
"""Frames of each camera and episode that image statistics are made of."""
_DEFAULTS = {
    "timestamp": "float32",
    **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
}


@dataclass(frozen=True, kw_only=True)
class LeRobotOptions:
    """How a dataset is written."""

    codec: str = "libx264"
    """FFmpeg's name of the video encoder; lerobot's own default is libsvtav1."""
    crf: int = 20
    """Quality of the video: lower is better and larger."""
    keyframe_every: int = 2
    """Frames between two that decode alone; 2 makes random access fast, as in lerobot."""
    data_file_mb: int = 100
    """A data file is closed once it is this large."""
    video_file_mb: int = 200
    """Likewise a video; an episode is never split."""
    robot: str | None = None
    """Kind of robot, for info.json."""
    licence: str | None = None
    """SPDX name for the README; the first episode's, if None."""


def write_lerobot(
    episodes: Iterable[Episode],
    out: Path,
    options: LeRobotOptions | None = None,
    *,
    on_unfit: Callable[[RecordError], None] | None = None,
) -> int:
    """Write a dataset folder, which appears whole or not at all.

    Args:
        episodes: with states or actions, cameras and rate alike in all; read one after the other.
        out: folder to write; must not exist or be empty.
        options: see `LeRobotOptions`.
        on_unfit: told why an episode is left out that is not whole or unlike the first; without it, that is an error.

    Returns:
        How many episodes were written.

    Raises:
        ConfigError: `out` exists.
        RecordError: no episode, one without a rate or instruction, or one unlike the first.
    """
    options = options or LeRobotOptions()
    with new_folder(Path(out)) as folder:
        writer = _Writer(folder, options)
        try:
            for episode in episodes:
                try:
                    writer.must_fit(check(episode))
                except RecordError as error:
                    if on_unfit is None:
                        raise
                    on_unfit(error)
                else:
                    writer.add(episode)
        finally:
            writer.close()
        writer.finish()
        return len(writer.rows)


class _Writer:
    def __init__(self, root: Path, options: LeRobotOptions) -> None:
        self.root, self.options = root, options
        self.rows: list[dict[str, Any]] = []
        self.tasks: dict[str, int] = {}
        self.subtasks: dict[str, int] = {}
        self.first: Episode | None = None
        self.features: dict[str, dict[str, Any]] = {}
        self.videos: dict[str, VideoSeries] = {}
        self.data: pq.ParquetWriter | None = None
        self.data_file = (0, 0)
        self.kept: dict[str, list[np.ndarray]] = {}
        self.image_parts: dict[str, list[statistics.Statistics]] = {}
        self.total = 0

    def add(self, episode: Episode) -> None:
        if self.first is None:
            self._start(episode)
        steps, number = episode.num_steps, len(self.rows)
        task = self.tasks.setdefault(episode.instruction, len(self.tasks))
        columns, numeric = self._columns(episode, number, task)
        self._write_data(columns)
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [episode.instruction],
            "length": steps,
            "data/chunk_index": self.data_file[0],
            "data/file_index": self.data_file[1],
            "dataset_from_index": self.total,
            "dataset_to_index": self.total + steps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "subtask_names": [s.text for s in episode.subtasks],
            "subtask_start_frames": [s.start for s in episode.subtasks],
            "subtask_end_frames": [s.end - 1 for s in episode.subtasks],
            "success": episode.success,
        }
        found = {key: statistics.of_numbers(values) for key, values in numeric.items()}
        for name, stream in episode.cameras.items():
            key, where = IMAGES + name, f"episode {episode.id}, camera '{name}'"
            (chunk, file), start, end = self.videos[name].append(stream.frames, steps, where)
            row |= {
                f"videos/{key}/chunk_index": chunk,
                f"videos/{key}/file_index": file,
                f"videos/{key}/from_timestamp": start,
                f"videos/{key}/to_timestamp": end,
            }
            if stream.intrinsics is not None:
                row[INTRINSICS_PREFIX + name] = [float(value) for value in stream.intrinsics.ravel()]
            found[key] = statistics.of_images(sampled(stream.frames, steps, _STATISTICS_FRAMES))
            self.image_parts.setdefault(key, []).append(found[key])
        for key, values in numeric.items():
            self.kept.setdefault(key, []).append(values)
        for key, part in statistics.as_json(found).items():
            row |= {f"stats/{key}/{name}": value for name, value in part.items()}
        self.rows.append(row)
        self.total += steps
        self._roll()

    def close(self) -> None:
        """Close what is open; also after an error."""
        if self.data is not None:
            self.data.close()
            self.data = None
        for video in self.videos.values():
            video.close()

    def finish(self) -> None:
        if self.first is None:
            raise RecordError("no episode to write; the dataset would be empty.")
        meta = self.root / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        # A column of nothing but null or empty lists has no type; readers do without it.
        empty = [k for k in self.rows[0] if all(row[k] is None or row[k] == [] for row in self.rows)]
        table = pa.Table.from_pylist(self.rows).drop_columns(empty)
        pq.write_table(table, meta / "episodes" / "chunk-000" / "file-000.parquet")
        _write_names(meta / "tasks.parquet", "task", self.tasks)
        if self.subtasks:
            _write_names(meta / "subtasks.parquet", "subtask", self.subtasks)
        whole = {key: statistics.of_numbers(np.concatenate(parts)) for key, parts in self.kept.items()}
        whole |= {key: statistics.merged(parts) for key, parts in self.image_parts.items()}
        (meta / "stats.json").write_text(json.dumps(statistics.as_json(whole), indent=1))
        (meta / "info.json").write_text(json.dumps(self._info(), indent=1))
        licence = self.options.licence or str(self.first.meta.get("licence") or "unknown")
        (self.root / "README.md").write_text(
            f"---\nlicense: {licence}\ntask_categories:\n- robotics\ntags:\n- LeRobot\nconfigs:\n"
            "- config_name: default\n  data_files: data/*/*.parquet\n---\n"
        )

    def must_fit(self, episode: Episode) -> None:
        """Refuse what cannot stand beside the first episode, before anything of it is written."""
        where = f"episode {episode.id}"
        if not episode.instruction.strip():
            raise RecordError(f"{where} has no instruction; LeRobot needs a task for every episode.")
        if episode.fps is None:
            raise RecordError(f"{where} has no rate (steps a second); LeRobot needs one: give fps.")
        first = self.first
        if first is None:
            return
        for name in ("fps", "action_space", "state_names", "action_names", "arms"):
            if getattr(first, name) != getattr(episode, name):
                raise RecordError(
                    f"{where}: {name} is {getattr(episode, name)}, {getattr(first, name)} in the first episode; "
                    "write them to separate datasets."
                )
        for name in ("states", "actions", "effector"):
            here, there = (_width(getattr(e, name)) for e in (episode, first))
            if here != there:
                raise RecordError(f"{where}: {here} dimensions of {name}, {there} in the first episode.")
        if episode.subtasks and not first.subtasks:
            raise RecordError(f"{where} has sub-tasks where the first episode has none.")
        if list(first.cameras) != list(episode.cameras):
            raise RecordError(
                f"{where}: cameras {', '.join(episode.cameras) or 'none'}; the first episode has "
                f"{', '.join(first.cameras) or 'none'}. A dataset's episodes need the same ones: choose "
                "them (egem data convert --cameras)."
            )
        for name, stream in episode.cameras.items():
            other = first.cameras[name]
            for part in ("depth", "track", "intrinsics", "camera_from_base"):
                here, there = (getattr(each, part) is not None for each in (stream, other))
                if here != there:
                    raise RecordError(
                        f"{where}: camera '{name}' {'has' if here else 'lacks'} {part}, unlike the first episode's; "
                        "write them to separate datasets."
                    )

    def _start(self, episode: Episode) -> None:
        """Fix the features by the first episode."""
        self.first = episode
        for key, values, names in (
            (STATE, episode.states, episode.state_names),
            (ACTION, episode.actions, episode.action_names),
        ):
            if values is not None:
                self.features[key] = _feature("float32", [values.shape[1]], list(names) or None)
        for name, stream in episode.cameras.items():
            height, width, _ = stream.frames.read([0])[0].shape
            self.features[IMAGES + name] = {
                **_feature("video", [height, width, 3], ["height", "width", "channels"]),
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": {"libx264": "h264", "libsvtav1": "av1"}.get(
                        self.options.codec, self.options.codec
                    ),
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": episode.fps,
                    "video.channels": 3,
                    "has_audio": False,
                },
            }
            if height % 2 or width % 2:
                raise RecordError(
                    f"episode {episode.id}: camera '{name}' is {width} x {height} pixels; video needs even sizes: "
                    "crop or pad by one."
                )
            self.videos[name] = VideoSeries(
                self.root / "videos" / (IMAGES + name),
                (height, width),
                fps=episode.fps or 1.0,
                codec=self.options.codec,
                options={"crf": str(self.options.crf), "g": str(self.options.keyframe_every)},
                file_mb=self.options.video_file_mb,
            )
            if stream.depth is not None:
                self.features[DEPTH + name] = {
                    **_feature("image", [height, width, 1], ["height", "width", "channels"]),
                    "info": {"is_depth_map": True, "depth_unit": DEPTH_UNIT, "depth_unit_m": DEPTH_UNIT_M},
                }
            if stream.track is not None:
                self.features[TRACK_PREFIX + name] = _feature("float32", [2], ["x", "y"])
            if stream.camera_from_base is not None:
                self.features[POSE_PREFIX + name] = _feature("float32", [16], None)
        if episode.effector is not None:
            arms = [f"{arm}_" for arm in episode.arms] or [""] * episode.effector.shape[1]
            names = [f"{arm}{axis}" for arm in arms for axis in "xyz"]
            self.features[EFFECTOR] = _feature("float32", [len(names)], names)
        self.features |= {key: _feature(kind, [1], None) for key, kind in _DEFAULTS.items()}
        if episode.subtasks:
            self.features["subtask_index"] = _feature("int64", [1], None)

    def _columns(
        self, episode: Episode, number: int, task: int
    ) -> tuple[dict[str, pa.Array], dict[str, np.ndarray]]:
        """The episode's rows, and those of them that statistics are made of."""
        steps = episode.num_steps
        stamps = np.arange(steps) / (episode.fps or 1.0)
        numeric: dict[str, np.ndarray] = {}
        for key, values in ((STATE, episode.states), (ACTION, episode.actions)):
            if values is not None:
                numeric[key] = values.astype(np.float32)
        plain = {
            "timestamp": stamps.astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, number),
            "index": np.arange(self.total, self.total + steps),
            "task_index": np.full(steps, task),
        }
        columns = {key: _lists(values) for key, values in numeric.items()}
        columns |= {key: pa.array(values) for key, values in plain.items()}
        if "subtask_index" in self.features:
            columns["subtask_index"] = pa.array(self._subtask_indices(episode))
        for name, stream in episode.cameras.items():
            if stream.track is not None:
                columns[TRACK_PREFIX + name] = _lists(stream.track[:steps].astype(np.float32))
            if stream.camera_from_base is not None:
                poses = stream.camera_from_base[:steps].reshape(steps, 16)
                columns[POSE_PREFIX + name] = _lists(poses.astype(np.float32))
            if stream.depth is not None:
                maps = stream.depth.read(range(steps))
                cells = [{"bytes": encode_depth(m, DEPTH_UNIT_M), "path": None} for m in maps]
                columns[DEPTH + name] = pa.array(
                    cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
                )
        if episode.effector is not None:
            columns[EFFECTOR] = _lists(episode.effector.reshape(steps, -1).astype(np.float32))
        return columns, numeric | {key: values[:, None] for key, values in plain.items()}

    def _subtask_indices(self, episode: Episode) -> np.ndarray:
        """-1 where there is none."""
        found = np.full(episode.num_steps, -1, np.int64)
        for subtask in episode.subtasks:
            found[subtask.start : subtask.end] = self.subtasks.setdefault(subtask.text, len(self.subtasks))
        return found

    def _write_data(self, columns: Mapping[str, pa.Array]) -> None:
        table = pa.table(dict(columns))
        if self.data is None:
            path = self.root / _data_path(*self.data_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.data = pq.ParquetWriter(path, table.schema, compression="snappy")
        self.data.write_table(table)

    def _roll(self) -> None:
        """Close a data file that has become large; the next episode begins a new one."""
        path = self.root / _data_path(*self.data_file)
        if self.data is not None and path.stat().st_size >= self.options.data_file_mb << 20:
            self.data.close()
            self.data, self.data_file = None, following(*self.data_file)

    def _info(self) -> dict[str, Any]:
        assert self.first is not None
        space = self.first.action_space
        count = len(self.rows)
        ours = {"action_space": asdict(space)} if space is not None else {}
        ours |= {"arms": list(self.first.arms)} if self.first.arms else {}
        return {
            "codebase_version": "v3.0",
            "robot_type": self.options.robot or self.first.meta.get("robot"),
            "total_episodes": count,
            "total_frames": self.total,
            "total_tasks": len(self.tasks),
            "chunks_size": MAX_FILES,
            "data_files_size_in_mb": self.options.data_file_mb,
            "video_files_size_in_mb": self.options.video_file_mb,
            "fps": _whole(self.first.fps or 1.0),
            "splits": {"train": f"0:{count}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": self.features,
            **({"egem": ours} if ours else {}),
        }


def _feature(dtype: str, shape: Sequence[int], names: list[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "names": names}


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _data_path(chunk: int, file: int) -> str:
    return f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"


def _whole(fps: float) -> int | float:
    """Whole rates are integers in info.json."""
    return int(fps) if fps == int(fps) else fps


def _width(values: np.ndarray | None) -> int:
    """Numbers a step; 0 without any."""
    return 0 if values is None else values[0].size


def _write_names(path: Path, kind: str, names: Mapping[str, int]) -> None:
    """A table that pandas opens with the sentences as its index, as lerobot looks them up."""
    index = {
        "name": kind,
        "field_name": kind,
        "pandas_type": "unicode",
        "numpy_type": "object",
        "metadata": None,
    }
    number = {
        "name": f"{kind}_index",
        "field_name": f"{kind}_index",
        "pandas_type": "int64",
        "numpy_type": "int64",
        "metadata": None,
    }
    pandas = {
        "index_columns": [kind],
        "column_indexes": [],
        "columns": [number, index],
        "pandas_version": "2.2.0",
    }
    table = pa.table(
        {f"{kind}_index": pa.array(list(names.values()), pa.int64()), kind: pa.array(list(names))}
    )
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)
