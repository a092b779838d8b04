#!/usr/bin/env bash
# The paper's CIFAR-10: a wide residual network from scratch, or a pre-trained vision transformer.
#   ./recipes/cifar10/run.sh --loss square                       # WRN-28-20, data from the hub
#   ./recipes/cifar10/run.sh --loss cross_entropy --seed 1 --data_dir cifar-10-batches-bin --widen_factor 10
#   ./recipes/cifar10/run.sh --loss square --model_name_or_path google/vit-base-patch16-224-in21k
#   ./recipes/cifar10/run.sh --mini                              # scikit-learn's digits; not the real task
# All options: --help. Results are in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.images --task cifar10 "$@"
