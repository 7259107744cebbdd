"""Drawing without a display: find an OpenGL platform; then pictures, depth and geom ids of a MuJoCo model."""

import importlib
import importlib.util
import logging
import os
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from egem.core.errors import RenderError

_log = logging.getLogger(__name__)

PLATFORMS = ("egl", "osmesa")
"""MuJoCo's platforms that need no display, in the order they are tried."""

_REMEDY = (
    "Install EGL with 'apt-get install libegl1 libgl1-mesa-dri' or OSMesa with 'apt-get install libosmesa6'."
)
_PROBE = """
from mujoco import gl_context
context = gl_context.GLContext(16, 16)
context.make_current()
from OpenGL import GL
name = GL.glGetString(GL.GL_RENDERER)
print("renderer=" + (name.decode() if name else "unknown"), flush=True)
import os
os._exit(0)
"""


def find_renderer() -> str:
    """Choose how MuJoCo draws, before MuJoCo is imported for the first time.

    Each platform is tried in a short child process, so that a broken driver cannot take this one down. The
    choice is left in `MUJOCO_GL`, where this process's children find it and do not look again; a value that
    the user has put there is kept as it is.

    Returns:
        "egl" or "osmesa" (or what the user put into `MUJOCO_GL`).

    Raises:
        RenderError: neither platform works; the message names the packages to install.
    """
    # One software rasteriser thread: small pictures gain nothing from more, and processes then scale.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen:
        return chosen
    if importlib.util.find_spec("mujoco") is None:
        raise RenderError("the package 'mujoco' is not installed; run 'pip install mujoco'.")
    if sys.platform.startswith("linux") and "mujoco" in sys.modules:
        raise RenderError(
            "mujoco was imported before a renderer was chosen; set MUJOCO_GL=egl in the environment, or call "
            "find_renderer() first."
        )
    problems = []
    for platform in PLATFORMS:
        name, problem = _probe(platform)
        if name is not None:
            _log.info("rendering with %s: %s", platform, name)
            os.environ["MUJOCO_GL"] = platform
            return platform
        problems.append(f"{platform}: {problem}")
    raise RenderError(f"no renderer works without a display ({'; '.join(problems)}). {_REMEDY}")


def load_mujoco() -> Any:
    """Import MuJoCo with a renderer chosen; the only way it is imported here.

    Raises:
        RenderError: no renderer can be had.
    """
    find_renderer()
    return importlib.import_module("mujoco")


def _probe(platform: str) -> tuple[str | None, str]:
    environment = {**os.environ, "MUJOCO_GL": platform, "PYOPENGL_PLATFORM": platform}
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    for line in child.stdout.splitlines():
        if line.startswith("renderer="):
            return line.removeprefix("renderer="), ""
    last = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
    return None, last[0]


class Painter:
    """Draws one model from its cameras at one size.

    A picture costs two passes: colour with shadows, then geom ids, whose depth buffer is the depth map.
    """

    def __init__(self, model: Any, height: int, width: int) -> None:
        """Open an OpenGL context and upload the model's meshes and textures.

        Args:
            model: MjModel; its offscreen buffer must be at least height x width.
            height: rows.
            width: columns.

        Raises:
            RenderError: the platform named by `MUJOCO_GL` does not work here.
        """
        mujoco = load_mujoco()
        gl_context: Any = importlib.import_module("mujoco.gl_context")
        self._mujoco = mujoco
        self._model = model
        self._shape = (height, width)
        if gl_context.GLContext is None:
            raise RenderError(f"MUJOCO_GL={os.environ.get('MUJOCO_GL')} gives no OpenGL context. {_REMEDY}")
        try:
            self._window: Any = gl_context.GLContext(width, height)
            self._window.make_current()
            self._context: Any = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # each platform has exceptions of its own
            problem = f"MUJOCO_GL={os.environ.get('MUJOCO_GL')} does not work here: {error}."
            raise RenderError(f"{problem} {_REMEDY}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._scene: Any = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nlight + model.ncam + 16)
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self.close = weakref.finalize(self, _release, self._context, self._window)
        """Frees the context; also called when the interpreter ends."""

    def draw(
        self, data: Any, camera: int
    ) -> tuple[
        UInt8[np.ndarray, "height width 3"],
        Float[np.ndarray, "height width"],
        Int[np.ndarray, "height width"],
    ]:
        """What a camera of the model sees.

        Args:
            data: MjData after forward kinematics.
            camera: its number in the model.

        Returns:
            Colour; depth along the optical axis in metres, float32, 0 where nothing was hit; geom id, int32,
            -1 where nothing was hit.
        """
        mujoco, height, width = self._mujoco, *self._shape
        self._window.make_current()
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(image, None, self._rectangle, self._context)
        colors = np.empty((height, width, 3), np.uint8)
        buffer = np.empty((height, width), np.float32)
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(colors, buffer, self._rectangle, self._context)
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        geoms = self._geoms(colors)
        depth = np.where(geoms < 0, np.float32(0), self._metres(buffer))
        return np.flipud(image).copy(), np.flipud(depth).copy(), np.flipud(geoms).copy()

    def _geoms(self, colors: UInt8[np.ndarray, "height width 3"]) -> Int[np.ndarray, "height width"]:
        """Colour of the id pass to geom id; colour n + 1 is the n-th thing of the abstract scene."""
        drawn = self._scene.geoms[: self._scene.ngeom]
        kind = int(self._mujoco.mjtObj.mjOBJ_GEOM)
        table = np.full(len(drawn) + 1, -1, np.int32)
        table[1:] = [g.objid if g.objtype == kind else -1 for g in drawn]
        wide = colors.astype(np.int32)
        return table[wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]]

    def _metres(self, buffer: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
        """Reversed depth buffer (near = 1, far = 0) to metres: z = near far / (near + b (far - near))."""
        near = float(np.float32(self._model.vis.map.znear * self._model.stat.extent))
        far = float(np.float32(self._model.vis.map.zfar * self._model.stat.extent))
        return (near * far / (near + buffer.astype(np.float64) * (far - near))).astype(np.float32)


def _release(context: Any, window: Any) -> None:
    window.make_current()
    context.free()
    window.free()
