#!/usr/bin/env bash
# Download the packages that benchmarks.gpu needs on a GPU machine without internet, as wheels.
#
#   benchmarks/gpu_wheels.sh [FOLDER]     default: carried/wheels
#
# That machine has Python 3.12, PyTorch for CUDA 13.0, transformers, Lightning, PEFT, accelerate,
# TensorBoard, pyarrow, pandas, xxhash and what these depend on. Fails if the wheels are larger than 55 MB (10^6 bytes) in all.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-carried/wheels}
python=${PYTHON:-python}
limit=55000000

trl=$("$python" -c 'from benchmarks.baselines import LIBRARIES; print(*LIBRARIES["trl"])')
packages=(
    bitsandbytes==0.50.2     # 4-bit weights, 8-bit optimizer
    datasets==5.2.0          # rows; with dill and multiprocess
    dill==0.4.1
    multiprocess==0.70.19
    jsonargparse==4.53.0     # options of fit; with docstring-parser and typeshed-client
    docstring-parser==0.18.0
    typeshed-client==2.15.0
    liger-kernel==0.8.5      # fused kernels
    "$trl"                   # the library compared with
)
platforms=()
for version in 2_17 2_24 2_28; do
    platforms+=(--platform "manylinux_${version}_x86_64")
done

mkdir -p "$folder"
rm -f "$folder"/*.whl
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --dest "$folder" "${packages[@]}"
"$python" -m benchmarks.repack_bitsandbytes "$folder"/bitsandbytes-*.whl

ls -l "$folder"
bytes=$(cat "$folder"/*.whl | wc -c)
echo "$((bytes / 1000)) kB in $folder"
if [ "$bytes" -gt "$limit" ]; then
    echo "error: expected at most $((limit / 1000)) kB of wheels" >&2
    exit 1
fi
