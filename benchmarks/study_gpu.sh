#!/usr/bin/env bash
# The study on one GPU: several processes share the card, each takes the next run that nobody is at.
#   benchmarks/study_gpu.sh OUT [PROCESSES] [options of egem study tabletop-gpu]
set -euo pipefail
out=${1:?usage: benchmarks/study_gpu.sh OUT [PROCESSES] [options]}
processes=${2:-6}
shift $(($# < 2 ? $# : 2))
mkdir -p "$out"
egem=${EGEM:-.venv/bin/egem}
for number in $(seq "$processes"); do
    OMP_NUM_THREADS=2 "$egem" study tabletop-gpu --out "$out" --device cuda --workers 1 "$@" \
        >"$out/process-$number.log" 2>&1 &
done
wait
# What one process found in the hands of another that was killed is made now.
"$egem" study tabletop-gpu --out "$out" --device cuda "$@"
"$egem" study tabletop-gpu --report "$@"
