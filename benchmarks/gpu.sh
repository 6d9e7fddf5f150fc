#!/usr/bin/env bash
# Evidence from a GPU in one run of nine minutes, on a machine without a network, Snakemake or conda (docs/performance.md).
#   benchmarks/gpu.sh pack EXPERIMENT     on the machine with the data: faces of results/EXPERIMENT and wheels into gpu/
#   benchmarks/gpu.sh run OUT             on the machine with the GPU: tests, speed and runs, in order of worth, into OUT
#   benchmarks/gpu.sh run OUT --smallest  the rehearsal on a CPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$1" = run ] && ls gpu/*.whl > /dev/null 2>&1 && ! python3 -c "import pydantic" 2> /dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/transfer-gpu gpu/*.whl
    export PYTHONPATH=/tmp/transfer-gpu
fi
exec python3 benchmarks/gpu.py "$@"
