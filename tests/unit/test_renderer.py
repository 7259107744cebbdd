"""A renderer is found or its absence explained; depth is metres along the optical axis."""

import os
import subprocess
import sys

import numpy as np
import pytest

from egem.core.errors import RenderError
from egem.worlds.tabletop import renderer
from egem.worlds.tabletop.model import compile_model
from egem.worlds.tabletop.renderer import Painter, find_renderer, load_mujoco


@pytest.fixture
def unchosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process."""
    monkeypatch.setenv("MUJOCO_GL", "")  # So that what the test leaves there is taken back.
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)


def test_import_has_no_side_effects_and_a_renderer_is_found() -> None:
    code = (
        "import os, sys, egem.worlds.tabletop as t\n"
        "assert 'mujoco' not in sys.modules and 'MUJOCO_GL' not in os.environ\n"
        "assert 'torch' not in sys.modules\n"
        "found = t.find_renderer()\n"
        "assert os.environ['MUJOCO_GL'] == found and 'mujoco' not in sys.modules\n"
        "print(found, os.environ['LP_NUM_THREADS'])"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "LP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() in (["egl", "1"], ["osmesa", "1"])


def test_users_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "OSMesa")
    assert find_renderer() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "OSMesa"


@pytest.mark.usefixtures("unchosen")
def test_second_platform_when_the_first_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"egl": (None, "broken driver"), "osmesa": ("llvmpipe", "")}
    monkeypatch.setattr(renderer, "_probe", lambda platform: answers[platform])
    assert find_renderer() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.usefixtures("unchosen")
def test_no_platform_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_probe", lambda platform: (None, f"no lib{platform}"))
    with pytest.raises(RenderError) as raised:
        find_renderer()
    assert str(raised.value) == (
        "no renderer works without a display (egl: no libegl; osmesa: no libosmesa). Install EGL with "
        "'apt-get install libegl1 libgl1-mesa-dri' or OSMesa with 'apt-get install libosmesa6'."
    )
    assert "MUJOCO_GL" not in os.environ


def test_probe_of_a_broken_platform_says_why_and_survives() -> None:
    name, problem = renderer._probe("no-such-platform")
    assert name is None
    assert "no-such-platform" in problem


def test_mujoco_imported_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    load_mujoco()
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(RenderError, match="imported before a renderer was chosen; set MUJOCO_GL=egl"):
        find_renderer()


def test_depth_is_metric_and_ids_are_geoms() -> None:
    mujoco = load_mujoco()
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><statistic extent="1" center="0 0 0"/><visual><map znear="0.01" zfar="12"/>'
        '<global offwidth="96" offheight="64"/></visual><worldbody><light pos="0 0 3"/>'
        '<geom type="box" size="0.5 3 0.1" pos="0 0 -0.1"/>'
        '<camera name="c" pos="0.3 -1.1 0.9" xyaxes="1 0 0 0 0.6 0.8" fovy="55"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    painter = Painter(model, 64, 96)
    image, depth, geoms = painter.draw(data, 0)
    painter.close()
    assert image.shape == (64, 96, 3)
    assert depth.dtype == np.float32
    # Ray through each pixel's centre; the camera looks along -z with axes x, (0 .6 .8), z = x cross y.
    focal = 32 / np.tan(np.radians(55) / 2)
    columns, rows = np.meshgrid(np.arange(96) + 0.5 - 48, np.arange(64) + 0.5 - 32)
    axes = np.array([[1, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]])
    rays = np.stack([columns / focal, -rows / focal, -np.ones_like(rows)], axis=-1) @ axes
    with np.errstate(divide="ignore"):
        z = -0.9 / rays[..., 2]  # depth at which the ray meets the plane z = 0
    hit = np.array([0.3, -1.1, 0.9]) + z[..., None] * rays
    on_top = (z > 0) & (np.abs(hit[..., 0]) < 0.49) & (np.abs(hit[..., 1]) < 2.99)
    assert on_top.mean() > 0.2
    assert (geoms[on_top] == 0).all()
    np.testing.assert_allclose(depth[on_top], z[on_top], rtol=2e-5)
    missed = geoms == -1
    assert missed.mean() > 0.1
    assert (depth[missed] == 0).all()


def test_a_context_that_fails_is_a_render_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from mujoco import gl_context

    load_mujoco()
    model = compile_model(32, 32)

    def broken(width: int, height: int) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(gl_context, "GLContext", broken)
    with pytest.raises(RenderError, match=r"does not work here: no device\. Install EGL with 'apt-get"):
        Painter(model, 32, 32)


def test_size_out_of_range() -> None:
    with pytest.raises(RenderError, match="a picture of 8 x 32 was asked for; sides go from 16 to 2048"):
        compile_model(8, 32)
