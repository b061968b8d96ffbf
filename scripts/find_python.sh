#!/bin/sh
# Print the newest Python from 3.11 to 3.13 that really runs here (a pyenv shim may be found and still not run).
# PYTHON=... overrides the search; what it names must run and be of a supported version too. Minor versions given as
# arguments narrow it: find_python.sh 11.
set -u

works() {
    "$1" -c 'import ctypes, ensurepip, ssl, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        </dev/null >/dev/null 2>&1
}

is_minor() {
    "$1" -c "import sys; sys.exit(sys.version_info[1] != $2)" </dev/null >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    works "$PYTHON" && { command -v "$PYTHON"; exit 0; }
    echo "PYTHON=$PYTHON does not run, or is not Python 3.11 to 3.13 with venv, ssl and ctypes" >&2
    exit 1
fi
[ $# -gt 0 ] || set -- 13 12 11
for minor in "$@"; do
    IFS=:
    for folder in $PATH; do
        for candidate in "$folder/python3.$minor" "$folder/python3"; do
            [ -x "$candidate" ] && works "$candidate" && is_minor "$candidate" $minor && { echo "$candidate"; exit 0; }
        done
    done
    unset IFS
    for candidate in "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python3; do
        [ -x "$candidate" ] && works "$candidate" && { echo "$candidate"; exit 0; }
    done
done
echo "no working Python 3.11 to 3.13 found on PATH or in pyenv; set PYTHON=/path/to/python3" >&2
exit 1
