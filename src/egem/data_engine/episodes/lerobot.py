"""LeRobotDataset v3.0, v2.1 and v2.0 (huggingface/lerobot), without the package.

    v3  meta/info.json, meta/tasks.parquet, meta/episodes/chunk-*/file-*.parquet (where each episode lies in data and
        videos), data/chunk-*/file-*.parquet (many episodes a file), videos/<key>/chunk-*/file-*.mp4 (likewise)
    v2  meta/info.json, meta/tasks.jsonl, meta/episodes.jsonl, data/chunk-*/episode_*.parquet,
        videos/chunk-*/<key>/episode_*.mp4

Sub-tasks are read from wherever tools put them: lists `subtask_names`, `subtask_start_frames`, `subtask_end_frames` of
an episode (also with `dense_` or `sparse_` before; last frames inclusive), AgiBot World's `action_config`, a column
`subtask_index` with meta/subtasks.parquet, or a task that changes within the episode.
"""

import functools
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from egem.core.errors import ConfigError, RecordError
from egem.data_engine.episodes.columns import (
    Cells,
    EpisodeRows,
    joined,
    matrix,
    numbers,
    read_schema,
    read_table,
)
from egem.data_engine.episodes.frames import EncodedFrames, OpenVideos, VideoFrames
from egem.data_engine.episodes.lerobot_depth import (
    CodedDepth,
    DepthCodes,
    DepthImages,
    depth_features,
    is_depth,
    unit_m,
)
from egem.data_engine.formats.json_rows import read_json_object, read_json_rows
from egem.data_engine.sources.layout import contents
from egem.episodes import ActionSpace, CameraStream, DepthFrames, Episode, Frames, Subtask, check

_log = logging.getLogger(__name__)

VERSIONS = ("v3.0", "v2.1", "v2.0")
TRACK_PREFIX = "observation.track."
"""Before a camera's name: a column of this project with the end effector's place in the image."""
POSE_PREFIX = "egem.camera_from_base."
"""Likewise: the camera's pose at each step, 4 x 4 by rows. lerobot makes inputs of a policy of all `observation.*`."""
EFFECTOR = "egem.effector"
"""A column with the positions of the end effectors in the base frame."""
INTRINSICS_PREFIX = "egem/intrinsics/"
"""Before a camera's name: a column of meta/episodes, 3 x 3 by rows, pixels."""

_IMAGE_PREFIXES = ("observation.images.", "observation.image.", "observation.")
_LICENCE = re.compile(r"^license:\s*(\S+)\s*$", re.MULTILINE)


