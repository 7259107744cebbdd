#!/usr/bin/env bash
# An environment of its own for the lerobot package, whose pins (torch below 2.11, av below 16) egem must not have.
# tests/parity/test_lerobot_package.py then writes datasets there and reads them here, and the other way round.
#
#   tools/lerobot_env.sh [FOLDER]     FOLDER: .venv/lerobot when not given; else set EGEM_LEROBOT_PYTHON to its python
#   PYTHON=python3.11  TORCH_INDEX=https://download.pytorch.org/whl/cpu   as in tools/setup.sh; without TORCH_INDEX
#   torch comes with its CUDA libraries, 5 GB on disk
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv/lerobot}
[ -x "$folder/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check --quiet"

if [ -n "${TORCH_INDEX:-}" ]; then
    $pip install --index-url "$TORCH_INDEX" "torch<2.11" "torchvision<0.26"
fi
$pip install lerobot==0.4.4
"$folder/bin/python" -c 'import lerobot.datasets.lerobot_dataset; print("lerobot is ready")'
echo "now: .venv/bin/python -m pytest tests/parity/test_lerobot_package.py"
