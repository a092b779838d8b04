#!/usr/bin/env bash
# TIMIT (LDC93S1), from audio to phone or character error rate, with ESPnet's wheel alone.
#   ./recipes/timit/run.sh --loss square --trans_type phn --corpus /data/TIMIT    # k = 1, M = 15
#   ./recipes/timit/run.sh --loss square --trans_type char --corpus /data/TIMIT --rescaling paper    # k = 1, M = 1
#   ./recipes/timit/run.sh --loss square --trans_type phn --mini                  # minutes; not the real task
# All options: --help. Results: in the folder of each run.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

export PYTHONWARNINGS=${PYTHONWARNINGS-ignore::FutureWarning} # what PyTorch says of ESPnet's calls

exec "${PYTHON:-python}" -m sqloss_plugins asr "$here" --workdir "$here" "$@"
