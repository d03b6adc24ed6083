#!/bin/sh
# The kernel and index tests under the oldest Numba that pyproject.toml allows and under the newest one.
#
#   sh benchmarks/two_numbas.sh [FOLDER] [pytest arguments]
#
# Makes a virtual environment for each in FOLDER (new; default: a temporary one), installs the package there with its test
# extra, and prints the outcome of both; exit code 1 if one failed. PYTHON names another interpreter than python3; it
# must be one that the oldest Numba knows (0.61: Python 3.10 to 3.13). About 2 GB and, with one core, half an hour.

cd "$(dirname "$0")/.." || exit 2
root=$PWD
folder=${1:-$(mktemp -d)}
[ $# -gt 0 ] && shift
python=${PYTHON:-python3}
oldest=$(sed -n 's/^ *"numba>=\([0-9.]*\)".*/\1/p' pyproject.toml)
unset PYTHONPATH
export PYTHONDONTWRITEBYTECODE=1

failed=0
summary=""
for wanted in "numba==$oldest" "numba"; do
    venv=$folder/$wanted
    "$python" -m venv "$venv" || exit 2
    "$venv/bin/pip" install --quiet --upgrade "$root[test]" "$wanted" || exit 2
    export NUMBA_CACHE_DIR="$venv/kernels"
    found=$("$venv/bin/python" -c 'import llvmlite, numba, numpy
print("numba", numba.__version__, "llvmlite", llvmlite.__version__, "numpy", numpy.__version__)')
    echo "--- $found"
    # not "python -m pytest", which would import the package from here
    "$venv/bin/pytest" -q -p no:cacheprovider tests/kernels tests/indexes "$@" >"$venv/log" 2>&1 || failed=1
    tail -n 25 "$venv/log"
    summary="$summary
$found: $(tail -n 1 "$venv/log")"
done
echo "$summary"
exit $failed
