#!/usr/bin/env bash
# An environment of its own for SimplerEnv's WidowX tasks (ManiSkill 3, SAPIEN 3).
#
#   tools/simpler_env.sh [FOLDER]    FOLDER: .venv/simpler when not given
#   PYTHON=python3.11  TORCH_INDEX=https://download.pytorch.org/whl/cpu   as in tools/setup.sh
#   MESA=no                          do not fetch Mesa (a GPU's Vulkan, or Mesa 24.3 or newer, is installed)
#
# Without a GPU, SAPIEN draws with Mesa's lavapipe from 24.3 on. Debian 12 has 22.3; the newer one is taken from its
# backports and unpacked into FOLDER/mesa: the system is left as it is. No root is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv/simpler}
[ -x "$folder/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$folder"
folder=$(cd "$folder" && pwd)
pip="$folder/bin/python -m pip --disable-pip-version-check --quiet"

$pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
printf 'torch==2.13.0\n' > "$folder/constraints.txt"
$pip install -c "$folder/constraints.txt" mani_skill==3.0.1 sapien==3.0.3
$pip install -e packages/egem-client -e packages/egem-simulators

if [ "${MESA:-yes}" = yes ] && [ ! -f "$folder/mesa/lvp.json" ]; then
    command -v apt-get >/dev/null || { echo "simpler_env: no apt-get; install Mesa 24.3 or newer and set MESA=no" >&2; exit 1; }
    lists=$folder/apt
    mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$folder/mesa"
    cat > "$lists/sources.list" <<'END'
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-backports main
END
    apt="apt-get -qq -o Dir::Etc::sourcelist=$lists/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$lists/lists
        -o Dir::Cache=$lists/cache -o APT::Sandbox::User="
    $apt update
    (cd "$lists" && $apt download mesa-vulkan-drivers/bookworm-backports libdrm2/bookworm-backports \
        libdrm-amdgpu1/bookworm-backports libvulkan1/bookworm)
    for package in "$lists"/*.deb; do dpkg -x "$package" "$folder/mesa"; done
    library=$(find "$folder/mesa" -name libvulkan_lvp.so | head -1)
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}\n' \
        "$library" > "$folder/mesa/lvp.json"
    rm -r "$lists"
fi
"$folder/bin/python" -m egem_simulators simpler --check
echo "now: egem rollout expert --env simpler-widowx, with EGEM_SIMPLER_PYTHON=$folder/bin/python if that is not .venv/simpler"
