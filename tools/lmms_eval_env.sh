#!/usr/bin/env bash
# A second environment in which lmms-eval can be imported beside egem, so that our scores can be held against
# its own functions: tests/parity/test_lmms_eval.py. lmms-eval pins versions that the project's own environment
# must not have, so it is installed without its dependencies, with what its scoring functions import.
#
#   tools/lmms_eval_env.sh [FOLDER]      FOLDER: .venv/lmms-eval when not given
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-.venv/lmms-eval}"
python="${PYTHON:-python3.11}"
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
# The packages that egem itself needs are there already; .pth makes them visible without a second download.
site="$("$folder/bin/python" -c 'import site; print(site.getsitepackages()[0])')"
own="$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')"
printf '%s\n%s\n' "$PWD/src" "$own" > "$site/egem.pth"
"$folder/bin/python" -m pip install --quiet --no-deps lmms-eval
"$folder/bin/python" -m pip install --quiet loguru pandas pytz sqlitedict tenacity pytablewriter evaluate \
    sacrebleu scikit-learn nltk openai httpx
"$folder/bin/python" -c 'import lmms_eval.tasks.vsibench.utils; print("lmms-eval is ready")'
echo "now: $folder/bin/python -m pytest tests/parity/test_lmms_eval.py"
