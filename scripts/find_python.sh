#!/bin/sh
# Prints the path of a Python that runs, or ends with status 1:
#
#     sh scripts/find_python.sh python3.13    # that name, else the one that pyenv has and does not select
set -eu

name=${1:-python3}
for candidate in "$name" "$(pyenv root 2>/dev/null || true)"/versions/*/bin/"$name"; do
    if "$candidate" -c '' >/dev/null 2>&1; then
        command -v "$candidate"
        exit
    fi
done
exit 1
