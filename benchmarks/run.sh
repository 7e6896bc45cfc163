#!/usr/bin/env bash
# Every benchmark, side by side with its peers, in an environment of its own (.bench): JSON in benchmarks/results, tables
# in docs/benchmarks.md. The peers are installed here alone: mlstm_kernels is not open source and exgate never needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .bench/bin/python ]; then
    echo "setting up .bench (about a minute, 1 GB) ..."
    .venv/bin/python -m venv .bench
    .bench/bin/pip install --quiet -c constraints.txt torch
    .bench/bin/pip install --quiet -c constraints.txt xlstm==2.0.6 -e .
fi
# Fresh pages cost more than the arithmetic on some machines: every contender keeps its memory.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
.bench/bin/python -m benchmarks.cells "$@"
.bench/bin/python -m benchmarks.start
