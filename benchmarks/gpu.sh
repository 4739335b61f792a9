#!/usr/bin/env bash
# The CUDA column of the fast path's table: random weights in Qwen2-VL-2B's shape, bf16, eight questions.
#
#   benchmarks/gpu.sh [--wheels DIR] [--out DIR] [ROWS ...]
#
# ROWS: equality update-g8 update-g4 update-nothink rollout step-think step-nothink memory machines, or single
# rows; none means all. `machines` trains with the keys that docs/hardware.md names for 12, 24 and 32 GB, held to
# that much memory; the others stand beside TRL. Each group is sized for less than ten minutes on an H200. A row
# whose result lies in DIR (runs/fast_path_gpu) is not measured again, so an interrupted command is simply given
# again. Uses torch (2.11 or newer) and transformers (5.17 or newer) as $PYTHON (python3) has them, and no
# network. The rows beside TRL also need torchvision and a C compiler; what is missing is said at once. --wheels
# names a folder with what TRL needs and the machine lacks, e.g. from
#   pip download --no-deps --dest DIR trl==1.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=runs/fast_path_gpu
site=$PWD/build/gpu_site
rows=()
while (($#)); do
    case $1 in
        --wheels) wheels=${2:?--wheels needs a folder}; shift 2 ;;
        --out) out=${2:?--out needs a folder}; shift 2 ;;
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit ;;
        *) rows+=("$1"); shift ;;
    esac
done
if [[ -n ${wheels:-} ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$wheels"/*.whl
fi
export PYTHONPATH=$PWD:$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}
if [[ $device == cuda ]]; then
    export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} # TRL refuses several
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
exec "$python" -m benchmarks.fast_path "${rows[@]}" --device "$device" --out "$out"
