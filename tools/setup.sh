#!/usr/bin/env bash
# Makes .venv with everything `make demo`, `make test` and `make check` need. Safe to run again.
#   PYTHON=python3.12        another interpreter (3.11 or newer)
#   TORCH_INDEX=URL          another index for torch, e.g. https://download.pytorch.org/whl/cpu (no CUDA packages)
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.installed
wanted=$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

fail() { echo "setup: $*" >&2; exit 1; }

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.11 python3.12 python3.13 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] || fail "Python 3.11 or newer is needed; install it or name it: make demo PYTHON=/path/to/python3.11"

# A failed attempt may have left a python without pip behind.
if ! $venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv $venv || fail "could not create $venv; on Debian: apt-get install python3-venv"
fi
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"

echo "setup: installing Python packages into $venv (once, some minutes)" >&2
# torch first and by exact version: a range would take the newest build with its CUDA packages on top.
torch=$(grep '^torch==' constraints.txt)
$pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch" || fail "pip could not install $torch; is a package index reachable?"
$pip install -c constraints.txt -e packages/egem-client -e '.[dev]' || fail "pip could not install the packages of pyproject.toml; see its message above"
# Without its dependencies: it declares numpy below 2, and works with 2. Tests let it talk to `egem serve`.
$pip install --no-deps openpi-client==0.1.2 || fail "pip could not install openpi-client; see its message above"

# Drawing without a display needs Mesa's EGL or OSMesa.
if ! $venv/bin/python -c 'from egem.worlds.tabletop import find_renderer; find_renderer()' 2>/dev/null; then
    packages="libegl1 libgl1-mesa-dri libosmesa6"
    command -v apt-get >/dev/null || fail "no renderer found; install Mesa's EGL or OSMesa with your system's package manager"
    if [ "$(id -u)" = 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root=sudo; else
        fail "no renderer found and apt-get needs root: run  sudo apt-get install -y $packages  and make again"
    fi
    echo "setup: installing $packages" >&2
    $as_root apt-get update -qq && $as_root apt-get install -y -qq $packages >/dev/null \
        || fail "apt-get could not install $packages; install them by hand and make again"
    $venv/bin/python -c 'from egem.worlds.tabletop import find_renderer; find_renderer()' \
        || fail "still no renderer after installing $packages; see the message above"
fi
echo "$wanted" > "$stamp"
