import numpy as np
import pytest
import torch
from scipy import ndimage

from egem.annotators.cotracker import CoTracker3
from egem.annotators.masks import centre, spread_points, to_runs
from egem.annotators.tracks import OpticalFlow, PointTracks, path_of
from egem.core.errors import CheckpointError, ConfigError
from egem.data_engine.formats.coco_rle import decode_segmentation


@pytest.fixture(scope="module")
def frames():
    """Texture that moves by (2.5, -1.25) pixels a frame; the last frame is another picture."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.random((200, 200)), 2)
    texture = (255 * (texture - texture.min()) / np.ptp(texture)).astype(np.float64)
    shown = []
    for i in range(5):
        moved = ndimage.shift(texture, (-1.25 * i, 2.5 * i), order=3)[40:140, 40:160]
        shown.append(np.repeat(moved.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return [*shown, rng.integers(0, 255, shown[0].shape, np.uint8)]


def test_optical_flow_follows_a_known_motion(frames):
    points = np.array([[30.5, 60.5], [70.25, 50.0], [118.5, 10.5]], np.float32)
    tracks = OpticalFlow().track(frames, points)
    for i in range(5):
        assert np.abs(tracks.points[i, :2] - points[:2] - [2.5 * i, -1.25 * i]).max() < 0.1
    assert tracks.visible[:5, :2].all()
    assert not tracks.visible[1:, 2].any()  # it leaves the picture
    assert not tracks.visible[5, :2].any()  # nothing is found again in another picture
    assert (tracks.points[5] == tracks.points[4]).all()


def test_way_is_that_of_most_points():
    points = np.zeros((3, 5, 2), np.float32)
    points[1, :4], points[2, :4] = (3, 1), (6, 2)  # the fifth stays on the background
    visible = np.ones((3, 5), bool)
    way = path_of(PointTracks(points=points, visible=visible), (10.0, 20.0))
    assert way.tolist() == [[10, 20], [13, 21], [16, 22]]
    visible[2, :4] = False
    assert np.isnan(path_of(PointTracks(points=points, visible=visible), (10.0, 20.0))[2]).all()


class Drift(torch.nn.Module):
    """Moves every point by (1, 2) a frame; the second is hidden from frame 2 on."""

    def forward(self, video: torch.Tensor, queries: torch.Tensor):
        frames, points = video.shape[1], queries.shape[1]
        steps = torch.arange(frames, device=video.device).to(torch.float32)
        tracks = queries[:, None, :, 1:] + steps[None, :, None, None] * torch.tensor([1.0, 2.0])
        visible = torch.ones(1, frames, points, dtype=torch.bool)
        visible[:, 2:, 1:] = False
        return tracks, visible


def test_cotracker_as_torchscript(tmp_path, frames):
    path = tmp_path / "drift.pt"
    torch.jit.script(Drift()).save(str(path))
    tracker = CoTracker3.load(path, device="cpu")
    assert tracker.origin == "cotracker3/drift"
    tracks = tracker.track(frames[:4], np.array([[5.5, 6.5], [1.5, 1.5]], np.float32))
    assert tracks.points[3, 0].tolist() == [8.5, 12.5]
    assert tracks.points[3, 1].tolist() == [2.5, 3.5]  # where it was last seen
    assert tracks.visible[:, 1].tolist() == [True, True, False, False]


def test_cotracker_of_a_checkout_takes_safetensors_alone(tmp_path):
    (tmp_path / "hubconf.py").write_text("dependencies = []\n")
    with pytest.raises(ConfigError, match="cotracker-weights"):
        CoTracker3.load(tmp_path, device="cpu")
    with pytest.raises(ConfigError, match="pickled"):
        CoTracker3.load(tmp_path, weights=tmp_path / "a.pth", device="cpu")
    with pytest.raises(ConfigError, match="neither"):
        CoTracker3.load(tmp_path / "no", device="cpu")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match="TorchScript"):
        CoTracker3.load(broken, device="cpu")


def test_runs_and_points_of_masks():
    rng = np.random.default_rng(1)
    for number in range(20):
        mask = ndimage.gaussian_filter(rng.random((23, 31)), 2) > 0.5
        mask[0, 0], mask[-1, -1] = number % 2 == 0, number % 3 == 0
        runs = to_runs(mask)
        assert sum(runs["counts"]) == mask.size
        assert (decode_segmentation(runs, 23, 31, "") == mask).all()
        points = spread_points(mask, 9)
        assert 1 <= len(points) <= 9
        assert all(mask[int(y), int(x)] for x, y in points)
    square = np.zeros((40, 40), bool)
    square[10:30, 10:30] = True
    assert centre(square) == (20.0, 20.0)
    points = spread_points(square, 16)
    assert np.ptp(points, axis=0).min() > 12  # spread over it
    assert ((points > 11) & (points < 29)).all()  # away from its edge
