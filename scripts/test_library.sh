#!/usr/bin/env bash
# Tests the library as a user has it: the wheel, in an environment of its own with the newest NumPy, SciPy, numba …
#
#     scripts/test_library.sh [PYTHON [NUMPY [ARGUMENTS OF PYTEST …]]]
#     scripts/test_library.sh python3.13
#     scripts/test_library.sh python3.10 1.23.5
#     EXTRA=onnx scripts/test_library.sh python3.13          # and `leep rank` with ONNX Runtime
set -euo pipefail
cd "$(dirname "$0")/.."

# They import neither MXNet nor Hydra.
tests=(measures class_tasks statistics tasks results data weights plots cli)
extra=${EXTRA:-}
if [ -n "$extra" ]; then
    tests+=(models model_pass probe ranking explain fine_tuning rank_command rank_page)
fi
most=1000000 # bytes of the wheel

python=$(sh scripts/find_python.sh "${1:-python3}") || {
    echo "leep: ${1:-python3} not found; give make PYTHON=/path/to/python" >&2
    exit 1
}
numpy=${2:-}
venv=.venv-library-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')${numpy:+-numpy$numpy}${extra:+-${extra//,/-}}
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
rm -rf build # setuptools would pack what an earlier call left there
pip wheel --no-deps -w "$wheels" .
wheel=$(echo "$wheels"/*.whl)
pip install --upgrade --upgrade-strategy eager "$wheel${extra:+[$extra]}" ${numpy:+"numpy==$numpy"} 'pytest==9.*' 'hypothesis==6.*'
pip install --force-reinstall --no-deps "$wheel" # the version number stays the same, the code does not

size=$(wc -c <"$wheel")
echo "$venv: $(basename "$wheel"), $size bytes, $("$venv/bin/leep" --version), $(
    "$venv/bin/python" -c 'import platform, numpy, scipy, numba, pandas
print("Python", platform.python_version(), *(f"{m.__name__} {m.__version__}" for m in (numpy, scipy, numba, pandas)))'
)"
[ "$size" -lt "$most" ] || {
    echo "leep: the wheel must have less than $most bytes" >&2
    exit 1
}
if "$venv/bin/python" -c 'import mxnet' 2>/dev/null; then
    echo "leep: MXNet must not be a dependency of the library" >&2
    exit 1
fi

# `pytest` and an empty pythonpath: `leep` is the installed one, not the folder here.
files=("${tests[@]/#/tests/test_}")
OMP_NUM_THREADS=1 "$venv/bin/pytest" -q -o pythonpath= -p no:cacheprovider "${files[@]/%/.py}" "${@:3}"
