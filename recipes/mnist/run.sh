#!/usr/bin/env bash
# The paper's MNIST: digits read pixel by pixel, in a permuted order, by a temporal convolutional network.
#   ./recipes/mnist/run.sh --loss square                         # data from the hub, or:
#   ./recipes/mnist/run.sh --loss cross_entropy --seed 1 --data_dir MNIST/raw
#   ./recipes/mnist/run.sh --mini                                # scikit-learn's digits; not the real task
# All options: --help. Results are in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.images --task mnist "$@"
