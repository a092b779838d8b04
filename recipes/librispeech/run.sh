#!/usr/bin/env bash
# LibriSpeech, 100 hours (the paper's: train-clean-100, dev-clean, test-clean, 1000 unigram pieces), from audio to word
# error rate, with ESPnet's wheel alone.
#   ./recipes/librispeech/run.sh --loss square                                    # k = 15, M = 30
#   ./recipes/librispeech/run.sh --loss cross_entropy --arch vgg_blstm --ngpu 1
#   ./recipes/librispeech/run.sh --loss square --corpus /data/LibriSpeech --stage 2
#   ./recipes/librispeech/run.sh --loss square --mini                             # minutes; not the real task
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

export PYTHONWARNINGS=${PYTHONWARNINGS-ignore::FutureWarning} # what PyTorch says of ESPnet's calls

exec "${PYTHON:-python}" -m sqloss_plugins asr "$here" --workdir "$here" "$@"
