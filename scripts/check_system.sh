#!/bin/sh
# Prints the Python 3.11 to use; where it or a system library is missing, says so in one line with the remedy.
#
#     sh scripts/check_system.sh              # python3.11, else python3 if it is 3.11
#     sh scripts/check_system.sh PYTHON       # this one
set -eu

fail() {
    echo "leep: $*" >&2
    exit 1
}

is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

python=
if [ -n "${1:-}" ]; then
    is_311 "$1" || fail "$1 is not Python 3.11; give one that is, e.g. make PYTHON=/path/to/python3.11"
    python=$1
else
    for candidate in python3.11 python3; do
        if is_311 "$candidate"; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "Python 3.11 not found; install it (apt-get install python3.11 python3.11-venv," \
        "uv python install 3.11, or conda env create -f environment.yml), or give make PYTHON=/path/to/python3.11"
fi

"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "$python has no venv module; install it, e.g. apt-get install python3.11-venv"

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    echo "leep: MXNet 1.9.1 is tested here on Linux x86_64 only, this is $(uname -s) $(uname -m)" >&2

# Loaded, not looked up: ldconfig knows nothing of a conda environment's libraries.
"$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' >/dev/null 2>&1 ||
    fail "libgomp.so.1 not found, which MXNet needs; install it, e.g. apt-get install libgomp1 (Fedora: dnf install libgomp)"

echo "$python"
