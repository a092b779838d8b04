#!/usr/bin/env bash
# A language model on text files, causal or masked, from scratch or fine-tuned, with the square loss or another.
#   ./recipes/language_model/run.sh --loss square
#   ./recipes/language_model/run.sh --loss cross_entropy --train_file text.txt --learning_rate 1e-3
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.language_model "$@"
