"""Frames come evenly spread with their times; damaged files are named."""

import av
import numpy as np
import pytest

from egem.core.errors import RecordError
from egem.video import read_frames


def write_video(path, num=20, rate=5):
    """A grey video whose frame k has brightness 10 k."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = 64, 48
        for k in range(num):
            picture = np.full((48, 64, 3), 10 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_frames_are_spread_from_first_to_last(tmp_path):
    write_video(tmp_path / "v.mp4")
    frames, seconds = read_frames(tmp_path / "v.mp4", num=4)
    assert seconds == pytest.approx([0.0, 1.2, 2.6, 3.8])
    assert [frame.mean() for frame in frames] == pytest.approx([0, 60, 130, 190], abs=4)


def test_a_short_video_gives_what_it_has(tmp_path):
    write_video(tmp_path / "v.mp4", num=3)
    assert len(read_frames(tmp_path / "v.mp4", num=8)[0]) == 3


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"not a video")
    with pytest.raises(RecordError, match=r"video .*v\.mp4 cannot be read: .*damaged or not a video"):
        read_frames(tmp_path / "v.mp4", num=2)
    with pytest.raises(RecordError, match=r"none\.mp4 does not exist; check the path"):
        read_frames(tmp_path / "none.mp4", num=2)
    with pytest.raises(RecordError, match="0 frames asked for"):
        read_frames(tmp_path / "v.mp4", num=0)
