#!/usr/bin/env bash
# Every benchmark, side by side with its peers, in an environment of its own (.bench): JSON in benchmarks/results, tables
# and plots in docs. The peers are installed here alone: mlstm_kernels is not open source and exgate never needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
peers="xlstm==2.0.6 transformers==5.23.0"
if [ "$(cat .bench/.peers 2>/dev/null)" != "$peers" ]; then
    echo "setting up .bench (about a minute, 1 GB) ..."
    [ -x .bench/bin/python ] || .venv/bin/python -m venv .bench
    .bench/bin/pip install --quiet -c constraints.txt torch
    .bench/bin/pip install --quiet -c constraints.txt $peers -e .
    echo "$peers" >.bench/.peers
fi
# Fresh pages cost more than the arithmetic on some machines: every contender keeps its memory.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
failed=0
for script in cells growth train_lm decode start; do
    .bench/bin/python -m "benchmarks.$script" "$@" || { echo "benchmarks/$script.py failed" >&2; failed=1; }
done
case " $* " in
*" --quick "*) ;; # nothing was kept
*) .venv/bin/python -m benchmarks.report || failed=1 ;;
esac
exit $failed
