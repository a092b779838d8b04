#!/usr/bin/env bash
# The paper's ImageNet: ResNet-50 or EfficientNet-B0 from scratch, with the square loss or another.
#   ./recipes/imagenet/run.sh --data_dir imagenet --loss square --bf16
#   ./recipes/imagenet/run.sh --data_dir imagenet --loss cross_entropy --arch efficientnet --bf16
#   ./recipes/imagenet/run.sh --mini                             # scikit-learn's digits; not the real task
# All options: --help. Results are in the folder of each run.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.images --task imagenet "$@"