class LeRobotDataset:
    """Episodes of one dataset folder, by number; the tables are opened once, frames when they are read.

    Args:
        root: the folder that holds meta/, data/ and videos/.
        state_key: feature with the robot's state; where it is missing, features that begin with it are joined.
        action_key: likewise for actions.
        action_space: what the actions mean; the one that `write_lerobot` noted, if None.

    Raises:
        ConfigError: no such dataset, or one of another version.
        RecordError: its tables are damaged.
    """

    def __init__(
        self,
        root: Path,
        *,
        state_key: str = "observation.state",
        action_key: str = "action",
        action_space: ActionSpace | None = None,
    ) -> None:
        self.root = Path(root)
        if not (self.root / "meta" / "info.json").is_file():
            raise ConfigError(
                f"{root} is no LeRobot dataset: looked for meta/info.json; {contents(self.root)}"
            )
        self.info = read_json_object(self.root / "meta" / "info.json")
        self.version = str(self.info.get("codebase_version", ""))
        if self.version not in VERSIONS:
            raise ConfigError(
                f"{root} is a LeRobot dataset of version {self.version or 'unknown'}; "
                f"{', '.join(VERSIONS)} can be read: convert it with lerobot's own script."
            )
        missing = [key for key in ("fps", "features", "data_path") if not self.info.get(key)]
        if missing:
            raise RecordError(f"{self.root / 'meta' / 'info.json'} lacks {', '.join(missing)}.")
        self.fps = float(self.info["fps"])
        self.features: dict[str, Any] = self.info["features"]
        self.state_keys = self._joined(state_key)
        self.action_keys = self._joined(action_key)
        self.action_space = action_space or _noted_space(self.info)
        self._depth_keys, left_out = depth_features(self.features, map(_short, self.camera_keys))
        for reason in left_out:
            _log.warning("%s: %s", root, reason)
        self.licence = self._licence()
        self._tasks = self._names("tasks", "task")
        self._subtasks = self._names("subtasks", "subtask")
        self._rows = sorted(self._episode_rows(), key=lambda row: row["episode_index"])
        self._data_files, self._videos = EpisodeRows(), OpenVideos()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Episode]:
        return (self.episode(number) for number in range(len(self)))

    @property
    def camera_keys(self) -> tuple[str, ...]:
        """Features that are colour images or videos."""
        return tuple(
            k for k, f in self.features.items() if f["dtype"] in ("video", "image") and not is_depth(f)
        )

    @property
    def name(self) -> str:
        """For messages: the folder."""
        return str(self.root)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Steps of each episode, as announced."""
        return tuple(int(row["length"]) for row in self._rows)

    @property
    def fingerprint(self) -> str:
        """Hash of info.json, of the episodes' table, and of the sizes of data and video files."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256((self.root / "meta" / "info.json").read_bytes())
        digest.update(json.dumps(self._rows, sort_keys=True, default=str).encode())
        for folder in ("data", "videos"):
            for file in sorted((self.root / folder).rglob("*")):
                if file.is_file():
                    digest.update(f"{file.relative_to(self.root)}/{file.stat().st_size}".encode())
        return digest.hexdigest()

    def statistics(self) -> dict[str, dict[str, np.ndarray]]:
        """meta/stats.json (`min`, `max`, `mean`, `std`, `count`, often quantiles) by feature; empty if missing."""
        path = self.root / "meta" / "stats.json"
        if not path.is_file():
            return {}
        return {
            key: {name: np.asarray(value) for name, value in values.items()}
            for key, values in read_json_object(path).items()
        }

    def where(self, number: int) -> str:
        """For messages."""
        return f"{self.root}, episode {self._rows[number]['episode_index']}"

    def episode(self, number: int) -> Episode:
        """The `number`-th episode.

        Raises:
            RecordError: its file is missing or damaged, or its parts do not fit each other.
        """
        row, where = self._rows[number], self.where(number)
        index, length = int(row["episode_index"]), int(row["length"])
        table = self._data(row, where)
        if table.num_rows != length:
            raise RecordError(
                f"{where}: {table.num_rows} rows of data, {length} announced; the dataset is incomplete."
            )
        runs = numbers(table, "task_index") if "task_index" in table.column_names else None
        tasks = _texts(row.get("tasks"))
        if not tasks and runs is not None:
            tasks = [self._tasks[i] for i in dict.fromkeys(runs.tolist()) if i in self._tasks]
        subtasks = self._annotated(row, table, length)
        if not subtasks and runs is not None and len(set(runs.tolist())) > 1:
            subtasks = _runs(runs, self._tasks)
        cameras = {key: self._camera(key, row, table, length, where) for key in self.camera_keys}
        hands = matrix(table, EFFECTOR) if EFFECTOR in table.column_names else None
        stamps = numbers(table, "timestamp") if "timestamp" in table.column_names else None
        return check(
            Episode(
                id=f"{self.root.name}/{index:06d}",
                source="lerobot",
                instruction=tasks[0] if len(tasks) == 1 else "",
                fps=self.fps,
                timestamps=np.arange(length) / self.fps if stamps is None else stamps.astype(np.float64),
                states=joined(table, self.state_keys),
                actions=joined(table, self.action_keys),
                action_space=self.action_space,
                state_names=self._dim_names(self.state_keys),
                action_names=self._dim_names(self.action_keys),
                effector=None if hands is None else _shaped(hands, (length, -1, 3), where, EFFECTOR),
                arms=tuple((self.info.get("egem") or {}).get("arms") or ()),
                cameras={_short(key): stream for key, stream in cameras.items()},
                subtasks=tuple(subtasks),
                success=self._success(row, table),
                meta={
                    "licence": self.licence,
                    "file": self._path("data_path", row, "data").relative_to(self.root).as_posix(),
                    "episode": index,
                    "robot": self.info.get("robot_type"),
                },
            )
        )

    def _episode_rows(self) -> list[dict[str, Any]]:
        meta = self.root / "meta"
        if self.version != "v3.0":
            rows = list(read_json_rows(meta / "episodes.jsonl"))
            bad = next((row for row in rows if not isinstance(row, dict)), None)
            if bad is not None:
                raise bad if isinstance(bad, RecordError) else RecordError(f"{meta}/episodes.jsonl: {bad!r}.")
        else:
            files = sorted((meta / "episodes").glob("**/*.parquet"))
            if not files:
                raise RecordError(f"{meta / 'episodes'} holds no *.parquet; the dataset is incomplete.")
            rows = []
            for file in files:
                names = read_schema(file).names
                kept = [n for n in names if not n.startswith("stats/")]
                rows += read_table(file, kept).to_pylist()
        for row in rows:
            if not {"episode_index", "length"} <= row.keys():
                raise RecordError(f"{meta}: an episode without episode_index or length: {str(row)[:80]}.")
        return rows

    def _names(self, plural: str, single: str) -> dict[int, str]:
        """Index to sentence of tasks or sub-tasks; pandas keeps the sentence as its index."""
        table, lines = self.root / "meta" / f"{plural}.parquet", self.root / "meta" / f"{plural}.jsonl"
        if table.is_file():
            rows = read_table(table).to_pylist()
        elif lines.is_file():
            rows = list(read_json_rows(lines))
        else:
            return {}
        found = {}
        for row in rows:
            text = row.get(single, row.get("__index_level_0__")) if isinstance(row, dict) else None
            if not isinstance(text, str) or f"{single}_index" not in row:
                raise RecordError(f"{table.parent}/{plural}: a row with {single}_index expected, got {row}.")
            found[int(row[f"{single}_index"])] = text
        return found

    def _path(self, template: str, row: Mapping[str, Any], kind: str, key: str = "") -> Path:
        index = int(row["episode_index"])
        chunk = index // int(self.info.get("chunks_size") or 1000)
        values = {"episode_chunk": chunk, "episode_index": index, "video_key": key}
        if self.version == "v3.0":
            values |= {n: int(row[f"{kind}/{n}"]) for n in ("chunk_index", "file_index")}
        values["total_episodes"] = int(self.info.get("total_episodes") or 0)
        try:
            return self.root / str(self.info[template]).format(**values)
        except (KeyError, ValueError) as error:
            raise RecordError(
                f"{self.root}/meta/info.json: {template} needs {error}, which is not given."
            ) from None

    def _data(self, row: Mapping[str, Any], where: str) -> pa.Table:
        try:
            path = self._path("data_path", row, "data")
        except KeyError as error:
            raise RecordError(f"{where}: meta/episodes has no column {error}.") from None
        if not path.is_file():
            raise RecordError(f"{where}: {path} does not exist; the dataset is incomplete.")
        return self._data_files.read(path, int(row["episode_index"]))

    def _camera(
        self, key: str, row: Mapping[str, Any], table: pa.Table, length: int, where: str
    ) -> CameraStream:
        name, columns = _short(key), table.column_names
        intrinsics, poses = row.get(INTRINSICS_PREFIX + name), None
        if intrinsics is not None:
            intrinsics = _shaped(np.array(intrinsics, np.float64), (3, 3), where, INTRINSICS_PREFIX + name)
        if POSE_PREFIX + name in columns:
            poses = matrix(table, POSE_PREFIX + name).astype(np.float64)
            poses = _shaped(poses, (length, 4, 4), where, POSE_PREFIX + name)
        return CameraStream(
            frames=self._frames(key, row, table, length, where),
            depth=self._depth(name, row, table, length, where),
            track=matrix(table, TRACK_PREFIX + name) if TRACK_PREFIX + name in columns else None,
            intrinsics=intrinsics,
            camera_from_base=poses,
        )

    def _frames(self, key: str, row: Mapping[str, Any], table: pa.Table, length: int, where: str) -> Frames:
        if self.features[key]["dtype"] == "image":
            return EncodedFrames(num=length, fetch=Cells(table, key, self.root), where=f"{where}, {key}")
        return self._video(key, row, length, where)

    def _video(self, key: str, row: Mapping[str, Any], length: int, where: str) -> VideoFrames:
        try:
            path = self._path("video_path", row, f"videos/{key}", key)
            start = float(row[f"videos/{key}/from_timestamp"]) if self.version == "v3.0" else 0.0
        except KeyError as error:
            raise RecordError(f"{where}: meta/episodes has no column {error} for camera {key}.") from None
        return VideoFrames(path=path, num=length, fps=self.fps, start=start, videos=self._videos)

    def _depth(
        self, camera: str, row: Mapping[str, Any], table: pa.Table, length: int, where: str
    ) -> DepthFrames | None:
        key = self._depth_keys.get(camera)
        if key is None:
            return None
        feature = self.features[key]
        if feature["dtype"] == "video":
            codes = DepthCodes.of(feature, key, where)
            return CodedDepth(video=self._video(key, row, length, where), codes=codes)
        return DepthImages(
            num=length,
            fetch=Cells(table, key, self.root),
            unit_m=unit_m(feature, key, where),
            where=f"{where}, {key}",
        )

    def _annotated(self, row: Mapping[str, Any], table: pa.Table, length: int) -> list[Subtask]:
        for prefix in ("dense_", "", "sparse_"):
            names = _texts(row.get(f"{prefix}subtask_names"))
            if names and names != ["task"]:
                starts, ends = (row.get(f"{prefix}subtask_{edge}_frames") or [] for edge in ("start", "end"))
                if len(starts) != len(names) or len(ends) != len(names):
                    raise RecordError(
                        f"{self.root}, episode {row['episode_index']}: {len(names)} sub-task names, "
                        f"{len(starts)} starts, {len(ends)} ends."
                    )
                return [
                    Subtask(text=name, start=int(start), end=int(end) + 1)
                    for name, start, end in zip(names, starts, ends, strict=True)
                ]
        parts = row.get("action_config")
        if parts:
            return [
                Subtask(
                    text=str(part["action_text"]),
                    start=int(part["start_frame"]),
                    end=min(int(part["end_frame"]), length),
                    skill=part.get("skill"),
                )
                for part in parts
            ]
        if self._subtasks and "subtask_index" in table.column_names:
            return _runs(numbers(table, "subtask_index"), self._subtasks)
        return []

    def _joined(self, key: str) -> tuple[str, ...]:
        if key in self.features:
            return (key,)
        return tuple(k for k, f in self.features.items() if k.startswith(f"{key}.") and _is_vector(f))

    def _dim_names(self, keys: Sequence[str]) -> tuple[str, ...]:
        names = [self.features[key].get("names") for key in keys]
        flat = [next(iter(n.values())) if isinstance(n, dict) and n else n for n in names]
        if not all(isinstance(n, list) for n in flat):
            return ()
        return tuple(str(name) for n in flat for name in n)

    def _success(self, row: Mapping[str, Any], table: pa.Table) -> bool | None:
        if isinstance(row.get("success"), bool):
            return row["success"]
        if "next.success" in table.column_names:
            return any(table["next.success"].to_pylist())
        return None

    def _licence(self) -> str:
        readme = self.root / "README.md"
        found = _LICENCE.search(readme.read_text("utf-8", errors="replace")) if readme.is_file() else None
        return found.group(1) if found else "not stated in the dataset"


