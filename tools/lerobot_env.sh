#!/usr/bin/env bash
# An environment of its own for the lerobot package, whose pins (torch below 2.11, av below 16) egem must not have.
# tests/parity/test_lerobot_package.py then writes datasets there and reads them here, and the other way round.
#
#   tools/lerobot_env.sh [FOLDER]     FOLDER: .venv/lerobot when not given; else set EGEM_LEROBOT_PYTHON to its python
#   PYTHON=python3.11  TORCH_INDEX=https://download.pytorch.org/whl/cpu   as in tools/setup.sh; without TORCH_INDEX
#   torch comes with its CUDA libraries, 5 GB on disk
#   LEROBOT='lerobot[dataset]==0.6.1' PYTHON=python3.12   another release
# Where `uv` is on the PATH it installs, in a few minutes; pip looks at many versions of many packages first.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv/lerobot}
lerobot=${LEROBOT:-lerobot==0.4.4}
fail() { echo "lerobot_env: $*" >&2; exit 1; }

[ -x "$folder/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$folder" || fail "could not create $folder"
if command -v uv >/dev/null; then
    install() { uv pip install --quiet --python "$folder/bin/python" "$@"; }
else
    install() { "$folder/bin/python" -m pip --disable-pip-version-check --quiet install "$@"; }
fi

if [ -n "${TORCH_INDEX:-}" ]; then
    install --index-url "$TORCH_INDEX" "torch<2.11" "torchvision<0.26" || fail "no torch from $TORCH_INDEX"
fi
install "$lerobot" || fail "could not install $lerobot; see the message above"
"$folder/bin/python" -c 'import lerobot.datasets.lerobot_dataset; print("lerobot is ready")'
echo "now: EGEM_LEROBOT_PYTHON=$folder/bin/python .venv/bin/python -m pytest tests/parity/test_lerobot_package.py"
