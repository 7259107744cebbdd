"""Shapes and types of every public function are checked while tests run; nothing is checked in training."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", "0")

from jaxtyping import install_import_hook

_hook = install_import_hook("egem", "beartype.beartype")
_hook.__enter__()  # stays for the whole run
