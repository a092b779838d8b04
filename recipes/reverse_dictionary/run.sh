#!/usr/bin/env bash
# WordNet as a reverse dictionary, 86,571 classes: the word for a definition, by the square loss or another.
#   ./recipes/reverse_dictionary/run.sh --data_dir /usr/share/wordnet
#   ./recipes/reverse_dictionary/run.sh --data_dir /usr/share/wordnet --loss cross_entropy --seed 1
#   ./recipes/reverse_dictionary/run.sh --mini                    # made-up words; no real dictionary
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.reverse_dictionary "$@"
