#!/usr/bin/env bash
# The paper's text20: Stack Overflow questions by tag. Fine-tunes BERT with the square loss or another.
#   ./recipes/text20/run.sh --train_file stack-overflow-data.csv --loss square
#   ./recipes/text20/run.sh --train_file stack-overflow-data.csv --loss cross_entropy --seed 1
#   ./recipes/text20/run.sh --mini                                # made-up data; not the real task
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.classification --task text20 "$@"
