#!/usr/bin/env bash
# Run exgate's forecasters inside the libraries that they have adapters to. Each library has an environment of its own under
# .adapters/, because they ask for different pandas: 1 to 2 GB each, a few minutes the first time.
# bash tests/adapters/run.sh [NAME...]: those that are named, else all.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages() { # packages NAME: what its environment has besides what all have
    case $1 in
        neuralforecast) echo neuralforecast==3.3.0 pandas==3.1.1 pytorch-lightning==2.6.6 ray==2.60.0 ;;
        gluonts) echo gluonts==0.17.0 pandas==2.3.3 ;;
        sktime) echo sktime==1.2.0 pandas==3.0.6 scikit-learn==1.9.1 scipy==1.17.1 ;;
        *) echo "There is no adapter to $1; there are neuralforecast, gluonts and sktime." >&2; return 2 ;;
    esac
}

environment() { # environment NAME: .adapters/NAME, made if it is not there
    local folder=.adapters/$1 python pip
    if [ -e "$folder/.ready" ]; then return; fi
    for python in python3 python3.11 python3.12 python3.13 python; do
        if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then break; fi
    done
    echo "setting up $folder ($(packages "$1"))"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0)
    "${pip[@]}"
    # shellcheck disable=SC2046
    "${pip[@]}" numpy==2.4.6 safetensors==0.8.0 tyro==1.0.17 rich==15.0.0 utilsforecast==0.2.17 pytest==9.2.0 \
        pytest-timeout==2.4.0 $(packages "$1")
    touch "$folder/.ready"
}

if [ $# -eq 0 ]; then set -- neuralforecast gluonts sktime; fi
for name in "$@"; do packages "$name" >/dev/null; done
export OMP_NUM_THREADS=1
failed=0
for name in "$@"; do
    environment "$name"
    files=("tests/adapters/test_$name.py")
    if [ "$name" = gluonts ]; then files+=(tests/forecast); fi # it refuses pandas 3: here, all runs with pandas 2
    echo "== $name: $(packages "$name")"
    # What these libraries warn of is theirs.
    ".adapters/$name/bin/python" -m pytest -q -W ignore --disable-warnings "${files[@]}" || failed=1
done
exit $failed
