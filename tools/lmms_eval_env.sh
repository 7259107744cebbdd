#!/usr/bin/env bash
# A second environment in which lmms-eval can be imported beside egem, so that our scores can be held against
# its own functions: tests/parity/test_lmms_eval.py. lmms-eval pins versions that the project's own environment
# must not have, so it is installed without its dependencies, with what its scoring functions import.
# Needs .venv (`make setup`), a package index, and a minute. Safe to run again: what is there is kept.
#
#   tools/lmms_eval_env.sh [FOLDER]      FOLDER: .venv/lmms-eval when not given
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-.venv/lmms-eval}"
release=lmms-eval==0.7.3
needs="loguru pandas pytz sqlitedict tenacity pytablewriter evaluate sacrebleu scikit-learn nltk openai httpx"
fail() { echo "lmms_eval_env: $*" >&2; exit 1; }

[ -x .venv/bin/python ] || fail "there is no .venv; run  make setup  first"
stamp="$folder/.installed"
wanted="$(sha256sum "$0" | cut -d' ' -f1) $PWD"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "lmms_eval_env: installing $release into $folder (once)" >&2
.venv/bin/python -m venv --without-pip --clear "$folder" || fail "could not create $folder"
# The packages that egem itself needs are there already; .pth makes them visible without a second download.
paths='import sysconfig; print(sysconfig.get_path("purelib"))'
printf '%s\n%s\n' "$PWD/src" "$(.venv/bin/python -c "$paths")" > "$("$folder/bin/python" -c "$paths")/egem.pth"
# Twice quiet: that lmms-eval's pins are not met is what is wanted here. Errors are still printed.
pip=".venv/bin/python -m pip --python $folder/bin/python --disable-pip-version-check -qq"
install="install --no-compile --no-warn-conflicts"
$pip $install --no-deps "$release" || fail "pip could not download $release (its message is above); is a package index reachable?"
$pip $install $needs || fail "pip could not download what $release imports (its message is above); is a package index reachable?"
"$folder/bin/python" -c 'import lmms_eval.tasks.vsibench.utils' || fail "$release is installed but cannot be imported"
echo "$wanted" > "$stamp"
echo "now: $folder/bin/python -m pytest tests/parity/test_lmms_eval.py"
