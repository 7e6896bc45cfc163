#!/usr/bin/env bash
# Compare exgate with the published packages, live, and write the golden files anew. Each package has an environment of its
# own under .oracles/: transformers changes its classes when xlstm can be imported. About 2 GB, a few minutes the first time.
# PYTHON_XLSTM and PYTHON_TRANSFORMERS name interpreters that have the packages already.
set -euo pipefail
cd "$(dirname "$0")/../.."

environment() { # environment NAME PACKAGE...: the interpreter of .oracles/NAME, made if it is not there
    local folder=.oracles/$1 python
    shift
    if [ ! -e "$folder/.ready" ]; then
        for python in python3 python3.11 python3.12 python3.13 python; do
            if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then break; fi
        done
        echo "setting up $folder ($*)" >&2
        rm -rf "$folder"
        "$python" -m venv "$folder" >&2
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch >&2
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt numpy safetensors "$@" >&2
        touch "$folder/.ready"
    fi
    echo "$folder/bin/python"
}

xlstm=${PYTHON_XLSTM:-$(environment xlstm xlstm==2.0.6 mlstm_kernels==2.0.6)}
transformers=${PYTHON_TRANSFORMERS:-$(environment transformers transformers==5.23.0)}
export PYTHONPATH=. HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
failed=0
printf '%-38s %-34s %8s\n' format compared worst
"$xlstm" -m tests.oracles.live_xlstm || failed=1
"$transformers" -m tests.oracles.live_transformers || failed=1
"$transformers" -m tests.oracles.live_llama || failed=1
"$transformers" -m tests.oracles.live_rwkv || failed=1
"$transformers" -m tests.oracles.live_mamba || failed=1
exit $failed
