#!/usr/bin/env bash
# An environment of its own for LIBERO, whose pins (robosuite 1.4.0, mujoco 3.8.1, numpy 1) egem must not have.
#
#   tools/libero_env.sh [FOLDER]     FOLDER: .venv/libero when not given
#   PYTHON=python3.11  TORCH_INDEX=https://download.pytorch.org/whl/cpu   as in tools/setup.sh
#
# The meshes and textures are not in the package: docs/simulators.md says where they come from.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv/libero}
[ -x "$folder/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check --quiet"

# torch reads the initial states; first and by exact version, so that nothing below brings another build of it.
$pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
# Without their dependencies: robomimic would pull torchvision, and with it another torch with CUDA packages.
$pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1
# mujoco: robosuite 1.4.0 fails with 3.17 and 4. numpy: its segmentation overflows with 2.
$pip install mujoco==3.8.1 numpy==1.26.4 numba==0.68.1 "scipy<1.18" pillow "opencv-python-headless<5" easydict \
    "gymnasium>=0.29" future pyyaml networkx cloudpickle matplotlib h5py termcolor
$pip install -e packages/egem-client -e packages/egem-simulators
"$folder/bin/python" -m egem_simulators libero --check
echo "now: egem rollout expert --env libero, with EGEM_LIBERO_PYTHON=$folder/bin/python if that is not .venv/libero"
