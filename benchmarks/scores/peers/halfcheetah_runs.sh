#!/bin/bash
# Every d3rlpy score of benchmarks/scores/raw/control.jsonl, one process and one thread at a time: halfcheetah_runs.sh PYTHON LOGS
set -u
here=$(dirname "$(readlink -f "$0")")
python=${1:?the python of the peers environment}
logs=${2:?the folder of halfcheetah-medium-replay.npz}
export OMP_NUM_THREADS=1
for seed in 0 1 2; do
    for run in "td3_bc 20000" "iql 20000" "cql 6000"; do
        read -r algorithm steps <<<"$run"
        "$python" "$here/d3rlpy_scores.py" "$algorithm" "$logs/halfcheetah-medium-replay.npz" \
            --environment HalfCheetah-v5 --seed "$seed" --steps "$steps" || echo "failed: $algorithm seed $seed"
    done
done
