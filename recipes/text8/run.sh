#!/usr/bin/env bash
# The paper's text8: Transformer-XL on characters, with the square loss or another.
#   ./recipes/text8/run.sh --data_dir corpora --loss square              # corpora/text8 or corpora/text8.zip
#   ./recipes/text8/run.sh --data_dir corpora --loss cross_entropy --seed 1
#   ./recipes/text8/run.sh --mini                                        # minutes; Python's own reference, not text8
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.characters --task text8 "$@"
