#!/usr/bin/env bash
# WordNet as a reverse dictionary, 86,571 classes: the word for a definition, by the square loss or another.
#   ./recipes/reverse_dictionary/run.sh                           # all words: many minutes on a CPU
#   ./recipes/reverse_dictionary/run.sh --parts_of_speech verb --loss cross_entropy --seed 1
#   ./recipes/reverse_dictionary/run.sh --mini                    # some seconds; made-up words, no real dictionary
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.reverse_dictionary "$@"
