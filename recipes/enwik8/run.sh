#!/usr/bin/env bash
# The paper's enwik8: Transformer-XL on bytes of Wikipedia, with the square loss or another.
#   ./recipes/enwik8/run.sh --data_dir corpora --loss square                     # k = M = 1, the paper's
#   ./recipes/enwik8/run.sh --data_dir corpora --loss square --rescaling level   # k = 15, M = 8.5
#   ./recipes/enwik8/run.sh --data_dir corpora --loss cross_entropy
#   ./recipes/enwik8/run.sh --mini                                               # minutes; not enwik8
# All options: --help. Results are in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.characters --task enwik8 "$@"
