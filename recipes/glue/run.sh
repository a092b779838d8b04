#!/usr/bin/env bash
# Square loss against cross-entropy on a GLUE task: for each loss a learning rate chosen on validation from the same
# grid (first seed), then all seeds at that rate, then one table.
#   ./recipes/glue/run.sh --task mrpc
#   ./recipes/glue/run.sh --task mrpc --data_dir GLUE/MRPC --seeds 1,2,3 --num_train_epochs 5
# It is sqloss sweep glue, with a grid of its own; all options: --help. A run that is finished is not repeated; one that
# was killed goes on.
set -euo pipefail

exec "${PYTHON:-python}" -m sqloss_plugins sweep glue --grid learning_rate=2e-5,5e-5,1e-4 "$@"
