#!/usr/bin/env bash
# CMU AN4 (census data, 948 + 130 utterances) from audio to word error rate, with ESPnet's wheel alone.
#   ./recipes/an4/run.sh --loss square
#   ./recipes/an4/run.sh --loss cross_entropy --arch vgg_blstm --corpus AN4 --seed 1
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

export PYTHONWARNINGS=${PYTHONWARNINGS-ignore::FutureWarning} # what PyTorch says of ESPnet's calls

exec "${PYTHON:-python}" -m sqloss_plugins asr "$here" --workdir "$here" "$@"
