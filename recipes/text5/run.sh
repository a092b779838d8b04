#!/usr/bin/env bash
# The paper's text5: Titles of papers by conference. Fine-tunes BERT with the square loss or another.
#   ./recipes/text5/run.sh --train_file title_conference.csv --loss square
#   ./recipes/text5/run.sh --train_file title_conference.csv --loss cross_entropy --seed 1
#   ./recipes/text5/run.sh --mini                                # made-up data; not the real task
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.classification --task text5 "$@"
