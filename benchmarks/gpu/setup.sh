#!/usr/bin/env bash
# The peers of `python -m benchmarks.gpu`, in environments of their own (.bench-gpu): `current` with the PyTorch and Triton
# of exgate, and `older` where mlstm_kernels cannot run with these (Triton 3.9 has no block pointers any more). They are
# installed here alone: mlstm_kernels is not open source and exgate never needs it. FlashRNN compiles with nvcc when it is
# first called, which `--prepare` does; without nvcc its rows say so.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${1:-.venv/bin/python}"
mkdir -p .bench-gpu
make_environment() { # name, then what is installed
    local pip=".bench-gpu/$1/bin/python -m pip install --quiet --disable-pip-version-check"
    [ -x ".bench-gpu/$1/bin/python" ] || "$python" -m venv ".bench-gpu/$1"
    shift
    $pip "$1" numpy matplotlib safetensors tyro rich ninja # torch first: it decides on CUDA and Triton
    shift
    local package
    for package in "$@"; do
        $pip "$package" || echo "$package cannot be installed here: its rows will say that it is missing" >&2
    done
}
make_environment current torch -e. transformers==5.23.0 flash-linear-attention flashrnn mlstm_kernels xlstm
if .bench-gpu/current/bin/python -c 'import sys, triton; sys.exit(tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9))'; then
    make_environment older "torch==2.10.*" transformers==5.23.0 mlstm_kernels xlstm
fi
.bench-gpu/current/bin/python -m benchmarks.gpu --prepare
