#!/usr/bin/env bash
# Square loss against cross-entropy on a GLUE task: for each loss a learning rate chosen on validation from the same
# grid (first seed), then all seeds at that rate, then one table.
#   ./recipes/glue/run.sh --task mrpc
#   ./recipes/glue/run.sh --task mrpc --data_dir GLUE/MRPC --seeds "1 2 3" --num_train_epochs 5
# Whatever is not listed here goes to run_glue_sq.py. A run that is finished is not repeated; one that was killed goes on.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

task=mrpc
losses="square cross_entropy"
learning_rates="2e-5 5e-5 1e-4"
seeds="1 2 3 4 5"
exp=                                # folder of all runs; by default runs/<task>-grid
python=${PYTHON:-python}

options=()
while [ $# -gt 0 ]; do
    case $1 in --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac
    case $1 in --*-*) name=${1#--}; set -- "--${name//-/_}" "${@:2}" ;; esac
    case $1 in
        --task|--losses|--learning_rates|--seeds|--exp)
            [ $# -ge 2 ] || { echo "run.sh: error: $1 needs a value" >&2; exit 2; }
            printf -v "${1#--}" '%s' "$2"; shift 2 ;;
        -h|--help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --loss|--learning_rate|--seed|--output_dir)
            echo "run.sh: error: $1 is what this script varies: see --losses, --learning_rates, --seeds, --exp" >&2; exit 2 ;;
        *) options+=("$1"); shift ;;
    esac
done
for name in losses learning_rates seeds; do
    [[ ${!name} =~ [^[:space:]] ]] || { echo "run.sh: error: --$name is empty" >&2; exit 2; }
done
for loss in $losses; do
    case $loss in square|cross_entropy|squentropy) ;; *)
        echo "run.sh: error: --losses: no loss $loss; choose from square, cross_entropy, squentropy" >&2; exit 2 ;;
    esac
done
[ "$task" != stsb ] || { echo "run.sh: error: stsb is a regression, which both losses train alike: see run_glue_sq.py" >&2; exit 2; }
exp=${exp:-runs/$task-grid}

train() {  # loss, learning rate, seed
    "$python" "$root/run_glue_sq.py" --task "$task" --loss "$1" --learning_rate "$2" --seed "$3" \
        --output_dir "$exp/$1-lr$(printf %g "$2")-s$3" "${options[@]+"${options[@]}"}"
}

read -r first others <<< "$seeds"
for loss in $losses; do
    for rate in $learning_rates; do
        status=0
        train "$loss" "$rate" "$first" || status=$?
        [ "$status" -le 1 ] || exit "$status"   # 1: the training diverged, and with another rate it may not
    done
done
for loss in $losses; do
    best=$("$python" -m sqloss_plugins.experiments.compare "$exp" --best_lr "$loss")
    for seed in $others; do
        train "$loss" "$best" "$seed"
    done
done
"$python" -m sqloss_plugins.experiments.compare "$exp" --json "$exp/comparison.json"