def _shaped(values: np.ndarray, shape: tuple[int, ...], where: str, name: str) -> np.ndarray:
    try:
        return values.reshape(shape)
    except ValueError:
        raise RecordError(f"{where}: {name} has {values.size} numbers, which make no {shape}.") from None


def _is_vector(feature: Mapping[str, Any]) -> bool:
    return str(feature["dtype"]).startswith(("float", "int")) and len(feature.get("shape") or ()) == 1


def _short(key: str) -> str:
    """`observation.images.wrist` is the camera `wrist`."""
    for prefix in _IMAGE_PREFIXES:
        if key.startswith(prefix):
            return key[len(prefix) :]
    return key


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(v) for v in value or []]


def _runs(indices: np.ndarray, names: Mapping[int, str]) -> list[Subtask]:
    """Stretches of one index; indices without a name (-1) are no sub-task."""
    edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    return [
        Subtask(text=names[int(indices[a])], start=a, end=b)
        for a, b in itertools.pairwise(edges)
        if int(indices[a]) in names
    ]


def _noted_space(info: Mapping[str, Any]) -> ActionSpace | None:
    noted = (info.get("egem") or {}).get("action_space")
    if not noted:
        return None
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in noted.items()}
    try:
        return ActionSpace(**values)
    except TypeError as error:
        raise RecordError(f"meta/info.json: egem.action_space cannot be read: {error}.") from None
