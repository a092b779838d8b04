#!/usr/bin/env bash
# A corpus of your own, from audio files and their text to word error rate, with ESPnet's wheel alone.
#   ./recipes/any/run.sh my_corpus --train train.tsv --loss square
#   ./recipes/any/run.sh my_corpus --train train.tsv --valid dev.tsv --test test.tsv --loss cross_entropy --ngpu 1
# All options: --help. Manifests: README.md here. Results: in the folder of each run.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

export PYTHONWARNINGS=${PYTHONWARNINGS-ignore::FutureWarning} # what PyTorch says of ESPnet's calls

exec "${PYTHON:-python}" -m sqloss_plugins asr --workdir "$here" "$@"
